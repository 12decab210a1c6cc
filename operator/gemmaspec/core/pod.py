"""The pod template of one revision: one engine, alone on its box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmaspec.api.spec import Accelerator, EnvVar, Patch, SecretKeyRef, TransformersMode
from gemmaspec.core import caches, live, names
from gemmaspec.core.arguments import engine_arguments
from gemmaspec.core.resolve import DEFAULT_UTILIZATION, GB10_MEMORY_GIB, Resolved

# Feature discovery's name of the GPU, and the one it gets under time-slicing.
GB10_PRODUCTS = ["NVIDIA-GB10", "NVIDIA-GB10-SHARED"]
# Endpoint removal reaches every kube-proxy within this time; until then a leaving engine still takes requests.
PRE_STOP_SECONDS = 5
# What the launcher gives clients to leave before vLLM drains (gemmaspec_engine.leaving).
PARTING_SECONDS = 10
# After the drain vLLM frees its device and exits; a 31B engine takes a few seconds.
TEARDOWN_SECONDS = 15
PROBE_PERIOD_SECONDS = 5


def pod_template(
    name: str, resolved: Resolved, k: int, revision: str, files: Mapping[str, str], agent: str | None = None
) -> dict[str, Any]:
    """Pod template for ``revision``; ``files`` are the engine files (path -> text) that its ConfigMap holds.

    agent: the token of the agent that moves K in the running engine; None where K is moved by restart.
    """
    spec = resolved.spec
    labels = names.labels(name) | {names.REVISION_LABEL: revision}
    grace = PRE_STOP_SECONDS + PARTING_SECONDS + spec.rollout.drain_seconds + TEARDOWN_SECONDS
    body: dict[str, Any] = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        # A Service called `vllm` would otherwise put VLLM_PORT=tcp://… into the engine's environment.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": security(resolved),
        "initContainers": init_containers(resolved, k, agent),
        "containers": [engine_container(resolved, k, agent)],
        "volumes": volumes(name, resolved, revision, files),
    }
    body |= placement(resolved)
    annotations = {names.K_ANNOTATION: str(k)} | ({names.ACTUATOR_ANNOTATION: "Live"} if agent else {})
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": body}


def security(resolved: Resolved) -> dict[str, Any]:
    """The pod's security context; as the image's own user unless the spec names another."""
    user = _user(resolved)
    context: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if user is None:
        return context
    # A cache of a claim may hold files of root's: they are given away once, and not looked through at every start.
    shared = {"fsGroup": user, "fsGroupChangePolicy": "OnRootMismatch"}
    return context | {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user} | shared


def _user(resolved: Resolved) -> int | None:
    return resolved.spec.engine.run_as_user if resolved.spec.engine else None


def of_revision(template: Mapping[str, Any], name: str, revision: str) -> dict[str, Any]:
    """The template that was made for revision "", for ``revision``."""
    metadata, spec = template["metadata"], template["spec"]
    files, *others = spec["volumes"]
    named = {**files, "configMap": {**files["configMap"], "name": names.revision_object(name, revision)}}
    labels = {**metadata["labels"], names.REVISION_LABEL: revision}
    return {"metadata": {**metadata, "labels": labels}, "spec": {**spec, "volumes": [named, *others]}}


def init_containers(resolved: Resolved, k: int, agent: str | None = None) -> list[dict[str, Any]]:
    """Preflight, then the download of weights where any come from a hub."""
    containers = [preflight_container(resolved, k, agent)]
    downloads = repositories(resolved) and not caches.sealed(resolved)
    return [*containers, weights_container(resolved)] if downloads else containers


def repositories(resolved: Resolved) -> list[str]:
    """Repositories to download, as ``name@revision``; absolute paths are in the image already."""
    model = resolved.spec.model
    drafter = resolved.spec.speculative.drafter if resolved.spec.speculative else None
    asked = [(resolved.target, model.revision if model else None)]
    if resolved.method.needs_drafter and drafter and drafter.model:
        asked.append((drafter.model, drafter.revision))
    hub = [(name, revision) for name, revision in asked if not name.startswith("/")]
    return [f"{name}@{revision}" if revision else name for name, revision in dict.fromkeys(hub)]


def weights_container(resolved: Resolved) -> dict[str, Any]:
    """Brings target and drafter into the weight cache; reports its progress on the engine's port.

    The port is declared once, by the engine: the API server warns of a second time.
    """
    command = ["python3", "-m", "gemmaspec_engine.weights", "--port", str(resolved.port)]
    command += ["--state-dir", names.STATE_DIR]
    for repository in repositories(resolved):
        command += ["--model", repository]
    mounted = ("engine", "state", "cache", "weights", "tmp")
    return {
        "name": names.WEIGHTS_CONTAINER,
        "image": resolved.image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [*environment(resolved), *_token(resolved)],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount for mount in _mounts(resolved) if mount["name"] in mounted],
    }


def preflight_container(resolved: Resolved, k: int, agent: str | None = None) -> dict[str, Any]:
    """The proof of the pin, before weights load: the engine's own image, arguments, environment and resources."""
    mounts = [mount for mount in _mounts(resolved) if mount["name"] not in ("patches", "overlay")]
    if _patches(resolved):
        mounts.append({"name": "patches", "mountPath": names.PATCH_DIR})
        mounts += [
            {"name": f"patch-{i}", "mountPath": f"{names.PATCH_SOURCES}/{i}", "readOnly": True}
            for i, patch in enumerate(_patches(resolved))
            if patch.source.config_map
        ]
    if _overlay(resolved):
        mounts.append({"name": "overlay", "mountPath": names.OVERLAY_DIR})
    container = _container(resolved, k, names.PREFLIGHT_CONTAINER, "preflight", mounts, agent)
    # The API key is of no use to preflight: with it, a Secret that is missing is told by the first container, and not
    # only once the weights are there.
    return {**container, "env": [*environment(resolved), *_token(resolved), *_api_key(resolved)]}


def _container(
    resolved: Resolved, k: int, name: str, module: str, mounts: list[dict[str, Any]], agent: str | None
) -> dict[str, Any]:
    """What the two containers share."""
    return {
        "name": name,
        "image": resolved.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", f"gemmaspec_engine.{module}", "--"],
        "args": engine_arguments(resolved, k, live=agent is not None),
        "env": environment(resolved, engine=name == names.ENGINE_CONTAINER, agent=agent),
        "resources": resources(resolved),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _patches(resolved: Resolved) -> list[Patch]:
    return (resolved.spec.engine.patches if resolved.spec.engine else None) or []


def _overlay(resolved: Resolved) -> bool:
    transformers = resolved.spec.engine.transformers if resolved.spec.engine else None
    return transformers is not None and transformers.mode is TransformersMode.INSTALL


def _mounts(resolved: Resolved) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "engine", "mountPath": names.ENGINE_MOUNT, "readOnly": True},
        {"name": "state", "mountPath": names.STATE_DIR},
        {"name": "cache", "mountPath": names.CACHE_DIR},
        *caches.mounts(resolved),
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 (a mount, not a temporary file)
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    if _patches(resolved):
        mounts.append({"name": "patches", "mountPath": names.PATCH_DIR, "readOnly": True})
    if _overlay(resolved):
        mounts.append({"name": "overlay", "mountPath": names.OVERLAY_DIR, "readOnly": True})
    return mounts


def engine_container(resolved: Resolved, k: int, agent: str | None = None) -> dict[str, Any]:
    """The engine's container: the launcher, which starts and supervises vLLM."""
    health = {"path": "/health", "port": "http"}
    # vLLM looks at the path only; a launcher that parked on purpose answers these two, so that nobody restarts it.
    alive = health | {"path": "/health?or=parked"}
    startup = resolved.spec.rollout.startup_seconds
    own: dict[str, Any] = {
        "ports": [{"name": "http", "containerPort": resolved.port, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": alive,
            "periodSeconds": PROBE_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "failureThreshold": -(-startup // PROBE_PERIOD_SECONDS),
        },
        "readinessProbe": {"httpGet": health, "periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 3},
        # vLLM's /health fails only when its engine is dead; slow answers under load are no death.
        "livenessProbe": {"httpGet": alive, "periodSeconds": 10, "timeoutSeconds": 20, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
    }
    if agent:
        own["ports"].append({"name": "agent", "containerPort": live.AGENT_PORT, "protocol": "TCP"})
        # Tokens are the pulse: vLLM's /health stays 200 while a livelocked engine gives nothing.
        own["livenessProbe"] |= {"httpGet": {"path": "/livez", "port": "agent"}, "timeoutSeconds": 10}
    return _container(resolved, k, names.ENGINE_CONTAINER, "launch", _mounts(resolved), agent) | own


def environment(resolved: Resolved, *, engine: bool = False, agent: str | None = None) -> list[dict[str, Any]]:
    """Environment of the pod's containers: what the operator needs, then the user's; the engine's own on top."""
    spec = resolved.spec
    fixed = {
        "PYTHONPATH": names.ENGINE_MOUNT,
        "GEMMASPEC_PIN": names.PIN_PATH,
        "HOME": f"{names.CACHE_DIR}/home",
        "HF_HOME": names.WEIGHTS_DIR,
        "XDG_CACHE_HOME": f"{names.CACHE_DIR}/xdg",
        "XDG_CONFIG_HOME": f"{names.CACHE_DIR}/config",
        **caches.environment(resolved),
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM gives up on its own engine after 10 minutes unless told otherwise: shorter than a large cold boot.
        "VLLM_ENGINE_READY_TIMEOUT_S": str(spec.rollout.startup_seconds),
    }
    if agent:
        fixed |= live.environment(agent, resolved)
    if _user(resolved) is not None:
        fixed["USER"] = "engine"  # torch asks for the user's name, and images have none for any number
    given = {variable.name: _variable(variable) for variable in (spec.engine.env if spec.engine else None) or []}
    for name in caches.compile_variables(resolved):
        given.pop(name, None)  # a recipe names a directory of its image; the field that asks for a cache wins
    if repositories(resolved):
        # Who downloads must reach the hub; the engine must not: its weights are there, and nothing else may be had.
        given.pop("HF_HUB_OFFLINE", None)
        fixed |= {"HF_HUB_OFFLINE": "1"} if engine or caches.sealed(resolved) else {}
    variables = [{"name": name, "value": value} for name, value in fixed.items() if name not in given]
    if engine:
        variables += _api_key(resolved)
        variables += [{"name": "GEMMASPEC_ASKER_SHA256", "value": resolved.asker}] if resolved.asker else []
    return variables + list(given.values())


def _api_key(resolved: Resolved) -> list[dict[str, Any]]:
    ref = resolved.spec.service.api_key_secret_ref
    return [_secret("VLLM_API_KEY", ref)] if ref else []


def _token(resolved: Resolved) -> list[dict[str, Any]]:
    """The hub's token, for the containers that talk to the hub and no others."""
    cache = resolved.spec.cache
    ref = cache.download.token_secret_ref if cache and cache.download else None
    return [_secret("HF_TOKEN", ref)] if ref else []


def _secret(name: str, ref: SecretKeyRef) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}


def _variable(variable: EnvVar) -> dict[str, Any]:
    source = variable.value_from
    if source and source.secret_key_ref:
        return _secret(variable.name, source.secret_key_ref)
    if source and source.config_map_key_ref:
        ref = {"name": source.config_map_key_ref.name, "key": source.config_map_key_ref.key}
        return {"name": variable.name, "valueFrom": {"configMapKeyRef": ref}}
    return {"name": variable.name, "value": variable.value or ""}


def memory_budget_gib(resolved: Resolved) -> float | None:
    """GiB of the node's memory that a GB10 engine plans with; None where memory is not the node's own.

    Memory is unified there: the budget is the pod's memory request, so that the scheduler counts it. ``Auto`` knows its
    share only in the pod: until then as much is kept for it as it may take.
    """
    if resolved.accelerator is not Accelerator.GB10:
        return None
    return (resolved.utilization or DEFAULT_UTILIZATION) * GB10_MEMORY_GIB


def most_utilization(resolved: Resolved) -> float | None:
    """The largest share that ``Auto`` may come to; None where the user requested memory, and so knows what it needs."""
    engine = resolved.spec.engine
    given = engine.resources.requests if engine and engine.resources else None
    auto = resolved.accelerator is Accelerator.GB10 and resolved.utilization is None
    return DEFAULT_UTILIZATION if auto and not (given and given.memory) else None


def resources(resolved: Resolved) -> dict[str, Any]:
    """Requests and limits; the user's amounts win over the derived ones."""
    engine = resolved.spec.engine
    given = engine.resources if engine else None
    requests = given.requests.model_dump(exclude_none=True) if given and given.requests else {}
    limits = given.limits.model_dump(exclude_none=True) if given and given.limits else {}
    budget = memory_budget_gib(resolved)
    if budget is not None:
        requests = {"memory": f"{int(budget * 1024)}Mi"} | requests
    if resolved.accelerator is not Accelerator.CPU:
        limits = {"nvidia.com/gpu": "1"} | limits
        requests = {"nvidia.com/gpu": "1"} | requests
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def volumes(name: str, resolved: Resolved, revision: str, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """Volumes of the pod. The state volume survives restarts of the container: it holds the boot count."""
    items = [{"key": config_key(path), "path": path} for path in sorted([*files, "pin.json"])]
    shm = "1Gi" if resolved.accelerator is Accelerator.CPU else "8Gi"
    return [
        {"name": "engine", "configMap": {"name": names.revision_object(name, revision), "items": items}},
        {"name": "state", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        *caches.volumes(resolved),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}},
        {"name": "tmp", "emptyDir": {}},
        *_pin_volumes(resolved),
    ]


def _pin_volumes(resolved: Resolved) -> list[dict[str, Any]]:
    """Volumes that preflight fills, and the ConfigMaps that it reads patches from.

    The sources are optional: a missing one is preflight's to report, with a remedy, not the kubelet's.
    """
    found: list[dict[str, Any]] = []
    if _patches(resolved):
        found.append({"name": "patches", "emptyDir": {}})
    for i, patch in enumerate(_patches(resolved)):
        source = patch.source.config_map
        if source:
            items = [{"key": source.key, "path": "module.py"}]
            config_map = {"name": source.name, "items": items, "optional": True}
            found.append({"name": f"patch-{i}", "configMap": config_map})
    if _overlay(resolved):
        found.append({"name": "overlay", "emptyDir": {}})
    return found


def config_key(path: str) -> str:
    """Key of a file in the ConfigMap: keys can't hold a slash."""
    return path.replace("/", ".")


def by_label(resolved: Resolved) -> bool:
    """Whether nodes are chosen by the labels of GB10 boxes: a selector of the user's replaces them."""
    nodes = resolved.spec.nodes
    return resolved.accelerator is Accelerator.GB10 and not (nodes and nodes.selector)


def placement(resolved: Resolved) -> dict[str, Any]:
    """Node selection: GB10 affinity unless a selector replaces it, tolerations, runtime class."""
    nodes = resolved.spec.nodes
    placed: dict[str, Any] = {}
    if nodes and nodes.selector:
        placed["nodeSelector"] = dict(nodes.selector)
    elif by_label(resolved):
        terms = [
            {"key": "nvidia.com/gpu.product", "operator": "In", "values": GB10_PRODUCTS},
            {"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]},
        ]
        required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
        placed["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    if nodes and nodes.tolerations:
        placed["tolerations"] = [entry.model_dump(exclude_none=True) for entry in nodes.tolerations]
    default = "nvidia" if resolved.accelerator is Accelerator.GB10 else ""
    runtime = nodes.runtime_class_name if nodes and nodes.runtime_class_name is not None else default
    if runtime:
        placed["runtimeClassName"] = runtime
    return placed
