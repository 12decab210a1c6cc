"""Rollouts on a real API server with fake engines: who is judged, what goes back, and that no accident changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.fake_engine import BROKEN, GOOD, Traffic
from tests.integration.fake_kubelet import READY, STARTING, Report
from tests.integration.scene import NAME, Scene, rollout

pytestmark = pytest.mark.control_plane

# A trial that traffic decides: nothing is taken because nothing was measured.
JUDGED = {"timeoutSeconds": 600, "onInconclusive": "Hold"}
OTHER = {"target": "/models/other"}
LESS = Traffic((0.3, 0.3, 0.3, 0.3), running=8)


def of(scene: Scene, target: str) -> list[dict[str, Any]]:
    """Pods that serve this target model."""
    return [pod for pod in scene.all("pods") if target in pod["spec"]["containers"][0]["args"]]


def is_of(pod: Mapping[str, Any], target: str) -> bool:
    return target in pod["spec"]["containers"][0]["args"]


def proved(scene: Scene, **over: Any) -> dict[str, Any]:
    """A first revision that serves and has figures to compare with; returns its status."""
    scene.apply(**over)
    scene.wait_converged()
    scene.until(lambda: {"acceptance", "throughput"} <= scene.status().keys(), "figures", 30)
    status = scene.status()
    assert status["lastGoodRevision"] == status["revision"]
    return status


def returned(scene: Scene, reason: str, seconds: float = 60.0) -> dict[str, Any]:
    """Wait until the last good revision runs again; returns the status."""
    scene.until(lambda: scene.is_condition("RolledBack", "True", reason), reason, seconds)
    scene.until(lambda: scene.is_condition("Stalled", "True", "RolledBack"), "the return", seconds)
    assert scene.is_condition("Ready", "True", "ServingLastGood")
    assert scene.is_condition("Reconciling", "False", "RolledBack")
    return scene.status()


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_revision_that_accepts_less_is_rolled_back_and_not_tried_again(running: Scene, replicas: int) -> None:
    good = proved(running, replicas=replicas)
    running.kubelet.traffic = LESS
    running.kubelet.overlap = 0
    mark = running.plane.audit.mark()
    running.apply(replicas=replicas, model=OTHER, rollout=rollout(JUDGED))
    running.until(lambda: of(running, "/models/other"), "the revision on trial", 20)
    if replicas > 1:
        running.until(lambda: running.is_condition("Ready", "True", "Serving"), "the others", 20)
        assert len(of(running, "/models/other")) == 1, "one box goes first"
    status = returned(running, "AcceptanceWorse")
    assert status["revision"] == status["lastGoodRevision"] == good["revision"]
    assert status["rejectedRevision"] not in (None, good["revision"])
    assert status["k"]["effective"] == 4
    assert len(running.all("pods")) == replicas
    assert not of(running, "/models/other")
    assert running.kubelet.overlap <= replicas
    assert "tokens a step" in running.condition("RolledBack")["message"]
    assert [entry["reason"] for entry in status["history"]] == ["RolledBack"]
    (event,) = running.events("RolledBack")
    assert event["type"] == "Warning"
    assert running.resource()["spec"]["model"] == OTHER, "the spec is GitOps' own"
    made = [e.name for e in running.writes(mark) if e.verb == "create" and e.resource == "deployments"]
    assert len(made) == 1
    running.quiet()
    running.apply(replicas=replicas + 1, model=OTHER, rollout=rollout(JUDGED))
    running.until(lambda: running.status().get("readyReplicas") == replicas + 1, "one more of the good ones", 20)
    assert not of(running, "/models/other"), "another number of replicas is no other spec"
    running.kubelet.traffic = GOOD
    running.apply(replicas=replicas + 1, model={"target": "/models/mended"}, rollout=rollout(JUDGED))
    mended = running.wait_converged(60)
    assert mended["lastGoodRevision"] == mended["revision"] != good["revision"]
    assert "rejectedRevision" not in mended
    assert [entry["reason"] for entry in mended["history"]] == ["RolledBack", "RevisionPromoted"]


def test_a_broken_drafter_is_rolled_back_while_the_others_serve(running: Scene) -> None:
    good = proved(running, replicas=2)
    running.kubelet.traffic = BROKEN
    least = [2]
    running.apply(replicas=2, model=OTHER, rollout=rollout(JUDGED | {"minDrafts": 1_000_000}))

    def gone_back() -> bool:
        serving = [pod for pod in running.all("pods") if is_ready(pod) and not is_of(pod, "/models/other")]
        least[0] = min(least[0], len(serving))
        return running.is_condition("RolledBack", "True", "DraftRejected")

    running.until(gone_back, "the fault", 60)
    assert least[0] == 1, "the good engine stayed"
    status = returned(running, "DraftRejected")
    assert status["revision"] == good["revision"]
    assert (status["k"]["effective"], status["control"].get("fault")) == (4, None), "the fault is not the good one's"
    assert running.is_condition("SpeculationHealthy", "True", "Accepting")


def is_ready(pod: Mapping[str, Any]) -> bool:
    live = "deletionTimestamp" not in pod["metadata"]
    return live and any(
        c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ())
    )


def never_ready(pod: Mapping[str, Any]) -> Report:
    return STARTING if is_of(pod, "/models/other") else READY


def crashing(pod: Mapping[str, Any]) -> Report:
    ended = {"exitCode": 1, "reason": "Error", "message": "ValueError: no such layer"}
    return Report(restarts=2, ended=ended, running=True) if is_of(pod, "/models/other") else READY


@pytest.mark.parametrize(
    ("replicas", "script", "reason"), [(2, never_ready, "ProgressDeadlineExceeded"), (1, crashing, "EngineRestarts")]
)
def test_a_revision_that_never_serves_is_rolled_back(running: Scene, replicas: int, script: Any, reason: str) -> None:
    good = proved(running, replicas=replicas)
    running.kubelet.script = script
    running.kubelet.overlap = 0
    limits = JUDGED | {"progressDeadlineSeconds": 5}
    running.apply(replicas=replicas, model=OTHER, rollout=rollout(limits))
    status = returned(running, reason)
    assert status["revision"] == good["revision"]
    assert running.kubelet.overlap <= replicas
    running.apply(replicas=replicas)
    running.wait_converged()
    assert running.is_condition("RolledBack", "False", "Reverted")
    assert "rejectedRevision" not in running.status()


def test_k_moves_on_while_the_last_good_revision_runs_in_place_of_the_spec(running: Scene) -> None:
    good = proved(running)
    running.kubelet.script = never_ready
    running.apply(model=OTHER, rollout=rollout(JUDGED | {"progressDeadlineSeconds": 5}))
    returned(running, "ProgressDeadlineExceeded")
    running.kubelet.serve(Traffic((0.03,) + (0.1,) * 7, running=8))
    running.until(lambda: running.status()["k"]["effective"] == 0, "K lowered", 60)
    status = returned(running, "ProgressDeadlineExceeded")
    assert status["revision"] == status["lastGoodRevision"] != good["revision"]
    (pod,) = running.all("pods")
    assert is_of(pod, "/models/target")
    assert "--speculative-config" not in pod["spec"]["containers"][0]["args"]


def test_an_idle_engine_is_held_and_the_good_one_remembered(running: Scene) -> None:
    good = proved(running)
    running.kubelet.traffic = Traffic(running=0)
    running.apply(model=OTHER, rollout=rollout({"timeoutSeconds": 1, "onInconclusive": "Hold"}))
    running.until(lambda: running.is_condition("RolledBack", "False", "Inconclusive"), "the end of the analysis", 30)
    held = running.wait_converged()
    assert (held["lastGoodRevision"], held["revision"] != good["revision"]) == (good["revision"], True)
    running.quiet()
    running.kubelet.serve(GOOD)
    running.until(lambda: running.status()["lastGoodRevision"] == held["revision"], "what traffic decides", 60)


def test_a_canary_that_is_held_is_neither_settled_nor_stalled(running: Scene) -> None:
    good = proved(running, replicas=2)
    running.kubelet.traffic = Traffic(running=0)
    asked = {"replicas": 2, "model": OTHER}
    running.apply(**asked, rollout=rollout({"timeoutSeconds": 1, "onInconclusive": "Hold"}))
    running.until(lambda: running.is_condition("Reconciling", "True", "Inconclusive"), "held", 30)
    assert running.is_condition("Ready", "True", "Serving")
    assert running.is_condition("Stalled", "False")
    assert (len(of(running, "/models/other")), running.status()["lastGoodRevision"]) == (1, good["revision"])
    running.quiet()
    running.apply(**asked, rollout=rollout({"timeoutSeconds": 1, "onInconclusive": "Promote"}))
    assert running.wait_converged(60)["lastGoodRevision"] != good["revision"], "the way out that the docs name"


WARM = {"timeoutSeconds": 600, "onInconclusive": "Hold", "warmUp": "WhenIdle"}


@pytest.mark.parametrize(("accepts", "reason"), [(GOOD, ""), (LESS, "AcceptanceWorse")])
def test_an_idle_box_is_judged_by_warm_up_alone(running: Scene, accepts: Traffic, reason: str) -> None:
    """Nobody asks anything, before or after: what the prompts show of both revisions decides."""
    asked = {"replicas": 2, "rollout": rollout(WARM)}
    running.kubelet.traffic = replace(GOOD, running=0)
    running.apply(**asked)
    running.wait_converged()
    running.until(lambda: running.status().get("warmUp", {}).get("requests", 0) >= 12, "the good one's", 90)
    running.quiet()
    good = running.status()
    assert "acceptance" not in good, "warm-up is no traffic"
    assert "throughput" not in good
    running.kubelet.traffic = replace(accepts, running=0)
    running.apply(**asked, model=OTHER)
    if reason:
        status = returned(running, reason, 120)
        assert status["revision"] == good["revision"]
        assert status["warmUp"] == good["warmUp"], "what is known of the good one is back"
        assert "warm-up prompts" in running.condition("RolledBack")["message"]
    else:
        running.until(lambda: running.status()["lastGoodRevision"] != good["revision"], "taken", 120)
        running.until(lambda: "warm-up prompts" in running.condition("RolledBack")["message"], "and told by what", 60)
        assert running.wait_converged(60)["warmUp"]["revision"] == running.status()["revision"]


def test_all_at_once_takes_every_box_and_gives_every_box_back(running: Scene) -> None:
    good = proved(running, replicas=3)
    running.kubelet.script = never_ready
    running.kubelet.overlap = 0
    limits = rollout(JUDGED | {"progressDeadlineSeconds": 8}, strategy="AllAtOnce")
    running.apply(replicas=3, model=OTHER, rollout=limits)
    running.until(lambda: len(of(running, "/models/other")) == 3, "all boxes", 30)
    assert returned(running, "ProgressDeadlineExceeded")["revision"] == good["revision"]
    assert running.kubelet.overlap <= 3


def test_earlier_revisions_are_kept_up_to_the_limit(running: Scene) -> None:
    names = []
    for i in range(4):
        running.apply(model={"target": f"/models/m{i}"}, rollout=rollout(revisionHistoryLimit=1))
        names.append(f"{NAME}-{running.wait_converged()['revision']}")
        running.until(lambda: running.status()["lastGoodRevision"] in names[-1], "the good one", 10)
    running.until(lambda: set(running.deployments()) == set(names[-2:]), "pruning", 10)
    assert running.deployments()[names[-2]] == 0
    kept = {name for plural, name in running.children() if plural == "configmaps"}
    assert kept == set(names[-2:])
    running.apply(model={"target": "/models/m2"}, rollout=rollout(revisionHistoryLimit=1))
    assert running.wait_converged()["revision"] in names[-2]
    running.apply(model={"target": "/models/m9"}, rollout=rollout(revisionHistoryLimit=1))
    last = f"{NAME}-{running.wait_converged()['revision']}"
    running.until(lambda: set(running.deployments()) == {names[-2], last}, "the one used last is kept", 10)
