"""The replica planner: how many engines each revision may have now.

One box holds one engine, and there is no surge: a pod holds its box until it is gone, Terminating included. So the
sum of pods that exist and pods that are asked for never exceeds ``replicas``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemmaspec.core.observation import Pod


@dataclass(frozen=True)
class Scale:
    """Replica counts by revision, and whether the current revision is all there is."""

    replicas: Mapping[str, int]
    complete: bool


def scale(current: str, wanted: int, asked: Mapping[str, int], pods: Sequence[Pod]) -> Scale:
    """Next replica counts.

    current: the revision to drive to. wanted: ``spec.replicas``. asked: replica counts of the Deployments that exist
    (``current`` may be missing). pods: engine pods of every revision.
    """
    old = {revision: count for revision, count in asked.items() if revision != current}
    holding = _holding(pods)
    lowered = _lower_old(old, wanted, pods)
    # A Deployment just told to shrink may not have marked its pod yet, and one just told to grow may not have
    # made it: take the larger of what is asked for and what exists.
    taken = sum(max(holding.get(revision, 0), old.get(revision, 0)) for revision in {*old, *holding} - {current})
    leaving = sum(1 for pod in pods if pod.revision == current and pod.terminating)
    room = max(0, wanted - taken - leaving)
    target = min(wanted, room)
    now = asked.get(current, 0)
    replicas = dict(lowered)
    replicas[current] = target if target >= now or now > wanted else now
    complete = not any(lowered.values()) and taken == 0 and replicas[current] == wanted
    return Scale(replicas, complete)


def _holding(pods: Sequence[Pod]) -> dict[str, int]:
    held: dict[str, int] = {}
    for pod in pods:
        if pod.occupies:
            held[pod.revision] = held.get(pod.revision, 0) + 1
    return held


def _lower_old(old: Mapping[str, int], wanted: int, pods: Sequence[Pod]) -> dict[str, int]:
    """Old revisions give up one serving engine at a time, and at once those that do not serve."""
    ready = sum(1 for pod in pods if pod.ready)
    serving_old = sum(1 for pod in pods if pod.ready and pod.revision in old)
    asked_old = sum(old.values())
    idle = max(0, asked_old - serving_old)
    spare = max(0, ready - (wanted - 1)) if wanted else ready
    give_up = min(asked_old, idle + min(spare, serving_old))
    lowered: dict[str, int] = {}
    for revision in sorted(old):
        cut = min(old[revision], give_up)
        lowered[revision] = old[revision] - cut
        give_up -= cut
    return lowered
