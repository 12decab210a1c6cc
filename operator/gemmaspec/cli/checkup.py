"""What GemmaSpecDeploy needs of a cluster, and what of it is missing: a pure function of what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gemmaspec.api import crd, identity
from gemmaspec.core.pod import GB10_PRODUCTS, by_label, placement
from gemmaspec.core.problem import Stalling
from gemmaspec.core.recipe import Recipe
from gemmaspec.core.resolve import Resolved, resolve

GPU: Final = "nvidia.com/gpu"
PRODUCT: Final = "nvidia.com/gpu.product"
SHOWN: Final = 5
KEY_VOLUME: Final = "key"
INSTALL: Final = (
    "`helm install gemmaspec charts/gemmaspec -n gemmaspec-system --create-namespace "
    "--set image.repository=REGISTRY/operator`, as README tells"
)

Object = Mapping[str, Any]


class Grade(StrEnum):
    """How a finding is meant: in order, worth knowing, to be mended, not to be seen."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and what to do ("" for nothing)."""

    subject: str
    grade: Grade
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Unseen:
    """What could not be seen: the API server's words, and whether it is a matter of rights."""

    why: str
    forbidden: bool


@dataclass(frozen=True)
class Seen:
    """What was seen of a cluster. Unseen: one may not look, or it failed; None: there is nothing of the kind."""

    server: str
    version: str
    served: bool | Unseen
    definition: Object | Unseen | None
    operators: Sequence[Object] | Unseen
    key: bool | Unseen | None
    metrics: str | Unseen | None
    monitors: int | Unseen | None
    nodes: Sequence[Object] | Unseen
    runtime_classes: Sequence[str] | Unseen
    resources: Sequence[Object] | Unseen


def findings(seen: Seen, recipes: Mapping[str, Recipe]) -> list[Finding]:
    """All findings, in the order in which one would mend."""
    wanted = _resolved(seen.resources, recipes)
    return [
        _cluster(seen),
        _definition(seen),
        _operator(seen.operators),
        _key(seen),
        _nodes(seen.nodes, any(by_label(entry) for entry in wanted)),
        *_runtime_classes(seen.runtime_classes, wanted),
        _metrics(seen.metrics),
        _monitors(seen.monitors),
        *_resources(seen.resources),
    ]


def key_secret(operator: Object) -> str | None:
    """Name of the Secret with the key for the agents' tokens, by the operator's Deployment."""
    volumes = operator["spec"]["template"]["spec"].get("volumes") or ()
    return next((entry["secret"]["secretName"] for entry in volumes if entry["name"] == KEY_VOLUME), None)


def _resolved(resources: Sequence[Object] | Unseen, recipes: Mapping[str, Recipe]) -> list[Resolved]:
    found: list[Resolved] = []
    for resource in () if isinstance(resources, Unseen) else resources:
        try:
            found.append(resolve(resource.get("spec") or {}, recipes))
        except Stalling:  # its condition Stalled tells
            continue
    return found


def _unseen(subject: str, unseen: Unseen) -> Finding:
    if unseen.forbidden:
        return Finding(subject, Grade.UNSEEN, unseen.why, "ask for the right to look; docs/plugin.md has a role")
    return Finding(subject, Grade.UNSEEN, unseen.why, "try again")


def _cluster(seen: Seen) -> Finding:
    return Finding("cluster", Grade.OK, f"Kubernetes {seen.version} at {seen.server}")


def _definition(seen: Seen) -> Finding:
    subject = "definition"
    apply = "`kubectl apply --server-side -k crds` of this release, or upgrade the chart"
    if seen.served is False or seen.definition is None:
        remedy = f"{INSTALL}; for the definition alone {apply}"
        return Finding(subject, Grade.MISSING, f"{identity.PLURAL}.{identity.GROUP} is not installed", remedy)
    if isinstance(seen.definition, Unseen):
        if isinstance(seen.served, Unseen):
            return _unseen(subject, seen.served)
        return Finding(subject, Grade.OK, f"{identity.API_VERSION} is served (of which release can't be seen)")
    ours, theirs = set(_fields(crd.definition())), set(_fields(seen.definition))
    if lacking := sorted(ours - theirs):
        return Finding(subject, Grade.MISSING, f"older than this release: it lacks {_some(lacking)}", apply)
    if more := sorted(theirs - ours):
        words = f"newer than this program: it adds {_some(more)}"
        return Finding(subject, Grade.NOTE, words, "use the `gemmaspec` of the operator's release")
    return Finding(subject, Grade.OK, f"{identity.API_VERSION}, the fields of this release")


def _fields(definition: Object) -> Iterator[str]:
    """Paths of all fields of the version that this release knows."""
    for version in definition["spec"]["versions"]:
        if version["name"] == identity.VERSION:
            yield from _paths(version["schema"]["openAPIV3Schema"], "")


def _paths(schema: Object, path: str) -> Iterator[str]:
    for name, child in (schema.get("properties") or {}).items():
        yield f"{path}.{name}".lstrip(".")
        yield from _paths(child, f"{path}.{name}")
    if isinstance(schema.get("items"), Mapping):
        yield from _paths(schema["items"], f"{path}[]")


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def _operator(operators: Sequence[Object] | Unseen) -> Finding:
    subject = "operator"
    if isinstance(operators, Unseen):
        return _unseen(subject, operators)
    if not operators:
        return Finding(subject, Grade.MISSING, "no Deployment is labelled app.kubernetes.io/name=gemmaspec", INSTALL)
    if len(operators) > 1:
        names = ", ".join(_name(entry) for entry in operators)
        words = f"{names}: two that watch the same namespaces write over each other"
        return Finding(
            subject, Grade.NOTE, words, "keep one, or give each namespaces of its own (GEMMASPEC_NAMESPACES)"
        )
    (operator,) = operators
    image = operator["spec"]["template"]["spec"]["containers"][0]["image"]
    where = f"{_name(operator)}, {image}"
    if not (operator.get("status") or {}).get("availableReplicas"):
        namespace, name = operator["metadata"]["namespace"], operator["metadata"]["name"]
        remedy = (
            f"`kubectl -n {namespace} describe deployment {name}` and `kubectl -n {namespace} logs deployment/{name}`"
        )
        return Finding(subject, Grade.MISSING, f"{where}: none is available", remedy)
    return Finding(subject, Grade.OK, where)


def _name(entry: Object) -> str:
    return f"{entry['metadata']['namespace']}/{entry['metadata']['name']}"


def _key(seen: Seen) -> Finding:
    subject = "key"
    if isinstance(seen.key, Unseen):
        return _unseen(subject, seen.key)
    if seen.key is None or isinstance(seen.operators, Unseen) or not seen.operators:
        return Finding(subject, Grade.UNSEEN, "there is no operator that names one", "install the operator first")
    operator = seen.operators[0]
    namespace, name = operator["metadata"]["namespace"], key_secret(operator)
    if seen.key:
        return Finding(subject, Grade.OK, f"Secret {namespace}/{name} is there: K can be moved live")
    remedy = (
        f'`kubectl -n {namespace} create secret generic {name} --from-literal=key="$(openssl rand -hex 32)"`, then '
        "restart the operator; engines restart with it"
    )
    return Finding(subject, Grade.NOTE, f"Secret {namespace}/{name} is not there: K is moved by restarts only", remedy)


def _nodes(nodes: Sequence[Object] | Unseen, needed: bool) -> Finding:
    subject = "nodes"
    if isinstance(nodes, Unseen):
        return _unseen(subject, nodes)
    grade = Grade.MISSING if needed else Grade.NOTE
    labelled = [node for node in nodes if _labels(node).get(PRODUCT) in GB10_PRODUCTS]
    boards = [node for node in labelled if _labels(node).get("kubernetes.io/arch") == "arm64"]
    offering = [node for node in boards if _gpus(node)]
    if not boards:
        remedy = (
            "GPU feature discovery labels them; without it "
            "`kubectl label node NODE nvidia.com/gpu.product=NVIDIA-GB10`, or name labels in spec.nodes.selector"
        )
        return Finding(subject, grade, f"none of {len(nodes)} is a GB10 by its labels", remedy)
    idle = [node["metadata"]["name"] for node in boards if not _gpus(node)]
    if idle:
        return Finding(
            subject,
            Grade.NOTE if offering else grade,
            f"{len(offering)} of {len(boards)} GB10 offer {GPU}; not {_some(idle)}",
            "install NVIDIA's device plug-in there, and see `kubectl describe node NODE`",
        )
    return Finding(
        subject, Grade.OK, f"{len(boards)} GB10 of {len(nodes)}: {_some([n['metadata']['name'] for n in boards])}"
    )


def _labels(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _gpus(node: Object) -> int:
    return int(((node.get("status") or {}).get("allocatable") or {}).get(GPU, 0))


def _runtime_classes(classes: Sequence[str] | Unseen, wanted: Iterable[Resolved]) -> list[Finding]:
    subject = "runtime class"
    if isinstance(classes, Unseen):
        return [_unseen(subject, classes)]
    asked = {placement(entry).get("runtimeClassName", "") for entry in wanted} - {""}
    remedy = "k3s makes it where it finds NVIDIA's container toolkit; or name another in spec.nodes.runtimeClassName"
    if not asked:
        grade = Grade.OK if "nvidia" in classes else Grade.NOTE
        words = "nvidia" if "nvidia" in classes else "nvidia, which GB10 resources ask for, is not there"
        return [Finding(subject, grade, words, "" if grade is Grade.OK else remedy)]
    lacking = sorted(name for name in asked if name not in classes)
    return [Finding(subject, Grade.MISSING, f"{name} is asked for and not there", remedy) for name in lacking] or [
        Finding(subject, Grade.OK, ", ".join(sorted(asked)))
    ]


def _metrics(metrics: str | Unseen | None) -> Finding:
    subject = "metrics"
    if isinstance(metrics, Unseen) and not metrics.forbidden:
        remedy = "see the operator's log; its port 8080 must be open to the API server (NetworkPolicy)"
        return Finding(subject, Grade.MISSING, f"the operator's do not answer: {metrics.why}", remedy)
    if isinstance(metrics, Unseen):
        return _unseen(subject, metrics)
    if metrics is None:
        return Finding(subject, Grade.UNSEEN, "no pod of the operator runs", "see the line of the operator")
    count = sum(1 for line in metrics.splitlines() if line.startswith("gemmaspec_"))
    if not count:
        words = "the operator's port 8080 answers, but not with its metrics"
        return Finding(subject, Grade.MISSING, words, "see its log; GEMMASPEC_METRICS_PORT must be 8080")
    return Finding(subject, Grade.OK, f"the operator gives {count} series")


def _monitors(monitors: int | Unseen | None) -> Finding:
    subject = "monitoring"
    remedy = "`kubectl apply -k manifests/monitoring`, or the chart's monitoring values"
    if isinstance(monitors, Unseen):
        return _unseen(subject, monitors)
    if monitors is None:
        words = "no PodMonitor kind: Prometheus' operator is not installed; K moves without it"
        return Finding(subject, Grade.NOTE, words, "for graphs and alerts install it, then " + remedy)
    if monitors == 0:
        return Finding(subject, Grade.NOTE, "no PodMonitor of ours: Prometheus is not told to scrape", remedy)
    return Finding(subject, Grade.OK, f"{monitors} PodMonitors")


def _resources(resources: Sequence[Object] | Unseen) -> Iterator[Finding]:
    if isinstance(resources, Unseen):
        yield _unseen("resources", resources)
        return
    if not resources:
        yield Finding("resources", Grade.NOTE, "there is none", "`gemmaspec recipes` lists what is published")
    for resource in resources:
        yield _resource(resource)


def _resource(resource: Object) -> Finding:
    subject = f"resource {_name(resource)}"
    conditions = {entry["type"]: entry for entry in (resource.get("status") or {}).get("conditions", ())}
    ready, stalled = conditions.get("Ready"), conditions.get("Stalled")
    if ready is None:
        return Finding(subject, Grade.MISSING, "no operator has looked at it", "does one watch its namespace?")
    worst = stalled if stalled and stalled["status"] == "True" else ready
    words = f"{worst['reason']}: {worst['message']}"
    if worst is ready and ready["status"] == "True":
        return Finding(subject, Grade.OK, words)
    moving = worst is ready and ready["reason"] == "Starting"
    remedy = f"`gemmaspec status -n {resource['metadata']['namespace']} {resource['metadata']['name']}`"
    return Finding(
        subject, Grade.NOTE if moving else Grade.MISSING, words, f"{remedy}, `gemmaspec explain {worst['reason']}`"
    )
