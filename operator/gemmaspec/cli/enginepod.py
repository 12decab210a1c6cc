"""An engine's pod in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemmaspec.core import names


@dataclass(frozen=True)
class EnginePod:
    """An engine's pod: what kubelet says of it, and the K that it runs with by the resource's status."""

    name: str
    state: str
    ready: bool
    revision: str
    k: int | None
    node: str | None
    restarts: int
    created: str


def read(pods: Iterable[Mapping[str, Any]], status: Mapping[str, Any]) -> list[EnginePod]:
    """The pods of a resource with that status, by name."""
    ks = {entry["pod"]: entry["effective"] for entry in (status.get("k") or {}).get("replicas", ())}
    found = [_one(pod, ks) for pod in pods]
    return sorted(found, key=lambda pod: pod.name)


def _one(pod: Mapping[str, Any], ks: Mapping[str, int]) -> EnginePod:
    metadata, status = pod["metadata"], pod.get("status") or {}
    engines = [entry for entry in status.get("containerStatuses", ()) if entry["name"] == names.ENGINE_CONTAINER]
    return EnginePod(
        name=metadata["name"],
        state=_state(metadata, status),
        ready=any(entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions", ())),
        revision=(metadata.get("labels") or {}).get(names.REVISION_LABEL, "–"),
        k=ks.get(metadata["name"]),
        node=(pod.get("spec") or {}).get("nodeName"),
        restarts=sum(entry.get("restartCount", 0) for entry in engines),
        created=metadata["creationTimestamp"],
    )


def _state(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """As kubectl words it: the first init container that is not through, then the engine, then the phase."""
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    init: Sequence[Mapping[str, Any]] = status.get("initContainerStatuses", ())
    for entry in init:
        state = entry.get("state") or {}
        ended = state.get("terminated")
        if ended and ended.get("exitCode") == 0:
            continue
        return f"{entry['name']}: {_reason(state)}"
    for entry in status.get("containerStatuses", ()):
        state = entry.get("state") or {}
        if "running" not in state:
            return _reason(state)
    return str(status.get("reason") or status.get("phase") or "Unknown")


def _reason(state: Mapping[str, Any]) -> str:
    for kind in ("waiting", "terminated"):
        if kind in state:
            return str((state[kind] or {}).get("reason") or kind)
    return "running" if "running" in state else "waiting"
