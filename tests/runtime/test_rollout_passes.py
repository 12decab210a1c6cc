"""Whole passes of a rollout on a fake cluster: an operator that dies after any write of it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from gemmaspec.api import identity
from gemmaspec.core import canary, names
from gemmaspec.core.observation import Sample
from gemmaspec.core.reconcile import Settings
from tests.runtime.test_worker import SPEC, Operator, condition, started, state
from tests.simulated.fake_cluster import Crash, FakeScraper

ANALYSIS = {"progressDeadlineSeconds": 600, "initialDelaySeconds": 30, "timeoutSeconds": 100, "minDrafts": 100}
BASE: dict[str, Any] = {**SPEC, "rollout": {"revisionHistoryLimit": 1, "analysis": ANALYSIS}}
CHANGED = {"model": {"maxModelLen": 512}}


class Play:
    """A rollout, played by one operator after another: each dies after the write that it is told to die after."""

    def __init__(self, replicas: int) -> None:
        self.cluster = started({**BASE, "replicas": replicas})
        self.scraper = FakeScraper()
        self.deaths = 0

    async def settle(self) -> None:
        """Passes until nothing happens any more, by as many operators as it takes."""
        try:
            await Operator(self.cluster, self.scraper).settle()
        except Crash:
            self.deaths += 1
            self.cluster.crash_after = None
            await Operator(self.cluster, self.scraper).settle()

    def edit(self, **changes: Any) -> None:
        spec = {**self.cluster.resource()["spec"], **changes}
        self.cluster.edit(identity.KIND, "tiny", spec=spec)

    def serve(self, rate: Mapping[str, float]) -> None:
        """Two minutes of traffic; ``rate`` is the acceptance of each position by revision."""
        self.cluster.now += 120
        for pod in self.cluster.of_kind("Pod"):
            if pod["status"]:
                revision = pod["metadata"]["labels"][names.REVISION_LABEL]
                accepted = rate.get(revision, rate["other"])
                self.scraper.series[pod["metadata"]["uid"]] = series(self.cluster.now, accepted)

    def status(self) -> dict[str, Any]:
        return dict(self.cluster.resource()["status"])

    def served(self) -> dict[str, int]:
        """Pods by revision."""
        found: dict[str, int] = {}
        for pod in self.cluster.of_kind("Pod"):
            revision = pod["metadata"]["labels"][names.REVISION_LABEL]
            found[revision] = found.get(revision, 0) + 1
        return found


def series(now: float, rate: float) -> list[Sample]:
    found = []
    for i in range(25):
        drafts = 100.0 * (i + 1)
        positions = tuple(drafts * rate ** (j + 1) for j in range(4))
        found.append(
            Sample(
                time=now - 120 + 5 * i,
                drafts=drafts,
                draft_tokens=4 * drafts,
                accepted_tokens=sum(positions),
                accepted_per_position=positions,
                generation_tokens=drafts + sum(positions),
                requests_finished=2.0 * (i + 1),
                step_seconds_sum=drafts * 0.017,
                step_seconds_count=drafts,
                running=2.0,
            )
        )
    return found


async def serving(replicas: int) -> Play:
    play = Play(replicas)
    await play.settle()
    play.serve({"other": 0.8})
    await play.settle()
    return play


async def promoted(play: Play) -> None:
    play.edit(**CHANGED)
    await play.settle()
    play.serve({"other": 0.8})
    await play.settle()


async def worse(play: Play) -> None:
    good = play.status()["revision"]
    play.edit(**CHANGED)
    await play.settle()
    play.serve({good: 0.8, "other": 0.3})
    await play.settle()


async def never_ready(play: Play) -> None:
    good = play.status()["revision"]
    play.edit(**CHANGED)
    play.cluster.broken = {revision for revision in every_revision(play) if revision != good}
    await play.settle()
    play.cluster.now += 601
    await play.settle()


async def reverted(play: Play) -> None:
    good = play.status()["revision"]
    play.edit(**CHANGED)
    play.cluster.broken = {revision for revision in every_revision(play) if revision != good}
    await play.settle()
    play.edit(model={})
    await play.settle()


def every_revision(play: Play) -> set[str]:
    """The revision of the changed spec, found by playing it on another cluster."""
    return {CHANGED_REVISION[len(play.cluster.of_kind("Pod"))]}


CHANGED_REVISION: dict[int, str] = {}
ENDS: dict[str, tuple[Callable[[Play], Awaitable[None]], str]] = {
    "promoted": (promoted, "Promoted"),
    "worse": (worse, "RolledBack"),
    "never ready": (never_ready, "RolledBack"),
    "reverted": (reverted, "Promoted"),
}


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", ENDS)
async def test_dying_after_any_write_ends_where_no_death_does(name: str, replicas: int) -> None:
    other = Play(replicas)
    other.edit(**CHANGED)
    await other.settle()
    CHANGED_REVISION[replicas] = other.status()["revision"]
    story, phase = ENDS[name]
    whole = await serving(replicas)
    good, begun = whole.status()["revision"], len(whole.cluster.writes)
    await story(whole)
    status = whole.status()
    assert status["rollout"]["phase"] == phase
    returned = phase == "RolledBack" or name == "reverted"
    assert (status["revision"] == good) is returned
    assert status["lastGoodRevision"] == status["revision"]
    assert whole.served() == {status["revision"]: replicas}
    assert ("rejectedRevision" in status) is (phase == "RolledBack")
    for after in range(1, len(whole.cluster.writes) - begun + 1):
        play = await serving(replicas)
        play.cluster.crash_after = len(play.cluster.writes) + after
        await story(play)
        assert play.deaths == 1, after
        assert state(play.cluster) == state(whole.cluster), f"died after write {after}"


async def test_the_canary_takes_one_box_and_the_others_serve() -> None:
    play = await serving(3)
    good = play.status()["revision"]
    play.edit(**CHANGED)
    await play.settle()
    new = play.status()["revision"]
    assert play.served() == {good: 2, new: 1}
    assert condition(play.cluster, "Ready") == ("True", "Serving")
    assert condition(play.cluster, "Reconciling") == ("True", "Analysing")
    assert play.status()["lastGoodRevision"] == good
    play.serve({"other": 0.8})
    await play.settle()
    assert play.served() == {new: 3}
    assert [event["reason"] for event in play.cluster.events] == ["RevisionPromoted"]


async def test_a_deleted_deployment_of_the_good_revision_comes_back_during_a_trial() -> None:
    play = await serving(3)
    good = play.status()["revision"]
    play.edit(**CHANGED)
    await play.settle()
    before = state(play.cluster)[f"Deployment/tiny-{good}"]
    play.cluster.remove("Deployment", "ns", f"tiny-{good}")
    await play.settle()
    assert state(play.cluster)[f"Deployment/tiny-{good}"] == before
    assert play.served()[good] == 2


async def test_a_rejected_revision_is_not_tried_again_until_the_spec_renders_another() -> None:
    play = await serving(1)
    await worse(play)
    rejected = play.status()["rejectedRevision"]
    assert condition(play.cluster, "RolledBack") == ("True", "AcceptanceWorse")
    assert condition(play.cluster, "Stalled") == ("True", "RolledBack")
    assert condition(play.cluster, "Ready") == ("True", "ServingLastGood")
    for change in ({"replicas": 2}, {"replicas": 0}, {"replicas": 1}, {"service": {"type": "NodePort"}}):
        play.edit(**change)
        await play.settle()
        assert rejected not in play.served(), change
    # Other rules are another trial.
    play.edit(rollout={"revisionHistoryLimit": 1, "analysis": {**ANALYSIS, "maxLossPercent": 90}})
    await play.settle()
    assert play.served() == {rejected: 1}
    play.serve({"other": 0.3})
    await play.settle()
    assert play.status()["rollout"]["phase"] == "Promoted"
    assert "rejectedRevision" not in play.status()


async def test_another_edit_during_a_trial_is_compared_with_the_same_good_one() -> None:
    play = await serving(1)
    good = play.status()
    play.edit(**CHANGED)
    await play.settle()
    first = play.status()["revision"]
    play.edit(model={"maxModelLen": 256})
    await play.settle()
    second = play.status()
    assert len({good["revision"], first, second["revision"]}) == 3
    assert second["lastGoodRevision"] == good["revision"]
    assert second["rollout"]["keptAcceptance"]["tokensPerStep"] == pytest.approx(3.36, abs=0.05)
    play.serve({"other": 0.2})
    await play.settle()
    assert play.status()["revision"] == good["revision"]
    assert play.status()["acceptance"]["perPosition"] == good["acceptance"]["perPosition"], "not the rejected one's"


async def test_no_replicas_free_the_boxes_and_stop_the_clock_of_a_trial() -> None:
    play = await serving(2)
    good = play.status()["revision"]
    play.edit(**CHANGED, replicas=0)
    await play.settle()
    assert play.served() == {}
    assert condition(play.cluster, "Ready") == ("True", "ScaledToZero")
    play.cluster.now += 10_000
    play.edit(replicas=2)
    await play.settle()
    assert condition(play.cluster, "RolledBack")[0] == "False"
    assert play.status()["lastGoodRevision"] == good
    assert sorted(play.served().values()) == [1, 1]


async def test_an_operator_of_another_version_returns_to_the_very_same_engine() -> None:
    """What it would render differs; the last good revision runs on as its record stands, and K moves from there."""
    play = await serving(1)
    good = play.status()["revision"]
    await worse(play)
    deployment = play.cluster.objects["Deployment", "ns", f"tiny-{good}"]["spec"]["template"]
    newer = Operator(play.cluster, play.scraper)
    settings = newer.worker._settings
    newer.worker._settings = Settings(settings.recipes, {"gemmaspec_engine/launch.py": "print('newer')\n"})
    play.cluster.broken = {"never"}
    await newer.settle()
    trial = play.status()
    assert trial["rollout"]["phase"] == "Analysing", "other files are another pin: it is tried once more"
    play.serve({good: 0.8, "other": 0.3})
    newer = Operator(play.cluster, play.scraper)
    newer.worker._settings = Settings(settings.recipes, {"gemmaspec_engine/launch.py": "print('newer')\n"})
    await newer.settle()
    assert play.status()["revision"] == good
    assert play.served() == {good: 1}
    assert play.cluster.objects["Deployment", "ns", f"tiny-{good}"]["spec"]["template"] == deployment


async def test_a_lost_record_of_the_good_revision_leaves_alone_what_runs() -> None:
    play = await serving(1)
    good = play.status()["revision"]
    await worse(play)
    play.cluster.remove("ConfigMap", "ns", f"tiny-{good}")
    before = play.served()
    await play.settle()
    assert condition(play.cluster, "Stalled") == ("True", "LastGoodLost")
    assert play.served() == before
    play.edit(model={"maxModelLen": 256})
    await play.settle()
    assert condition(play.cluster, "Stalled")[0] == "False"


def test_the_memory_survives_the_status() -> None:
    kept = {"k": {"effective": 2}, "control": {"engine": "e"}}
    known = canary.Rollout("p", "a", canary.Phase.ANALYSING, since=1_800_000_000.0, good="g", stable="s", kept=kept)
    assert canary.load(json.loads(json.dumps(canary.fields(known)))) == known
    gone = replace(known, phase=canary.Phase.ROLLED_BACK, since=None, rejected="r", reason="R", message="m", kept={})
    assert canary.load(canary.fields(gone)) == gone
    for nothing in ({}, {"rollout": {"pin": "p"}}, {"rollout": {"pin": "p", "phase": "Other"}}):
        assert canary.load(nothing) is None


async def test_k_moves_while_the_last_good_revision_runs_in_place_of_the_spec() -> None:
    play = await serving(1)
    good = play.status()["revision"]
    await worse(play)
    play.cluster.now += 300
    play.serve({"other": 0.1})
    await play.settle()
    status = play.status()
    assert (status["k"]["effective"], status["rollout"]["phase"]) == (0, "RolledBack")
    assert status["revision"] == status["lastGoodRevision"] != good
    assert play.served() == {status["revision"]: 1}
    deployment = play.cluster.objects["Deployment", "ns", f"tiny-{status['revision']}"]
    assert "--speculative-config" not in str(deployment["spec"])
    assert "512" not in deployment["spec"]["template"]["spec"]["containers"][0]["args"], "of the good spec, not the new"
