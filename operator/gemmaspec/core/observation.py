"""What a pass sees: frozen values, gathered once, that every decision is a function of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gemmaspec.core import names
from gemmaspec.core.agent import Report
from gemmaspec.core.owner import Owner

if TYPE_CHECKING:
    from gemmaspec.core.warmup import WarmUp


@dataclass(frozen=True)
class Child:
    """An object that is ours by label or owner. ``unplanned``: see :func:`gemmaspec.core.drift.unplanned_paths`."""

    kind: str
    name: str
    uid: str
    resource_version: str
    owner_uid: str | None
    body: Mapping[str, Any]
    unplanned: tuple[tuple[str, ...], ...] = ()

    @property
    def revision(self) -> str | None:
        """Revision that the child belongs to, from its label."""
        labels = self.body.get("metadata", {}).get("labels", {})
        value = labels.get(names.REVISION_LABEL)
        return str(value) if value else None

    @property
    def number(self) -> int:
        """When its revision was last driven to, counted as ``revision`` of a ControllerRevision is; 0: not numbered."""
        return _number(self.body.get("metadata", {}).get("annotations", {}).get(names.NUMBER_ANNOTATION))

    @property
    def refused(self) -> str:
        """Why the API server takes no pods of a Deployment (an admission plug-in, a quota); empty while it does."""
        conditions = self.body.get("status", {}).get("conditions", ())
        said = next((entry.get("message", "") for entry in conditions if entry["type"] == "ReplicaFailure"), "")
        # Before these words stands the name of a pod that never was, another one at each try.
        return _line(said.partition(" is forbidden: ")[2] or said)

    @property
    def replicas(self) -> int:
        """``spec.replicas`` of a Deployment (the API server's default is 1)."""
        return int(self.body.get("spec", {}).get("replicas", 1))


@dataclass(frozen=True)
class Foreign:
    """An object that bears a name of ours and is not ours: untouched, and reported."""

    kind: str
    name: str
    owner: str


@dataclass(frozen=True)
class Ended:
    """How a container ended. ``message`` is one line; ``reason`` the launcher's or the kubelet's word."""

    reason: str
    message: str
    exit_code: int | None


@dataclass(frozen=True)
class Proof:
    """What preflight found: the launcher's side of the pin. ``deterministic``: no retry can change it."""

    ok: bool
    reason: str
    message: str
    remedy: str = ""
    deterministic: bool = False
    vllm: str | None = None
    transformers: str | None = None
    utilization: float | None = None
    memory: str | None = None
    patches: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pod:
    """An engine pod, reduced to what decisions need. Times are seconds since the epoch."""

    name: str
    uid: str
    revision: str
    k: int
    ip: str | None
    node: str | None
    phase: str
    ready: bool
    terminating: bool
    running: bool
    restarts: int
    created_at: float | None = None
    started_at: float | None = None
    ready_at: float | None = None
    unschedulable: str | None = None
    waiting: tuple[str, str] | None = None
    ended: Ended | None = None
    proof: Proof | None = None
    downloading: bool = False
    live: bool = False
    download_failed: Ended | None = None
    image_digest: str | None = None
    port: int = 8000

    @property
    def occupies(self) -> bool:
        """Whether the pod holds its box: a Terminating one does until it is gone."""
        return self.phase not in ("Succeeded", "Failed") or self.terminating

    @property
    def starting(self) -> bool:
        """Whether the pod has only begun, and there is nothing to say of it: what comes next will tell more."""
        plain = self.waiting is None or self.waiting[0] in ("ContainerCreating", "PodInitializing")
        said = (self.unschedulable, self.ended, self.proof, self.download_failed)
        fresh = self.phase == "Pending" and not (self.ready or self.terminating or self.restarts or self.downloading)
        return fresh and plain and not any(entry is not None for entry in said)


@dataclass(frozen=True, slots=True)  # thousands of engines, hundreds of samples each
class Sample:
    """One scrape of an engine: absolute counters since that engine began.

    ``accepted_per_position[i]`` counts drafts of which token i was accepted. ``time`` in seconds since the epoch.
    """

    time: float
    drafts: float
    draft_tokens: float
    accepted_tokens: float
    accepted_per_position: tuple[float, ...]
    generation_tokens: float
    requests_finished: float
    step_seconds_sum: float
    step_seconds_count: float
    running: float


@dataclass(frozen=True)
class Wish:
    """What a benchmark's pod says: the K that it wants, None for none, and since ``time`` for how many seconds.

    summary: its result in short, once it ended; ``failure`` why it could not. result: the whole, as JSON.
    """

    time: float
    number: int = 0
    k: int | None = None
    seconds: float = 0.0
    failure: str = ""
    summary: Mapping[str, Any] | None = None
    result: str = ""


@dataclass(frozen=True)
class Resource:
    """The custom resource as stored."""

    owner: Owner
    generation: int
    deleting: bool
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    annotations: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """All that one pass knows. ``now`` in seconds since the epoch: the clock is an input."""

    resource: Resource
    now: float
    children: tuple[Child, ...] = ()
    pods: tuple[Pod, ...] = ()
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)  # by pod uid
    agents: Mapping[str, Sequence[Report]] = field(default_factory=dict)  # of the last minute, by pod uid
    downloads: Mapping[str, float] = field(default_factory=dict)  # share of the weights that are there, by pod uid
    waits: Mapping[str, str] = field(default_factory=dict)  # what launchers wait for, by pod uid
    silent: frozenset[str] = frozenset()  # uids of pods whose agents have not answered for long
    foreign: tuple[Foreign, ...] = ()
    warmups: Mapping[str, WarmUp] = field(default_factory=dict)  # of the engines that live, by pod uid
    benchmarks: tuple[tuple[Pod, Wish | None], ...] = ()  # pods of benchmarks, and what each last said

    def child(self, kind: str, name: str) -> Child | None:
        """The child of this kind and name that belongs to the resource, or None."""
        for child in self.children:
            if child.kind == kind and child.name == name and child.owner_uid == self.resource.owner.uid:
                return child
        return None


def pod_from(body: Mapping[str, Any], parse_time: Any) -> Pod:
    """Reduce a pod object; ``parse_time`` turns RFC 3339 text into seconds since the epoch."""
    metadata, status = body["metadata"], body.get("status", {})
    container: Mapping[str, Any] = next(
        (
            c
            for c in status.get("containerStatuses", ())
            if c["name"] in (names.ENGINE_CONTAINER, names.BENCHMARK_CONTAINER)
        ),
        {},
    )
    state = container.get("state", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    waiting = state.get("waiting") or _init_state(status).get("waiting")
    if waiting and waiting.get("reason") == "PodInitializing":
        waiting = _init_state(status).get("waiting")
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
    when = ready.get("lastTransitionTime")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        revision=metadata.get("labels", {}).get(names.REVISION_LABEL, ""),
        k=_number(metadata.get("annotations", {}).get(names.K_ANNOTATION)),
        ip=status.get("podIP"),
        node=body.get("spec", {}).get("nodeName"),
        phase=status.get("phase", "Pending"),
        ready=ready.get("status") == "True" and "deletionTimestamp" not in metadata,
        terminating="deletionTimestamp" in metadata,
        running="running" in state,
        restarts=int(container.get("restartCount", 0)),
        created_at=parse_time(metadata["creationTimestamp"]) if metadata.get("creationTimestamp") else None,
        started_at=_time(state.get("running", {}).get("startedAt"), parse_time),
        ready_at=parse_time(when) if ready.get("status") == "True" and when else None,
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else None,
        waiting=(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        ended=ended_from(ended) if ended else None,
        proof=_proof(status),
        live=metadata.get("annotations", {}).get(names.ACTUATOR_ANNOTATION) == "Live",
        downloading="running" in _init_container(status, names.WEIGHTS_CONTAINER).get("state", {}),
        download_failed=_download_failure(status),
        image_digest=_image_digest(container.get("imageID", "")),
        port=_port(body),
    )


def _port(body: Mapping[str, Any]) -> int:
    """The engine's own port: the Service may stand for another revision's by now."""
    for container in body.get("spec", {}).get("containers", ()):
        for entry in container.get("ports", ()):
            if entry.get("name") == "http":
                return int(entry["containerPort"])
    return Pod.port


def _init_container(status: Mapping[str, Any], name: str = names.PREFLIGHT_CONTAINER) -> Mapping[str, Any]:
    return next((c for c in status.get("initContainerStatuses", ()) if c["name"] == name), {})


def _download_failure(status: Mapping[str, Any]) -> Ended | None:
    """Why the last download of weights failed; None while it goes well."""
    container = _init_container(status, names.WEIGHTS_CONTAINER)
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
    return ended_from(ended) if ended and ended.get("exitCode") else None


def _init_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(_init_container(status).get("state", {}))


def _proof(status: Mapping[str, Any]) -> Proof | None:
    """Preflight's verdict, from the termination message of its container; None while it has not spoken."""
    container = _init_container(status)
    terminated = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
    if not terminated:
        return None
    try:
        told = json.loads(str(terminated.get("message", "")))
        return Proof(
            ok=bool(told["ok"]),
            reason=str(told["reason"]),
            message=_line(str(told.get("message", ""))),
            remedy=_line(str(told.get("remedy", ""))),
            deterministic=bool(told.get("deterministic")),
            vllm=told.get("vllm"),
            transformers=told.get("transformers"),
            utilization=told.get("utilization"),
            memory=_line(str(told["memory"])) if told.get("memory") else None,
            patches=tuple(sorted((told.get("patches") or {}).items())),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        ended = ended_from(terminated)
        return Proof(False, "PreflightFailed", ended.message or f"exit code {ended.exit_code}")


def ended_from(terminated: Mapping[str, Any]) -> Ended:
    """How the container ended: the launcher's message where it left one, else the log's last line."""
    text = str(terminated.get("message", "")).strip()
    code = terminated.get("exitCode")
    try:
        told = json.loads(text)
        parts = (str(told["message"]), str(told.get("remedy", "")))
        said = ". ".join(part.rstrip(".") for part in parts if part)
        return Ended(str(told["reason"]), _line(said), code)
    except (ValueError, KeyError, TypeError):
        pass
    lines = [line for line in text.splitlines() if line.strip()]
    return Ended(str(terminated.get("reason", "Error")), _line(lines[-1] if lines else ""), code)


def _line(text: str) -> str:
    return " ".join(text.split())[:512]


def _time(text: Any, parse_time: Any) -> float | None:
    return float(parse_time(text)) if text else None


def _number(text: Any) -> int:
    return int(text) if text is not None and str(text).isdigit() else 0


def _image_digest(image_id: str) -> str | None:
    return "sha256:" + image_id.rsplit("sha256:", 1)[1] if "sha256:" in image_id else None
