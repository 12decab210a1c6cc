"""What Prometheus is told of resources: values of the last pass, and nothing of what is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gemmaspec.adapters.engine import Engines
from gemmaspec.api import identity
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.observation import Pod, Proof, Sample
from gemmaspec.core.reconcile import Reading
from gemmaspec.core.series import Series
from gemmaspec.runtime import families, metrics
from gemmaspec.runtime.board import Board
from gemmaspec.runtime.cache import Cache
from gemmaspec.runtime.scraper import Scraper
from tests.runtime.test_worker import KEY, SPEC, Operator, bad_traffic, started
from tests.simulated.fake_cluster import FakeScraper

OF_TINY = {"namespace": "ns", "name": "tiny"}
NOW = 1_800_000_000.0


def told(board: Board) -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics.show(board, registry)
    return registry


def value(board: Board, name: str, **labels: str) -> float | None:
    return told(board).get_sample_value(name, OF_TINY | labels)


def series(board: Board) -> list[str]:
    return [line for line in generate_latest(told(board)).decode().splitlines() if not line.startswith("#")]


class Told:
    """A stand-in for the scraper: what engines and agents said."""

    def __init__(self, samples: Sequence[Sample] = (), reports: Sequence[Report] = ()) -> None:
        self.known, self.said = samples, reports

    def samples(self, pods: Sequence[Pod]) -> dict[str, Sequence[Sample]]:
        return {pod.uid: self.known for pod in pods} if self.known else {}

    def wishes(self, pods: object) -> tuple[object, ...]:
        return ()

    def reports(self, pods: Sequence[Pod]) -> dict[str, Sequence[Report]]:
        return {pod.uid: self.said for pod in pods}


def sample(seconds: float, drafts: float, *positions: float) -> Sample:
    return Sample(
        time=NOW + seconds,
        drafts=drafts,
        draft_tokens=drafts * len(positions),
        accepted_tokens=sum(positions),
        accepted_per_position=positions,
        generation_tokens=drafts + sum(positions),
        requests_finished=seconds,
        step_seconds_sum=drafts * 0.02,
        step_seconds_count=drafts,
        running=1.0,
    )


def pod(**changes: Any) -> Pod:
    body = {"name": "tiny-1", "uid": "u1", "revision": "r1", "k": 2, "ip": "10.0.0.1", "node": "n1", "phase": "Running"}
    states = {"ready": True, "terminating": False, "running": True, "restarts": 0, "ready_at": NOW - 60}
    return Pod(**{**body, **states, **changes})


def status(k: int = 2, history: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    kept = {"desired": 2, "effective": k, "since": "2027-01-15T08:00:00Z", "actuator": "Restart"}
    return {"k": kept, "revision": "r1", "target": "/models/tiny", "history": list(history), "conditions": []}


def board(samples: Sequence[Sample] = (), now: float = NOW, reports: Sequence[Report] = ()) -> Board:
    return Board(Told(samples, reports), lambda: now)


def entry(second: int, before: int, after: int, reason: str = "DraftsDoNotPay") -> dict[str, Any]:
    return {"time": f"2027-01-15T08:00:{second:02}Z", "reason": reason, "fromK": before, "toK": after}


async def test_a_rollback_is_told_with_its_reason() -> None:
    cluster, scraper = await bad_traffic()
    operator = Operator(cluster, scraper)
    await operator.once()
    shown = operator.worker.board
    assert value(shown, "gemmaspec_k_desired") == 4
    assert value(shown, "gemmaspec_k_effective") == 0
    assert value(shown, "gemmaspec_decisions_total", reason="DraftsDoNotPay") == 1
    assert value(shown, "gemmaspec_rollbacks_total", reason="DraftsDoNotPay") == 1
    assert value(shown, "gemmaspec_rollbacks_total", reason="DraftRejected") == 0
    lowered = {"condition": "SpeculationHealthy", "status": "False", "reason": "KLowered"}
    assert value(shown, "gemmaspec_status_condition", **lowered) == 1
    assert value(
        shown, "gemmaspec_resource_info", target="/models/tiny-gemma4/target", mode="Rollback", actuator="Restart"
    )
    lowest, top = (value(shown, "gemmaspec_goodput_estimate_tokens_per_second", k=k) for k in ("0", "4"))
    assert lowest is not None
    assert top is not None
    assert lowest > top, "that is why K was lowered"


async def test_series_end_with_the_resource() -> None:
    cluster = started()
    operator = Operator(cluster)
    await operator.settle()
    assert any('name="tiny"' in line for line in series(operator.worker.board))
    cluster.remove(identity.KIND, "ns", "tiny")
    operator.watch.deliver()
    await operator.once()
    assert series(operator.worker.board) == []


async def test_a_spec_that_cannot_be_made_so_is_told_too() -> None:
    cluster = started({**SPEC, "recipe": "none-such"})
    operator = Operator(cluster)
    await operator.once()
    stalled = {"condition": "Stalled", "status": "True", "reason": "UnknownRecipe"}
    assert value(operator.worker.board, "gemmaspec_status_condition", **stalled) == 1
    assert value(operator.worker.board, "gemmaspec_k_effective") is None


def test_acceptance_is_conditional_and_ends_with_its_position() -> None:
    shown = board([sample(-20, 100, 50, 20), sample(-10, 200, 130, 60)])
    shown.put(KEY, status(), [pod()], Reading("Rollback", 1))
    assert value(shown, "gemmaspec_conditional_acceptance_ratio", position="0") == pytest.approx(0.8)
    assert value(shown, "gemmaspec_conditional_acceptance_ratio", position="1") == pytest.approx(0.5)
    assert value(shown, "gemmaspec_tokens_per_step") == pytest.approx(2.2)
    assert value(shown, "gemmaspec_generated_tokens_per_second") == pytest.approx(22.0)
    assert value(shown, "gemmaspec_step_duration_seconds") == pytest.approx(0.02)
    shown.put(KEY, status(k=1), [pod()], Reading("Rollback", 1))
    assert value(shown, "gemmaspec_conditional_acceptance_ratio", position="1") is None


def test_an_idle_engine_has_no_speed_though_no_pass_runs() -> None:
    samples = [sample(-20, 100, 50, 20), sample(-10, 200, 130, 60)]
    shown = board(samples, now=NOW + 60)
    shown.put(KEY, status(), [pod()], Reading("Rollback", 1))
    assert value(shown, "gemmaspec_generated_tokens_per_second") == 0
    assert value(shown, "gemmaspec_conditional_acceptance_ratio", position="0") is None
    assert value(shown, "gemmaspec_last_scrape_timestamp_seconds") == NOW - 10


def test_the_engine_that_waits_longest_for_a_scrape_speaks() -> None:
    class One(Told):
        def samples(self, pods: Sequence[Pod]) -> dict[str, Sequence[Sample]]:
            return {"u1": [sample(-1, 100, 50, 20)]}

    shown = Board(One(), lambda: NOW)
    shown.put(KEY, status(), [pod(), pod(name="tiny-2", uid="u2", ready_at=NOW - 600)], Reading("Rollback", 2))
    assert value(shown, "gemmaspec_last_scrape_timestamp_seconds") == NOW - 600


def test_rates_of_agents_are_taken_where_there_are_agents() -> None:
    settings = Wanted("Adaptive", 2, 0, 2)
    first = Report(NOW - 20, True, "", 2, settings, ((100, 50), (50, 10)), 3, {2: 100})
    last = replace(first, time=NOW - 5, positions=((200, 140), (100, 40)), steps={2: 200})
    shown = board([sample(-20, 100, 50, 20), sample(-10, 200, 130, 60)], reports=[first, last])
    shown.put(KEY, status(), [pod(live=True)], Reading("Adaptive", 1))
    assert value(shown, "gemmaspec_conditional_acceptance_ratio", position="0") == pytest.approx(0.9)
    assert value(shown, "gemmaspec_conditional_acceptance_ratio", position="1") == pytest.approx(0.6)


def test_decisions_begin_at_zero_and_survive_the_operator() -> None:
    first = board()
    first.put(KEY, status(), [], Reading())
    assert value(first, "gemmaspec_rollbacks_total", reason="DraftsDoNotPay") == 0
    history = [entry(1, 4, 2), entry(2, 2, 4, "TrialAfterHold"), entry(3, 4, 0)]
    for end in (1, 2, 3, 3):
        first.put(KEY, status(history=history[:end]), [], Reading())
    assert value(first, "gemmaspec_rollbacks_total", reason="DraftsDoNotPay") == 2
    assert value(first, "gemmaspec_decisions_total", reason="TrialAfterHold") == 1
    restarted = board()
    restarted.put(KEY, status(history=history), [], Reading())
    assert series(restarted) == series(first)


def test_a_revision_that_is_taken_back_is_a_rollback() -> None:
    shown = board()
    taken_back = {"time": "2027-01-15T08:00:00Z", "reason": "RolledBack", "revision": "r2"}
    shown.put(KEY, status(history=[taken_back]), [], Reading())
    assert value(shown, "gemmaspec_rollbacks_total", reason="RolledBack") == 1
    assert value(shown, "gemmaspec_decisions_total", reason="RevisionPromoted") == 0


def test_decisions_go_on_beyond_what_the_history_holds() -> None:
    shown = board()
    history = [entry(second, 4, 0) for second in range(30)]
    for end in range(31):
        shown.put(KEY, status(history=history[max(0, end - 20) : end]), [], Reading())
    assert value(shown, "gemmaspec_rollbacks_total", reason="DraftsDoNotPay") == 30


def test_engines_and_proofs_by_state() -> None:
    shown = board()
    good, bad = Proof(True, "Proved", ""), Proof(False, "VersionMismatch", "")
    pods = [
        pod(proof=good),
        pod(name="b", uid="u2", ready=False, proof=bad),
        pod(name="c", uid="u3", ready=False, terminating=True, revision="r0", proof=good),
        pod(name="d", uid="u4", ready=False, phase="Failed"),
    ]
    shown.put(KEY, {**status(), "lastGoodRevision": "r0"}, pods, Reading("Rollback", 3))
    assert value(shown, "gemmaspec_engines_desired") == 3
    assert value(shown, "gemmaspec_engines", revision="r1", state="ready") == 1
    assert value(shown, "gemmaspec_engines", revision="r1", state="starting") == 1
    assert value(shown, "gemmaspec_engines", revision="r0", state="leaving") == 1
    assert value(shown, "gemmaspec_preflight_engines", result="failed", reason="VersionMismatch") == 1
    assert value(shown, "gemmaspec_preflight_engines", result="passed", reason="Proved") == 2
    assert value(shown, "gemmaspec_revision_info", revision="r0", state="last-good") == 1


def test_the_number_of_series_is_bounded() -> None:
    """The largest K that the schema takes, every condition, and a hundred resources."""
    positions = [1000.0 - i for i in range(32)]
    samples = [sample(-20, 100, *[0.0] * 32), sample(-10, 1100, *positions)]
    shown = board(samples)
    full = status(k=32) | {"conditions": [{"type": f"C{i}", "status": "True", "reason": "R"} for i in range(8)]}
    for number in range(100):
        shown.put(("ns", f"r{number}"), full, [pod()], Reading("Rollback", 1, dict.fromkeys(range(33), 1.0)))
    assert len(series(shown)) <= 100 * 99


def test_every_family_is_declared_and_tells_its_unit() -> None:
    names = [family.name for family in families.OF_RESOURCES]
    assert len(names) == len(set(names))
    for family in families.OF_RESOURCES:
        assert family.meaning.endswith("."), family.name
        assert not family.name.endswith("_total"), "the client adds it"


def test_a_pod_may_go_while_metrics_are_collected() -> None:
    """Collection runs in a thread of its own: what is asked for may be gone between two looks."""

    class Going(dict[str, Series]):
        def __contains__(self, uid: object) -> bool:
            raise AssertionError("two looks at one pod")

    scraper = Scraper(cast("Engines", None), cast("Cache", None), lambda _: 0, lambda _: None, 1.0)
    scraper._series = Going({"u1": Series([sample(-1, 100, 50, 20)])})
    assert list(scraper.samples([pod(), pod(uid="u2")])) == ["u1"]


def test_a_scraper_that_a_test_fakes_fits() -> None:
    assert series(Board(FakeScraper(), lambda: NOW)) == []


def test_agents_that_fell_back_are_counted() -> None:
    well = Report(NOW, True, "", 2, Wanted("Adaptive", 2, 0, 2), (), 0, {})
    for report, count in ((well, 0.0), (replace(well, fallback="choose: ValueError"), 1.0)):
        shown = board(reports=(report,))
        shown.put(("ns", "tiny"), status(), (pod(live=True),), Reading("Adaptive", 1, {}))
        assert value(shown, "gemmaspec_agents_fallen_back") == count
    silent = board()
    silent.put(("ns", "tiny"), status(), (pod(live=True),), Reading("Adaptive", 1, {}))
    assert value(silent, "gemmaspec_agents_fallen_back") is None
