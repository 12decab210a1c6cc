"""K on a real API server with fake engines: what is reported, when K moves, and that no accident moves it."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest

from tests.integration.fake_engine import BAD, BROKEN, GOOD, SILENCE
from tests.integration.scene import NAME, Scene, speculative

pytestmark = pytest.mark.control_plane


def test_good_drafts_are_reported_and_kept(running: Scene) -> None:
    running.apply(replicas=2)
    running.wait_converged()
    running.until(lambda: {"acceptance", "throughput"} <= running.status().keys(), "figures", 30)
    status = running.status()
    acceptance = status["acceptance"]
    assert acceptance["perPosition"] == pytest.approx([0.95] * 4, abs=0.02)
    assert acceptance["tokensPerStep"] == pytest.approx(1 + 0.95 + 0.95**2 + 0.95**3 + 0.95**4, abs=0.1)
    assert acceptance["mean"] == pytest.approx((acceptance["tokensPerStep"] - 1) / 4, abs=0.02)
    # Two engines of 8 sequences, a step of 16 ms at K = 4.
    expected = 2 * 8 / 0.016 * acceptance["tokensPerStep"]
    assert status["throughput"]["tokensPerSecond"] == pytest.approx(expected, rel=0.2)
    assert status["throughput"]["stepMilliseconds"] == pytest.approx(16.0, rel=0.05)
    assert (status["k"]["desired"], status["k"]["effective"]) == (4, 4)
    assert running.is_condition("SpeculationHealthy", "True", "Accepting")
    assert "history" not in status


def test_drafts_that_do_not_pay_lower_k_until_they_pay_again(running: Scene) -> None:
    running.apply(speculative=speculative(recovery={"holdSeconds": 8}))
    first = running.wait_converged()["revision"]
    running.until(lambda: running.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    before = running.resource()["metadata"]
    running.kubelet.serve(BAD)
    running.until(lambda: running.status()["k"]["effective"] == 0, "K lowered", 40)
    status = running.wait_converged()
    assert status["revision"] != first
    (name,) = running.deployments()
    deployment = running.read("deployments", name)
    assert name == f"{NAME}-{status['revision']}"
    assert deployment["metadata"]["annotations"]["gemmaspec.io/k"] == "0"
    assert "--speculative-config" not in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    (entry,) = status["history"]
    assert (entry["reason"], entry["fromK"], entry["toK"]) == ("DraftsDoNotPay", 4, 0)
    assert "tokens a step" in entry["message"]
    assert running.is_condition("SpeculationHealthy", "False", "KLowered")
    (event,) = running.events("DraftsDoNotPay")
    assert (event["type"], event["message"]) == ("Warning", entry["message"])
    after = running.resource()["metadata"]
    assert after["generation"] == before["generation"]
    owners = [e for e in after["managedFields"] if "f:spec" in e["fieldsV1"]]
    assert [owner["manager"] for owner in owners] == ["user"]

    running.kubelet.serve(GOOD)
    running.until(lambda: running.status()["k"]["effective"] == 4, "the trial of the desired K", 40)
    assert running.wait_converged()["revision"] == first, "the same K is the same revision"
    running.until(lambda: running.is_condition("SpeculationHealthy", "True", "Accepting"), "recovery", 40)
    reasons = [entry["reason"] for entry in running.status()["history"]]
    assert reasons == ["DraftsDoNotPay", "TrialAfterHold", "RecoveryProved"]
    (event,) = running.events("RecoveryProved")
    assert event["message"] == running.status()["history"][-1]["message"]
    assert running.resource()["metadata"]["generation"] == before["generation"]


def test_fixed_mode_reports_and_moves_nothing(running: Scene) -> None:
    running.kubelet.serve(BAD)
    running.apply(speculative=speculative(mode="Fixed"))
    first = running.wait_converged()["revision"]
    running.until(lambda: "acceptance" in running.status(), "figures", 30)
    assert running.status()["acceptance"]["perPosition"][0] == pytest.approx(0.03, abs=0.02)
    mark = running.plane.audit.mark()
    scrapes = running.engines()[0].scrapes
    running.until(lambda: running.engines()[0].scrapes > scrapes + 12, "a whole window", 40)
    assert running.status()["k"]["effective"] == 4
    assert running.status()["revision"] == first
    assert {event.resource for event in running.writes(mark)} <= {"gemmaspecdeploys"}
    assert not running.events("DraftsDoNotPay")


def test_broken_drafter_ends_speculation_until_the_spec_changes(running: Scene) -> None:
    running.kubelet.serve(BROKEN)
    running.apply(speculative=speculative(recovery={"holdSeconds": 1}))
    running.until(lambda: running.is_condition("SpeculationHealthy", "False", "DraftRejected"), "a fault", 30)
    running.until(lambda: running.status()["k"]["effective"] == 0, "no speculation")
    running.wait_converged()
    assert "drafter is broken" in running.condition("SpeculationHealthy")["message"]
    assert running.status()["k"]["desired"] == 4
    (event,) = running.events("DraftRejected")
    assert event["type"] == "Warning"
    scrapes = running.engines()[0].scrapes
    running.kubelet.serve(GOOD)
    running.until(lambda: running.engines()[0].scrapes > scrapes + 8, "more scrapes than a hold", 30)
    assert running.status()["k"]["effective"] == 0, "tried again without a new spec"
    running.apply(speculative=speculative() | {"drafter": {"model": "/models/mended"}})
    running.until(lambda: running.is_condition("SpeculationHealthy", "True", "Accepting"), "the mended drafter", 40)
    assert running.status()["k"]["effective"] == 4


def test_missing_measurements_move_nothing(running: Scene) -> None:
    """Engines that do not answer, answer nonsense, say nothing of speculation, restart, or have nothing to do."""
    running.apply()
    first = running.wait_converged()["revision"]
    running.until(lambda: running.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    (engine,) = running.engines()

    def rounds(count: int) -> None:
        seen = engine.scrapes
        running.until(lambda: engine.scrapes >= seen + count, f"{count} scrapes", 30)

    for answer, count in (("error", 2), ("garbage", 2), ("halfway", 2), ("late", 1), ("ok", 2)):
        engine.answer = answer
        rounds(count)
    engine.reset()
    rounds(2)
    engine.reset()
    engine.serve(SILENCE)
    rounds(3)
    engine.serve(GOOD)
    rounds(2)
    status = running.status()
    assert (status["k"]["effective"], status["revision"]) == (4, first)
    assert status["acceptance"]["perPosition"][0] == pytest.approx(0.95, abs=0.03)
    assert "history" not in status
    running.kubelet.serve(BAD)  # the machine still judges
    running.until(lambda: running.status()["k"]["effective"] == 0, "K lowered", 40)


def end_state(scene: Scene, name: str = NAME) -> dict[str, Any]:
    """What must not depend on when the operator died."""
    status = scene.resource(name).get("status", {})
    return {
        "children": sorted(
            (plural, child["spec"]["replicas"] if plural == "deployments" else None)
            for (plural, _), child in scene.children(name).items()
        ),
        "k": (status["k"]["desired"], status["k"]["effective"]),
        "conditions": {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]},
        "replicas": (status["replicas"], status["readyReplicas"]),
    }


# ServiceAccount, Service, disruption budget, ConfigMap, Deployment, status. The gate kills at the telling ones.
KILL_AT = range(1, 7) if os.environ.get("GEMMASPEC_LONG") else (1, 4, 5, 6)


def test_operator_killed_after_each_write_of_a_start_ends_the_same(scene: Scene) -> None:
    """One resource for each write: the operator is killed at that write, and started again. GEMMASPEC_LONG=1: all."""
    scene.operator.start()
    states = []
    for writes in (0, *KILL_AT):
        name = f"tried-{writes}"
        mark = scene.plane.audit.mark()
        scene.apply(name)
        if writes:
            scene.until(lambda: len(scene.writes(mark)) >= writes, f"{writes} writes", 10)  # noqa: B023
            scene.operator.restart()
        scene.until(lambda: scene.converged(name), "convergence", 30)  # noqa: B023
        scene.until(lambda: proved(scene, name), "proved acceptance", 30)  # noqa: B023
        states.append(end_state(scene, name))
    assert [state for state in states if state != states[0]] == []


def test_operator_killed_again_and_again_during_a_rollback_ends_the_same(scene: Scene) -> None:
    """GEMMASPEC_KILLS says how often; moments are random, the seed is told."""
    seed = int(os.environ.get("GEMMASPEC_SEED", time.time_ns() % 100_000))
    print(f"GEMMASPEC_SEED={seed}")
    moments = random.Random(seed)
    scene.operator.start()
    scene.kubelet.termination_seconds = 0.5
    scene.apply()
    scene.wait_converged()
    scene.until(lambda: scene.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    scene.kubelet.serve(BAD)
    for _ in range(int(os.environ.get("GEMMASPEC_KILLS", "3"))):
        mark = scene.plane.audit.mark()
        writes = moments.randint(1, 4)
        scene.until(lambda: len(scene.writes(mark)) >= writes or done(scene), f"{writes} writes", 40)  # noqa: B023
        scene.operator.restart()
    scene.until(lambda: done(scene), "the end", 40)
    state = end_state(scene)
    assert state["k"] == (4, 0)
    assert state["conditions"]["SpeculationHealthy"] == ("False", "KLowered")
    assert [entry["toK"] for entry in scene.status()["history"]] == [0]
    assert state["children"] == [
        ("configmaps", None),
        ("deployments", 1),
        ("poddisruptionbudgets", None),
        ("serviceaccounts", None),
        ("services", None),
    ]
    assert scene.kubelet.overlap == 1


def proved(scene: Scene, name: str) -> bool:
    return bool(end_state(scene, name)["conditions"]["SpeculationHealthy"] == ("True", "Accepting"))


def done(scene: Scene) -> bool:
    return scene.status()["k"]["effective"] == 0 and scene.converged() and len(scene.deployments()) == 1
