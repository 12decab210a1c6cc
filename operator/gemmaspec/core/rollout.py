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
    """Replica counts by revision, and whether the goal is all there is."""

    replicas: Mapping[str, int]
    complete: bool


def goal(current: str, stable: str | None, wanted: int, *, one_first: bool) -> dict[str, int]:
    """Boxes by revision to drive to, the proved revision first: ``one_first`` gives ``current`` a single one."""
    if not stable or stable == current or not one_first or wanted < 2:
        return {current: wanted}
    return {stable: wanted - 1, current: 1}


def scale(
    goal: Mapping[str, int], wanted: int, asked: Mapping[str, int], pods: Sequence[Pod], unavailable: int = 1
) -> Scale:
    """Next replica counts on the way to ``goal``.

    wanted: ``spec.replicas``. asked: replica counts of the Deployments that exist. pods: engine pods of every
    revision. unavailable: engines that may be missing meanwhile, as far as we are the cause.
    """
    held = Counter(pod.revision for pod in pods if pod.occupies)
    leaving = Counter(pod.revision for pod in pods if pod.terminating)
    replicas = _lower(goal, asked, _serving(asked, pods), max(0, wanted - unavailable))
    # A Deployment just told to shrink may not have marked its pod yet, one whose pod leaves makes another at once:
    # the larger of what exists and what is asked for counts.
    boxes = Counter({revision: max(held[revision], asked.get(revision, 0)) for revision in {*asked, *held}})
    for revision, most in goal.items():
        others = boxes.total() - boxes[revision]
        # Room only bounds growth: a shortage of it is no reason to take down an engine that is wanted.
        room = wanted - others - leaving[revision]
        now = replicas.get(revision, 0)
        replicas[revision] = max(now, min(most, room))
        boxes[revision] = max(boxes[revision], replicas[revision] + leaving[revision])
    strangers = any(count and revision not in goal for revision, count in held.items())
    there = all(replicas[revision] == most and held[revision] <= most for revision, most in goal.items())
    return Scale(replicas, there and not strangers and not any(replicas[r] for r in replicas if r not in goal))


def _serving(asked: Mapping[str, int], pods: Sequence[Pod]) -> dict[str, int]:
    """Engines that serve and will go on: a ready pod beyond what its Deployment is asked for is about to leave."""
    ready = Counter(pod.revision for pod in pods if pod.ready)
    return {revision: min(count, ready[revision]) for revision, count in asked.items()}


def _lower(goal: Mapping[str, int], asked: Mapping[str, int], serving: Mapping[str, int], floor: int) -> dict[str, int]:
    """What is too much gives up at once what does not serve, and of what serves all but ``floor`` in sum."""
    spare = max(0, sum(serving.values()) - floor)
    lowered = dict(asked)
    for revision in sorted(asked, key=lambda revision: (revision in goal, revision)):
        excess = max(0, asked[revision] - goal.get(revision, 0))
        idle = min(excess, asked[revision] - serving[revision])
        cut = min(excess - idle, spare)
        lowered[revision] -= idle + cut
        spare -= cut
    return lowered
