"""The replica planner: how many engines each revision may have now.

One box holds one engine, and there is no surge: a pod holds its box until it is gone, Terminating included. So the
sum of pods that exist and pods that are asked for never exceeds ``replicas``.
"""

from __future__ import annotations

from collections import Counter
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
    held = Counter(pod.revision for pod in pods if pod.occupies)
    # A Deployment just told to shrink may not have marked its pod yet, and one just told to grow may not have
    # made it: take the larger of what is asked for and what exists.
    taken = sum(max(held[revision], old.get(revision, 0)) for revision in {*old, *held} - {current})
    leaving = sum(1 for pod in pods if pod.revision == current and pod.terminating)
    room = max(0, wanted - taken - leaving)
    now = asked.get(current, 0)
    replicas = _lower_old(old, wanted, _serving(asked, pods))
    # Room only bounds growth: a shortage of it is no reason to take down an engine that is wanted.
    replicas[current] = max(room, min(now, wanted))
    complete = taken == 0 and replicas[current] == wanted and held[current] <= wanted
    return Scale(replicas, complete)


def _serving(asked: Mapping[str, int], pods: Sequence[Pod]) -> dict[str, int]:
    """Engines that serve and will go on: a ready pod beyond what its Deployment is asked for is about to leave."""
    ready = Counter(pod.revision for pod in pods if pod.ready)
    return {revision: min(count, ready[revision]) for revision, count in asked.items()}


def _lower_old(old: Mapping[str, int], wanted: int, serving: Mapping[str, int]) -> dict[str, int]:
    """Old revisions give up at once what does not serve, and of what serves all but the last ``wanted`` - 1."""
    spare = max(0, sum(serving.values()) - max(0, wanted - 1))
    lowered: dict[str, int] = {}
    for revision in sorted(old):
        cut = min(serving[revision], spare)
        lowered[revision] = serving[revision] - cut
        spare -= cut
    return lowered
