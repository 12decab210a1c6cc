"""The replica planner against every order of events: pods that become ready, leave slowly or fail, new specs, scaling.

The model of the world is what the Deployment controller does: it makes a pod when one is missing, and marks one
Terminating, not-ready ones first, when there is one too many. Every interleaving with the planner's passes is tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from gemmaspec.core.observation import Pod
from gemmaspec.core.rollout import scale

STARTING, READY, LEAVING = "starting", "ready", "leaving"
Pods = tuple[tuple[str, str], ...]  # (revision, phase), sorted


@dataclass(frozen=True)
class World:
    """Deployments, pods and the spec; ``edits`` and ``failures`` are how many the world may still make."""

    wanted: int
    current: str
    asked: tuple[tuple[str, int], ...] = ()
    pods: Pods = ()
    edits: int = 0
    failures: int = 0


def observed(pods: Pods) -> list[Pod]:
    return [
        Pod(
            name=f"p{i}",
            uid=f"u{i}",
            revision=revision,
            k=0,
            ip=None,
            node=None,
            phase="Running",
            ready=phase == READY,
            terminating=phase == LEAVING,
            running=True,
            restarts=0,
        )
        for i, (revision, phase) in enumerate(pods)
    ]


def planned(world: World) -> World:
    """One pass of the planner, with what must hold at every pass."""
    asked = dict(world.asked)
    decision = scale(world.current, world.wanted, asked, observed(world.pods))
    after = {**asked, **decision.replicas}
    grown = [revision for revision in after if after[revision] > asked.get(revision, 0)]
    assert set(grown) <= {world.current}, "an old revision never grows"
    if grown:
        held = [revision for revision, _ in world.pods]
        boxes = sum(max(after.get(r, 0), held.count(r)) for r in {*after, *held} - {world.current})
        boxes += after[world.current] + world.pods.count((world.current, LEAVING))
        assert boxes <= world.wanted, f"{world}: {decision} takes more boxes than replicas"
    served = {r: min(asked.get(r, 0), world.pods.count((r, READY))) for r in after}
    serves = {r: min(after[r], served[r]) for r in after}
    if sum(serves.values()) < sum(served.values()):
        assert sum(serves.values()) >= min(world.wanted - 1, sum(served.values())), f"{world}: {decision} cuts service"
    if decision.complete:
        assert all(revision == world.current for revision, _ in world.pods)
    # A settled resource prunes Deployments of other revisions.
    settled = decision.complete and world.pods.count((world.current, READY)) >= world.wanted
    kept = {r: n for r, n in after.items() if r == world.current or not settled}
    return replace(world, asked=tuple(sorted(kept.items())))


def controller(world: World) -> Iterator[World]:
    """What the Deployment controller may do next: one pod made or marked."""
    for revision, count in world.asked:
        own = [phase for r, phase in world.pods if r == revision and phase != LEAVING]
        if len(own) < count:
            yield replace(world, pods=tuple(sorted([*world.pods, (revision, STARTING)])))
        elif len(own) > count:
            phase = STARTING if STARTING in own else READY
            yield moved(world, (revision, phase), (revision, LEAVING))
    known = {revision for revision, _ in world.asked}
    for pod in set(world.pods):
        if pod[0] not in known and pod[1] != LEAVING:  # garbage collection after its Deployment
            yield moved(world, pod, (pod[0], LEAVING))


def moved(world: World, before: tuple[str, str], after: tuple[str, str] | None) -> World:
    pods = list(world.pods)
    pods.remove(before)
    return replace(world, pods=tuple(sorted([*pods, after] if after else pods)))


def progress(world: World) -> Iterator[World]:
    """Pods that come and go by themselves."""
    for pod in set(world.pods):
        if pod[1] == STARTING:
            yield moved(world, pod, (pod[0], READY))
        if pod[1] == LEAVING:
            yield moved(world, pod, None)


def accidents(world: World, most: int) -> Iterator[World]:
    """Engines that fail, and people who edit."""
    if world.failures:
        for pod in set(world.pods):
            if pod[1] == READY:
                yield replace(moved(world, pod, (pod[0], STARTING)), failures=world.failures - 1)
    if world.edits:
        edited = replace(world, edits=world.edits - 1)
        following = {"a": "b", "b": "c", "c": "a"}  # a -> b -> a is a revert half-way
        yield replace(edited, current=following[world.current])
        yield replace(edited, current="a")
        if world.wanted < most:
            yield replace(edited, wanted=world.wanted + 1)
        yield replace(edited, wanted=max(0, world.wanted - 2))


def settled(world: World) -> World:
    """Where the world ends when nothing fails any more and nobody edits: always at the current spec."""
    for _ in range(40 * (world.wanted + len(world.pods) + 2)):
        after = planned(world)
        step = next(controller(after), None) or next(progress(after), None)
        if step is None and after == world:
            return world
        world = step or after
    raise AssertionError(f"does not converge: {world}")


@pytest.mark.parametrize(
    ("replicas", "edits", "failures"), [(1, 3, 2), (2, 3, 1), (3, 2, 1), (4, 2, 1), (5, 2, 0), (5, 1, 1)]
)
def test_every_order_of_events(replicas: int, edits: int, failures: int) -> None:
    running = tuple([("a", READY)] * replicas)
    first = World(replicas, "a", (("a", replicas),), running, edits, failures)
    seen, waiting = {first}, deque([first])
    while waiting:
        world = waiting.popleft()
        for step in (planned(world), *controller(world), *progress(world), *accidents(world, replicas + 1)):
            if step not in seen:
                seen.add(step)
                waiting.append(step)
    ends = {settled(world) for world in seen}
    for end in ends:
        assert end.pods == tuple([(end.current, READY)] * end.wanted)
        assert end.asked == ((end.current, end.wanted),)
    assert len(seen) > 100


def test_a_new_revision_that_never_becomes_ready_takes_one_box_only() -> None:
    world = World(3, "b", (("a", 3),), (("a", READY),) * 3)
    for _ in range(50):
        world = planned(world)
        gone = next((pod for pod in world.pods if pod[1] == LEAVING), None)
        world = moved(world, gone, None) if gone else next(controller(world), world)
    assert world.asked == (("a", 2), ("b", 1))
    assert world.pods == (("a", READY), ("a", READY), ("b", STARTING))


def test_the_engine_that_does_not_serve_goes_first_whatever_its_name() -> None:
    pods = observed((("a", READY), ("b", STARTING)))
    assert scale("c", 2, {"a": 1, "b": 1}, pods).replicas == {"a": 1, "b": 0, "c": 0}


def test_a_pod_that_is_about_to_leave_is_no_reserve() -> None:
    pods = observed((("a", READY), ("a", READY)))
    assert scale("b", 2, {"a": 1, "b": 0}, pods).replicas == {"a": 1, "b": 0}


def test_scaling_down_while_a_pod_leaves_keeps_an_engine() -> None:
    pods = observed((("a", READY), ("a", READY), ("a", READY), ("a", LEAVING)))
    assert scale("a", 1, {"a": 3}, pods).replicas == {"a": 1}


def test_an_evicted_pod_holds_no_box() -> None:
    pods = [replace(pod, phase="Failed") for pod in observed((("a", STARTING),))]
    assert scale("a", 1, {"a": 1}, pods) == scale("a", 1, {"a": 1}, [])
