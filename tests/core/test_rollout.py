"""Rollouts against every order of events: pods that become ready, leave slowly or fail, specs that change, verdicts,
and an operator that dies between any two of its writes.

The model of the world is what the Deployment controller does: it makes a pod when one is missing, and marks one
Terminating, not-ready ones first, when there is one too many. Every interleaving with the machine's turns and the
planner's passes is tried, to the depth that the parameters state. Revisions are named by how they do: ``a`` and ``b``
are good, ``w`` serves and is worse, ``d`` never serves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from gemmaspec.core import canary
from gemmaspec.core.canary import Phase, Rollout
from gemmaspec.core.observation import Pod
from gemmaspec.core.rollout import goal, scale

pytestmark = pytest.mark.slow

STARTING, READY, LEAVING = "starting", "ready", "leaving"
Pods = tuple[tuple[str, str], ...]  # (revision, phase), sorted
Memory = tuple[str, Phase, str, str]  # pin, phase, last good, rejected


@dataclass(frozen=True)
class World:
    """Deployments, pods, the spec and what the status remembers; ``edits`` and ``failures`` are how many the world may
    still make.
    """

    wanted: int
    current: str
    memory: Memory
    asked: tuple[tuple[str, int], ...] = ()
    pods: Pods = ()
    edits: int = 0
    failures: int = 0
    trials: int = 0
    unavailable: int = 1
    one_first: bool = True


def begun(replicas: int, edits: int = 0, failures: int = 0) -> World:
    """Where ``a`` serves everywhere, and is good."""
    memory = ("a", Phase.PROMOTED, "a", "")
    return World(replicas, "a", memory, (("a", replicas),), (("a", READY),) * replicas, edits, failures)


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


def remembered(world: World) -> Rollout:
    pin, phase, good, rejected = world.memory
    return Rollout(pin, pin, phase, since=0.0, good=good, stable=good, rejected=rejected)


def stored(world: World, known: Rollout) -> World:
    """The status after a turn: that write is all that its pass does."""
    return replace(world, memory=(known.pin, known.phase, known.good, known.rejected))


def turned(world: World) -> World | None:
    """What the spec changes by itself; None where it does not."""
    turn = canary.begin(remembered(world), Rollout(world.current, world.current, since=0.0), {}, 0.0)
    if not turn.stored:
        return None
    return replace(stored(world, turn.rollout), trials=world.trials + turn.rollout.on_trial)


def driven(world: World) -> tuple[dict[str, int], Rollout]:
    """Boxes by revision that the passes drive to now."""
    known = remembered(world)
    target = known.stable if known.returned else world.current
    return goal(target, known.stable if known.on_trial else None, world.wanted, one_first=world.one_first), known


def judged(world: World) -> World | None:
    """The verdict, where the analysis has come to one: what serves is good or worse, what does not is late."""
    boxes, known = driven(world)
    share = boxes.get(world.current, 0)
    if turned(world) or not known.on_trial or not share:
        return None
    serving = world.pods.count((world.current, READY)) >= share
    if serving and world.current in "ab":
        return stored(world, canary.promote(known, world.current, "", "", {}).rollout)
    if (serving and world.current == "w") or world.current == "d":
        return stored(world, canary.reject(known, world.current, "", "", {}).rollout)
    return None


def passes(world: World) -> Iterator[World]:
    """One pass of the operator; it may die after each of its writes."""
    turn = turned(world)
    if turn is not None:
        yield turn
        return
    boxes, known = driven(world)
    asked = dict(world.asked)
    decision = scale(boxes, world.wanted, asked, observed(world.pods), world.unavailable)
    check(world, boxes, {**asked, **decision.replicas})
    target = next(reversed(boxes))
    writes = sorted(
        (revision for revision, count in decision.replicas.items() if asked.get(revision) != count),
        key=lambda revision: (revision != target, revision),
    )
    done = world
    for revision in writes:
        done = replace(done, asked=tuple(sorted({**dict(done.asked), revision: decision.replicas[revision]}.items())))
        check(world, boxes, dict(done.asked))
        yield done
    serving = sum(1 for revision, phase in world.pods if phase == READY and revision in boxes)
    if decision.complete:
        assert all(revision in boxes for revision, _ in world.pods)
    if decision.complete and serving >= world.wanted and not writes:
        kept = {*boxes, known.stable}
        yield replace(world, asked=tuple((r, n) for r, n in world.asked if r in kept))


def check(world: World, boxes: dict[str, int], after: dict[str, int]) -> None:
    """What must hold after every write."""
    asked = dict(world.asked)
    held = [revision for revision, _ in world.pods]
    grown = [revision for revision in after if after[revision] > asked.get(revision, 0)]
    assert set(grown) <= set(boxes), "what is not driven to never grows"
    if grown:
        taken = 0
        for revision in {*after, *held}:
            leaving = world.pods.count((revision, LEAVING))
            taken += max(after.get(revision, 0) + (leaving if revision in grown else 0), held.count(revision))
        slack = sum(
            max(0, held.count(r) - world.pods.count((r, LEAVING)) - after[r]) for r in grown
        )  # about to be marked, and wanted again
        assert taken - slack <= world.wanted, f"{world}: {after} takes more boxes than replicas"
    served = {r: min(asked.get(r, 0), world.pods.count((r, READY))) for r in after}
    serves = {r: min(after[r], served[r]) for r in after}
    if sum(serves.values()) < sum(served.values()):
        assert sum(serves.values()) >= min(world.wanted - world.unavailable, sum(served.values())), (
            f"{world}: {after} cuts service"
        )


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
    for pod in sorted(set(world.pods)):
        if pod[1] == STARTING and pod[0] != "d":
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
        for revision in "abwd":
            if revision != world.current:
                yield replace(edited, current=revision)
        if world.wanted < most:
            yield replace(edited, wanted=world.wanted + 1)
        yield replace(edited, wanted=max(0, world.wanted - 2))


def settled(world: World) -> World:
    """Where the world ends when nothing fails any more and nobody edits."""
    began, seen = world.trials, 0
    for _ in range(60 * (world.wanted + len(world.pods) + 2)):
        verdict = judged(world)
        seen += verdict is not None
        # Of the writes of one pass all are done: the last of the states that it goes through.
        after = verdict or next(reversed([world, *passes(world)]))
        if after == world:
            after = next(controller(world), None) or next(progress(world), None) or world
        if after == world:
            assert world.trials - began <= 1, "a trial begins at most once"
            assert seen <= 1, "and has one verdict"
            return world
        world = after
    raise AssertionError(f"does not converge: {world}")


def every_order(first: World) -> int:
    """Try every interleaving; returns how many states there were."""
    most = first.wanted + 1
    seen, waiting = {first}, deque([first])
    while waiting:
        world = waiting.popleft()
        verdict = judged(world)
        steps = [*passes(world), *controller(world), *progress(world), *accidents(world, most)]
        for step in [*steps, verdict] if verdict else steps:
            alike = replace(step, trials=0)
            if alike not in seen:
                seen.add(alike)
                waiting.append(alike)
    for end in {settled(world) for world in seen}:
        pin, phase, good, rejected = end.memory
        assert pin == end.current
        if end.wanted == 0:
            assert end.pods == ()
            continue
        runs = good if phase is Phase.ROLLED_BACK else end.current
        assert (phase, rejected) == ((Phase.ROLLED_BACK, pin) if pin in "wd" else (Phase.PROMOTED, "")), end
        assert good in "ab"
        assert end.pods == ((runs, READY),) * end.wanted
        assert end.asked == ((runs, end.wanted),)
    return len(seen)


@pytest.mark.parametrize(("replicas", "edits", "failures"), [(1, 2, 1), (2, 1, 2), (3, 1, 1), (4, 1, 1), (5, 1, 1)])
def test_every_order_of_events(replicas: int, edits: int, failures: int) -> None:
    assert every_order(begun(replicas, edits, failures)) > 100


MORE_MISSING = [(3, 2, True), (4, 2, True), (5, 2, True), (5, 3, True), (3, 3, False)]


@pytest.mark.parametrize(("replicas", "unavailable", "one_first"), MORE_MISSING)
def test_every_order_of_events_where_more_may_be_missing(replicas: int, unavailable: int, one_first: bool) -> None:
    """maxUnavailable 2 and 3, and strategy AllAtOnce: as many are missing as may be, and no more."""
    assert every_order(replace(begun(replicas, 1, 1), unavailable=unavailable, one_first=one_first)) > 100


@pytest.mark.campaign
@pytest.mark.parametrize(("replicas", "edits", "failures"), [(1, 4, 2), (2, 3, 2), (3, 2, 2), (4, 2, 1), (5, 2, 1)])
def test_every_order_of_more_events(replicas: int, edits: int, failures: int) -> None:
    print(f"{replicas=} {edits=} {failures=}: {every_order(begun(replicas, edits, failures))} states")


@pytest.mark.campaign
@pytest.mark.parametrize(("replicas", "unavailable", "one_first"), [(2, 2, False), (4, 2, True), (5, 3, True)])
def test_every_order_of_more_events_where_more_may_be_missing(replicas: int, unavailable: int, one_first: bool) -> None:
    first = replace(begun(replicas, 2, 1), unavailable=unavailable, one_first=one_first)
    print(f"{replicas=} {unavailable=} {one_first=}: {every_order(first)} states")


def test_a_new_revision_that_never_becomes_ready_takes_one_box_only() -> None:
    world = replace(begun(3), current="d", memory=("d", Phase.ANALYSING, "a", ""))
    for _ in range(50):
        world = next(reversed([world, *passes(world)]))
        gone = next((pod for pod in world.pods if pod[1] == LEAVING), None)
        world = moved(world, gone, None) if gone else next(controller(world), world)
    assert world.asked == (("a", 2), ("d", 1))
    assert world.pods == (("a", READY), ("a", READY), ("d", STARTING))


def test_the_engine_that_does_not_serve_goes_first_whatever_its_name() -> None:
    pods = observed((("a", READY), ("b", STARTING)))
    assert scale({"c": 2}, 2, {"a": 1, "b": 1}, pods).replicas == {"a": 1, "b": 0, "c": 0}


def test_a_pod_that_is_about_to_leave_is_no_reserve() -> None:
    pods = observed((("a", READY), ("a", READY)))
    assert scale({"b": 2}, 2, {"a": 1, "b": 0}, pods).replicas == {"a": 1, "b": 0}


def test_scaling_down_while_a_pod_leaves_keeps_an_engine() -> None:
    pods = observed((("a", READY), ("a", READY), ("a", READY), ("a", LEAVING)))
    assert scale({"a": 1}, 1, {"a": 3}, pods).replicas == {"a": 1}


def test_an_evicted_pod_holds_no_box() -> None:
    pods = [replace(pod, phase="Failed") for pod in observed((("a", STARTING),))]
    assert scale({"a": 1}, 1, {"a": 1}, pods) == scale({"a": 1}, 1, {"a": 1}, [])
