"""The plan: every object that a resource needs, as values.

A *revision* is the hash of all that needs a restart. Its *pin* is the same hash K apart: a new K is a new revision of
the same pin, moved by the K policy and never put on trial.

``plan`` is a function of the resolved spec, the effective K and the engine files. Replica counts of revisions
are no part of it: :mod:`gemmaspec.core.rollout` sets them from what is observed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import orjson

from gemmaspec.api import identity
from gemmaspec.api.spec import Accelerator, Method, TransformersMode
from gemmaspec.core import caches, live, names
from gemmaspec.core.owner import Owner as Owner
from gemmaspec.core.pod import config_key, most_utilization, of_revision, pod_template
from gemmaspec.core.resolve import Resolved

# Length of a revision's name. 10 hexadecimal digits: with the 20 revisions that one resource may see in a day a
# collision within a decade has a probability below 1e-2 ppm (birthday bound, 2**40 values).
REVISION_LENGTH = 10
GIB = 1024**3
BENCHMARK_PORT = 8472
BENCHMARK_SECONDS = 14_400
# Whose memory the engine takes, in the launcher's words: GB10 shares the host's, other GPUs have their own.
DEVICES = {Accelerator.GB10: "cuda", Accelerator.ANY: "discrete", Accelerator.CPU: "cpu"}


@dataclass(frozen=True)
class Plan:
    """Objects of a resource. ``shared`` serve every revision; config and deployment belong to ``revision``."""

    owner: Owner
    revision: str
    pin: str
    k: int
    engine: str
    shared: tuple[dict[str, Any], ...]
    config: dict[str, Any]
    deployment: dict[str, Any]


def plan(
    owner: Owner,
    resolved: Resolved,
    k: int,
    files: Mapping[str, str],
    agent: str | None = None,
    pin: str | None = None,
) -> Plan:
    """Objects for this spec at ``k``; ``files`` maps paths of engine files to their text.

    agent: the token of the agent that moves K in the running engine. The revision then depends on the grid of K
    and not on ``k``. pin: what :func:`pin_of` gives, where it is known.
    """
    if agent:
        k = max(live.grid(resolved))
    proved = pin_file(resolved, files)
    template = pod_template(owner.name, resolved, k, "", files, agent)
    revision = revision_of(template, proved)
    pin = pin or pin_of(owner.name, resolved, files, agent)
    return Plan(
        owner=owner,
        revision=revision,
        pin=pin,
        k=k,
        engine=engine_identity(resolved),
        shared=(service_account(owner), service(owner, resolved), disruption_budget(owner)),
        config=config_map(owner, revision, files, proved, resolved.given),
        deployment=deployment(owner, resolved, k, revision, of_revision(template, owner.name, revision), pin),
    )


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


@lru_cache(maxsize=256)
def file_digest(text: str) -> str:
    """SHA-256 of an engine file; a release has a few dozen of them, and every pass asks for all."""
    return hashlib.sha256(text.encode()).hexdigest()


def revision_of(template: Mapping[str, Any], pin: str) -> str:
    """Name of the revision: the hash of all that needs a restart (pod template and pin, which hashes the files)."""
    return digest([template, pin])[:REVISION_LENGTH]  # the pin holds every file's hash


def pin_of(name: str, resolved: Resolved, files: Mapping[str, str], agent: str | None = None) -> str:
    """The revision's hash, K apart: of what it would be with one draft token a step."""
    k = 0 if resolved.method is Method.OFF else 1
    template = pod_template(name, replace(resolved, k=k), k, "", files, agent)
    return revision_of(template, pin_file(resolved, files))


def engine_identity(resolved: Resolved) -> str:
    """Hash of what makes drafts be accepted or not: image, target, drafter, method, quantization. K apart."""
    spec = resolved.spec
    assert spec.model is not None
    drafter = spec.speculative.drafter if spec.speculative else None
    value = [
        resolved.image,
        resolved.target,
        spec.model.revision,
        spec.model.quantization,
        spec.model.kv_cache_dtype,
        str(resolved.method),
        drafter.model_dump() if drafter else None,
        _transformers_pin(resolved),
        _patch_pins(resolved),
    ]
    if image := caches.sealed(resolved):
        value.append(image.reference)  # whatever the names say, these are the weights
    return digest(value)[:REVISION_LENGTH]


def pin_file(resolved: Resolved, files: Mapping[str, str]) -> str:
    """``pin.json``: what the launcher proves before every start of the engine."""
    spec = resolved.spec
    memory, most = spec.memory, most_utilization(resolved)
    value: dict[str, Any] = {
        "files": {path: file_digest(text) for path, text in sorted(files.items())},
        "vllm": spec.engine.vllm if spec.engine else None,
        "memory": {
            "device": DEVICES[resolved.accelerator],
            "mode": str(memory.utilization_mode) if memory and memory.utilization_mode else "Fixed",
            "utilization": resolved.utilization,
            "reserveBytes": int(memory.reserve_gi_b * GIB) if memory and memory.reserve_gi_b else 0,
            **({} if most is None else {"maxUtilization": most}),
        },
        "maxRestarts": spec.rollout.max_restarts,
        "stateDir": names.STATE_DIR,
        "image": resolved.image,
        "transformers": _transformers_pin(resolved),
        "patches": _patch_pins(resolved),
        "patchDir": names.PATCH_DIR,
    }
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"


def _transformers_pin(resolved: Resolved) -> dict[str, Any] | None:
    asked = resolved.spec.engine.transformers if resolved.spec.engine else None
    if asked is None:
        return None
    mode = asked.mode or TransformersMode.VERIFY
    pin: dict[str, Any] = {"mode": str(mode), "version": asked.version}
    if asked.git:
        pin["git"] = {"url": asked.git.url, "commit": asked.git.commit}
    if mode is TransformersMode.INSTALL:
        pin["overlayDir"] = names.OVERLAY_DIR
    return pin


def _patch_pins(resolved: Resolved) -> list[dict[str, Any]]:
    patches = (resolved.spec.engine.patches if resolved.spec.engine else None) or []
    pins = []
    for i, patch in enumerate(patches):
        place = {"url": patch.source.url} if patch.source.url else {"path": f"{names.PATCH_SOURCES}/{i}/module.py"}
        pins.append({"module": patch.module, "sha256": patch.sha256, **place})
    return pins


def _metadata(owner: Owner, name: str, **labels: str) -> dict[str, Any]:
    reference = {
        "apiVersion": identity.API_VERSION,
        "kind": identity.KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": names.labels(owner.name) | labels,
        "ownerReferences": [reference],
    }


def service_account(owner: Owner) -> dict[str, Any]:
    """The engine pods' own account, with no rights and no token."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(owner, owner.name),
        "automountServiceAccountToken": False,
    }


def service(owner: Owner, resolved: Resolved) -> dict[str, Any]:
    """The Service in front of the engines of every revision."""
    asked = resolved.spec.service
    metadata = _metadata(owner, owner.name)
    metadata["labels"] = (asked.labels or {}) | metadata["labels"]
    if asked.annotations:
        metadata["annotations"] = dict(asked.annotations)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": str(asked.type),
            "selector": names.selector(owner.name),
            "ports": [{"name": "http", "port": resolved.port, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def disruption_budget(owner: Owner) -> dict[str, Any]:
    """One engine at a time may be evicted, and one that does not serve always: a drain never hangs."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(owner, owner.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": names.selector(owner.name)},
        },
    }


def config_map(
    owner: Owner, revision: str, files: Mapping[str, str], pin: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The engine files of a revision, and the spec that renders it: from that a later K of it is rendered when the
    spec asks for another. Immutable: a running engine never sees them change.
    """
    data = {config_key(path): text for path, text in sorted(files.items())} | {"pin.json": pin}
    metadata = _metadata(owner, names.revision_object(owner.name, revision), **{names.REVISION_LABEL: revision})
    # In the metadata, since nothing else of ConfigMaps is watched.
    metadata["annotations"] = {names.SPEC_ANNOTATION: orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": data,
    }


def learned_config_map(owner: Owner, gist: str) -> dict[str, Any]:
    """What agents have learnt, without its data; ``gist`` is the annotation of :mod:`gemmaspec.core.learned`."""
    metadata = _metadata(owner, names.learned_object(owner.name))
    metadata["annotations"] = {names.LEARNED_ANNOTATION: gist}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def benchmark_config_map(owner: Owner, name: str, key: str, text: str, summary: str) -> dict[str, Any]:
    """A benchmark's whole result, and in short what the status tells of it."""
    metadata = _metadata(owner, name)
    metadata["annotations"] = {names.BENCHMARK_ANNOTATION: summary}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": {key: text}}


def benchmark_job(
    owner: Owner, resolved: Resolved, name: str, image: str, question: Mapping[str, Any]
) -> dict[str, Any]:
    """The Job that measures: the operator's own image, with no rights and no token. Its pod is no engine's: it bears no
    label by which those are selected.
    """
    asked = resolved.spec.benchmark
    assert asked is not None
    labels = {names.MANAGED_BY: names.FIELD_MANAGER, names.BENCHMARK_LABEL: owner.name}
    labels |= {"app.kubernetes.io/name": "gemmaspec-benchmark", "app.kubernetes.io/instance": owner.name}
    container = {
        "name": names.BENCHMARK_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/local/bin/python3", "-m", "gemmaspec.bench"],  # as the Dockerfile starts the operator
        "env": _benchmark_environment(resolved, question),
        "ports": [{"name": "wish", "containerPort": BENCHMARK_PORT}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    nodes = resolved.spec.nodes
    tolerations = [entry.model_dump(exclude_none=True) for entry in (nodes.tolerations if nodes else None) or ()]
    pod = {
        "serviceAccountName": owner.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        **({"tolerations": tolerations} if tolerations else {}),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(owner, name),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": asked.deadline_seconds or BENCHMARK_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _benchmark_environment(resolved: Resolved, question: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked, key = resolved.spec.benchmark, resolved.spec.service.api_key_secret_ref
    told = orjson.dumps(question, option=orjson.OPT_SORT_KEYS).decode()
    found: list[dict[str, Any]] = [{"name": "GEMMASPEC_BENCH", "value": told}]
    if asked is not None and asked.prompts is not None:
        reference = {"name": asked.prompts.name, "key": asked.prompts.key}
        found.append({"name": "GEMMASPEC_BENCH_PROMPTS", "valueFrom": {"configMapKeyRef": reference}})
    if key is not None:
        found.append({"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}}})
    return found


def deployment(
    owner: Owner, resolved: Resolved, k: int, revision: str, template: Mapping[str, Any], pin: str
) -> dict[str, Any]:
    """The Deployment of one revision. Its template never changes; only its replica count does."""
    match = names.selector(owner.name) | {names.REVISION_LABEL: revision}
    metadata = _metadata(owner, names.revision_object(owner.name, revision), **{names.REVISION_LABEL: revision})
    metadata["annotations"] = {names.K_ANNOTATION: str(k), names.PIN_ANNOTATION: pin}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 0,
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": resolved.spec.rollout.startup_seconds + 600,
            "selector": {"matchLabels": match},
            "template": template,
        },
    }
