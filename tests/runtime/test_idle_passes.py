"""Whole passes over resources that nobody asks anything: warm-up alone, and a K that somebody holds by restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmaspec.core import moment, names
from gemmaspec.core.hold import ANNOTATION, Hold
from gemmaspec.core.warmup import MOST_REQUESTS, WarmUp
from tests.core.test_warmup import EMPTY, asked
from tests.runtime.test_rollout_passes import ANALYSIS, BASE, CHANGED, Play, condition
from tests.simulated.fake_cluster import Crash

IDLE: dict[str, Any] = {**BASE, "rollout": {"analysis": {**ANALYSIS, "timeoutSeconds": 100_000, "warmUp": "WhenIdle"}}}


class Idle(Play):
    """Engines that do nothing; ``rates``: what of a warm-up's drafts each position accepts, by revision."""

    def __init__(self, replicas: int, **rates: float) -> None:
        super().__init__(replicas)
        self.rates = rates
        self.edit(**(IDLE | {"replicas": replicas}))

    async def warmed(self) -> list[str]:
        """Time passes, and each request that is sent is answered; returns the pods that were asked."""
        told: list[str] = []
        for _ in range(MOST_REQUESTS + 5):
            await self.settle()
            self.cluster.now += 60
            pods = {pod["metadata"]["name"]: pod["metadata"] for pod in self.cluster.of_kind("Pod")}
            for pod in pods.values():
                self.scraper.series[pod["uid"]] = [replace(EMPTY, time=self.cluster.now)]
            self.scraper.asked.clear()
            await self.settle()
            if not self.scraper.asked:
                break
            name, body = self.scraper.asked[-1]
            told.append(name)
            uid = pods[name]["uid"]
            rate = self.rates.get(pods[name]["labels"][names.REVISION_LABEL], self.rates["other"])
            before = self.scraper.warmed.get(uid, WarmUp(f"{uid}/0"))
            assert body["seed"] == before.requests, "the same ones for every revision"
            self.scraper.warmed[uid] = replace(asked(rate, before.requests + 1), life=before.life)
        return told


async def test_the_good_revision_is_asked_first_and_not_for_ever() -> None:
    play = Idle(1, other=0.8)
    told = await play.warmed()
    assert 12 <= len(told) <= MOST_REQUESTS
    assert play.status()["warmUp"]["requests"] == len(told)
    assert "acceptance" not in play.status()
    writes = len(play.cluster.writes)
    assert await play.warmed() == []
    assert len(play.cluster.writes) == writes, "a settled resource gets no writes"


async def test_an_idle_revision_as_good_is_taken_and_a_worse_one_sent_away() -> None:
    play = Idle(2, other=0.8)
    await play.warmed()
    good = play.status()
    play.edit(**CHANGED)
    await play.warmed()
    status = play.status()
    assert status["lastGoodRevision"] == status["revision"] != good["revision"]
    assert status["rollout"]["message"].count("on warm-up prompts") == 1
    assert status["warmUp"]["revision"] == status["revision"]
    play.rates["other"], play.rates[status["revision"]] = 0.3, 0.8
    play.edit(model={"maxModelLen": 256})
    await play.warmed()
    assert condition(play.cluster, "RolledBack") == ("True", "AcceptanceWorse")
    assert play.status()["revision"] == status["revision"]
    assert play.status()["warmUp"] == status["warmUp"]


async def test_a_broken_drafter_is_told_where_there_is_nothing_to_compare_with() -> None:
    play = Play(1)
    await play.settle()
    good = play.status()["revision"]
    idle = Idle(1, other=0.0)
    idle.cluster, idle.scraper = play.cluster, play.scraper
    idle.edit(**(IDLE | CHANGED | {"replicas": 1}))
    await idle.warmed()
    assert condition(play.cluster, "RolledBack") == ("True", "DraftRejected")
    assert play.status()["revision"] == good


async def test_prompts_whose_drafts_nobody_accepts_send_no_revision_away() -> None:
    play = Idle(1, other=0.0)
    await play.warmed()
    good = play.status()
    play.edit(**CHANGED)
    await play.warmed()
    assert play.status()["lastGoodRevision"] == play.status()["revision"] != good["revision"]


async def test_an_operator_that_dies_asks_no_more_than_one_that_lives() -> None:
    play = Idle(1, other=0.8)
    play.cluster.crash_after = 12
    try:
        told = await play.warmed()
    except Crash:
        raise AssertionError("settle goes on with another operator") from None
    assert play.deaths == 1
    assert len(told) <= MOST_REQUESTS


def held(play: Play, k: int, seconds: float) -> None:
    resource = play.cluster.resource()
    annotations = {ANNOTATION: Hold(k, play.cluster.now + seconds).text()}
    play.cluster._change(resource, {**resource, "metadata": {**resource["metadata"], "annotations": annotations}})


async def test_k_is_held_by_restart_and_comes_back_by_itself() -> None:
    play = Play(2)
    await play.settle()
    first = play.status()
    held(play, 1, 600)
    await play.settle()
    status = play.status()
    assert (status["k"]["desired"], status["k"]["effective"]) == (first["k"]["desired"], 1)
    assert status["k"]["held"]["until"] == moment.text(play.cluster.now + 600)
    assert status["revision"] == status["lastGoodRevision"] != first["revision"], "another K is no trial"
    assert condition(play.cluster, "SpeculationHealthy") == ("Unknown", "KHeld")
    assert play.served() == {status["revision"]: 2}
    assert play.cluster.resource()["metadata"]["generation"] == 1, "the spec is nobody's but the user's"
    play.cluster.now += 601
    await play.settle()
    assert play.served() == {first["revision"]: 2}
    assert "held" not in play.status()["k"]


async def test_a_trial_is_not_disturbed_by_a_k_that_is_held() -> None:
    play = Play(2)
    await play.settle()
    play.edit(**CHANGED)
    await play.settle()
    on_trial = play.status()["revision"]
    held(play, 1, 600)
    await play.settle()
    status = play.status()
    assert (status["revision"], status["k"]["effective"]) == (on_trial, 4)
    assert status["k"]["held"]["message"].startswith("waits")
