"""K held by restart: how long a hold lasts, what renews it, and what ends the wait for a boot. Cluster and engine are
fakes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gemmaspec.adapters.cluster import ApiFailure
from gemmaspec.adapters.transport import Unreached
from gemmaspec.bench import steering
from gemmaspec.bench.runner import Failed, Runner
from gemmaspec.bench.steering import RESTART_HOLD_SECONDS, Held, Note, Restarts, Unsteerable
from gemmaspec.core import hold
from gemmaspec.core.bench.sweep import Sweep, Workload
from tests.bench.fake_restarts import FakeCluster, PlainStation

SWEEP = Sweep((Workload("code", "Write it.", 24),), (1,), (0, 2), 2, seldom=True)


class Scene:
    """A cluster with a steering of it; ``now`` is everybody's clock."""

    def __init__(self, station: PlainStation) -> None:
        self.now = time.time()
        self.cluster = FakeCluster(station)
        self.cluster.clock = lambda: self.now
        self.note = Note(self.resource, self.annotate, lambda: self.now)
        self.steering = Restarts(self.note, self.resource, 600.0)

    async def annotate(self, annotations: Mapping[str, str | None], version: str) -> None:
        metadata = {"annotations": annotations, "resourceVersion": version}
        await self.cluster.merge("GemmaSpecDeploy", "llm", "gemma", {"metadata": metadata})

    async def resource(self) -> Mapping[str, Any]:
        try:
            return await self.cluster.get("gemma")
        except ApiFailure as failure:
            raise Unreached(failure.status, failure.message) from failure

    @property
    def held(self) -> hold.Hold | None:
        """What the annotation says."""
        return hold.read(self.cluster.annotations, self.now)

    def runner(self) -> Runner:
        return Runner(self.cluster.engine, None, self.steering, SWEEP)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(steering, "RESTART_LOOK_SECONDS", 0.01)
    async with PlainStation(step=0.0005).running_on() as station:
        found = Scene(station)
        yield found
        await found.cluster.close()


async def test_what_a_killed_benchmark_held_ends_by_itself(scene: Scene) -> None:
    await scene.steering.hold(0, scene.steering.lasts)
    assert scene.held == hold.Hold(0, pytest.approx(scene.now + RESTART_HOLD_SECONDS, abs=1))
    assert scene.cluster.resource()["status"]["k"]["effective"] == 0
    scene.now += RESTART_HOLD_SECONDS + 1  # nobody renews, and nobody lets go
    assert scene.cluster.resource()["status"]["k"]["effective"] == scene.cluster.spec_k
    assert scene.cluster.boots == [0, scene.cluster.spec_k]


async def test_a_boot_that_outlasts_a_hold_renews_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "RENEW_SECONDS", 0.0)
    scene.cluster.looks = 10  # of the wait and of each renewal

    async def later() -> Mapping[str, Any]:
        scene.now += 0.5 * RESTART_HOLD_SECONDS
        return await scene.resource()

    await Restarts(scene.note, later, 60.0).hold(1, RESTART_HOLD_SECONDS)
    assert scene.cluster.boots == [1]
    assert len(scene.cluster.patches) >= 5


async def test_an_api_server_that_is_away_for_a_moment_ends_no_boot(scene: Scene) -> None:
    scene.cluster.failing = lambda kind, number: (
        ApiFailure(0, "connection refused") if (kind, number) in {("read", 2), ("read", 3)} else None
    )
    await scene.steering.hold(1, 60.0)
    assert scene.cluster.boots == [1]


async def test_an_operator_that_does_not_act_is_told_before_the_deadline_of_a_boot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "ACT_SECONDS", 0.2)
    scene.cluster.heard = False
    async with asyncio.timeout(60):  # a boot had ten times as long
        with pytest.raises(Failed, match=r"does the operator run, and do its clock and yours agree"):
            await scene.runner().run("fake")
    assert not scene.cluster.annotations
    assert not scene.cluster.boots


async def test_why_a_hold_waits_is_told_at_the_deadline(scene: Scene) -> None:
    async def on_trial() -> Mapping[str, Any]:
        body = dict(scene.cluster.resource())
        body["status"]["k"] |= {"effective": 2, "held": {"k": 0, "message": "waits: a revision is on trial"}}
        return body

    with pytest.raises(Unsteerable, match=r"no engine with K=0 serves .* waits: a revision is on trial"):
        await Restarts(scene.note, on_trial, 0.1).hold(0, 60.0)


async def test_a_renewal_sees_that_somebody_else_moves_k(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "RENEW_SECONDS", 0.05)
    held = Held(scene.steering)
    await held.hold(0)
    scene.cluster.heard = False  # whatever it is: the operator goes back to the spec's K
    async with asyncio.timeout(60):
        while held.failure is None:
            await asyncio.sleep(0.01)
    assert "K=0 was held, and engines have K=2" in str(held.failure)
    scene.cluster.heard = True
    await held.hold(0)
    assert scene.cluster.boots == [0, 2, 0], "it is held again before anything is measured"
    await held.release()
    assert not scene.cluster.annotations


async def test_a_cancelled_sweep_lets_go_and_keeps_its_runs(scene: Scene) -> None:
    scene.cluster.never = {2}
    scene.cluster.station.k = 1  # so that the spec's own K takes a boot too
    runner = scene.runner()
    task = asyncio.create_task(runner.run("fake"))
    async with asyncio.timeout(60):
        while scene.cluster.boots[-2:] != [0, 2]:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(runner.runs) == 2
    assert not scene.cluster.annotations
