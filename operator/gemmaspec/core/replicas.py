"""K of each engine: what ``.status.k.replicas`` says, and how seldom it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmaspec.api.spec import MAX_REPLICAS
from gemmaspec.api.status import ReplicaK
from gemmaspec.core import live, moment
from gemmaspec.core.control import PUBLISH_SECONDS
from gemmaspec.core.observation import Observation, Pod


def each(previous: Mapping[str, Any], observation: Observation) -> list[ReplicaK] | None:
    """K of every engine that serves, by pod name; None without any.

    Where agents move K it moves all the time: what is written of an engine stands until another K took most of its
    steps, and for ``PUBLISH_SECONDS`` after anything here was written.
    """
    known = {entry["pod"]: entry for entry in previous.get("replicas") or ()}
    times = [moment.optional(entry["since"]) or 0.0 for entry in known.values()]
    settled = not times or observation.now - max(times) >= PUBLISH_SECONDS
    now = moment.text(observation.now)
    found: list[ReplicaK] = []
    for pod in sorted((pod for pod in observation.pods if pod.ready), key=lambda pod: pod.name):
        k, before = _now(observation, pod), known.get(pod.name)
        if before is not None and (k is None or k == before["effective"] or not settled):
            found.append(ReplicaK.model_validate(before))
        elif k is not None:
            found.append(ReplicaK(pod=pod.name, effective=k, since=now))
    return found[:MAX_REPLICAS] or None


def _now(observation: Observation, pod: Pod) -> int | None:
    """K of an engine: most steps of the last minute where its agent tells, else the one that it was started with."""
    if not pod.live:
        return pod.k
    running = live.running_k([observation.agents.get(pod.uid, ())])
    return running[0] if running else None
