"""Fault, mix change and recovery: promises about errors and delays, measured."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from river import drift

from bench.klab.detectors import false_alarms, mix_delays, mix_false_alarms
from gemmaspec_engine.fault import FAULT, HEALTHY, FaultDetector, MixDetector, Sprt, information


def drafts_to_verdict(rate: float, life: int, seed: int, limit: int = 3000) -> tuple[str | None, int]:
    rng, detector = random.Random(seed), FaultDetector()
    for n in range(limit):
        if detector.observe((int(rng.random() < rate),), (n // life,)):
            return detector.verdict, n + 1
    return detector.verdict, limit


@pytest.mark.parametrize(("rate", "share"), [(0.0, 1.0), (0.002, 0.9), (0.01, 0.4)])
@pytest.mark.parametrize("life", [10, 66])
def test_a_broken_drafter_is_found_within_200_drafts(rate: float, share: float, life: int) -> None:
    """Up to .02 the policies turn off within 200 drafts by what they earn; the verdict may follow later."""
    found = [drafts_to_verdict(rate, life, seed) for seed in range(60)]
    assert statistics.mean(verdict == FAULT and n <= 200 for verdict, n in found) >= share


def test_short_requests_bring_the_verdict_sooner() -> None:
    assert drafts_to_verdict(0.0, 10, 1)[1] < drafts_to_verdict(0.0, 66, 1)[1] <= 133


def test_two_requests_are_never_enough() -> None:
    detector = FaultDetector()
    for n in range(5000):
        assert detector.observe((0,), (n % 2,)) is None
    for _ in range(5):
        detector.observe((0,), (3,))
    assert detector.verdict == FAULT


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4, 0.9])
def test_weak_but_working_drafters_prove_themselves(rate: float) -> None:
    found = [drafts_to_verdict(rate, 50, seed) for seed in range(60)]
    assert {verdict for verdict, _ in found} == {HEALTHY}
    assert statistics.median(n for _, n in found) < (25 if rate >= 0.4 else 500)


def test_no_drop_is_a_fault_after_proof() -> None:
    detector = FaultDetector()
    for n in range(40):
        detector.observe((1,), (n // 10,))
    for n in range(2000):
        detector.observe((0,), (n // 10,))
    assert detector.verdict == HEALTHY
    assert "works" in detector.explain()


def test_no_false_alarm_on_healthy_clustered_traffic() -> None:
    """Bounded; `python -m bench.klab` does it with 30 million drafts (bench/results/klab.json)."""
    found = false_alarms(150_000)
    assert found.alarms == 0
    assert found.highest_nats < found.needed_nats - 5


@pytest.mark.parametrize("requests", [(100, 100, 1), (100, 100, 100), (40, 40, 40), (50, 50, 20), (10,) * 12])
def test_a_healthy_drafter_is_hardly_ever_suspected(requests: tuple[int, ...]) -> None:
    """Exact: probability that no more of these requests' drafts are accepted than a suspicion tolerates."""
    most = max(s for s in range(sum(requests)) if suspected(sum(requests), s))
    below = [1.0] + [0.0] * most
    for n in requests:
        own = [beta_binomial(n, s, 0.4, 20.0) if s <= n else 0.0 for s in range(most + 1)]
        below = [sum(below[i] * own[s - i] for i in range(s + 1)) for s in range(most + 1)]
    assert sum(below) < 1e-9


def beta_binomial(n: int, s: int, mean: float, c: float) -> float:
    a, b = c * mean, c * (1 - mean)
    ways = math.lgamma(n + 1) - math.lgamma(s + 1) - math.lgamma(n - s + 1)
    up = math.lgamma(a + s) + math.lgamma(b + n - s) - math.lgamma(c + n)
    return math.exp(ways + up - math.lgamma(a) - math.lgamma(b) + math.lgamma(c))


def suspected(drafts: int, accepted: int) -> bool:
    detector = FaultDetector(false_alarm=1e-300)
    detector.drafts, detector.accepted, detector.requests = drafts, accepted, 3
    return detector.hopeless


def test_without_ids_a_fault_takes_longer_but_comes() -> None:
    detector = FaultDetector()
    drafts = 0
    while detector.observe((0, 0), ()) is None:
        drafts += 2
        assert drafts < 1000
    assert detector.verdict == FAULT
    assert drafts > 150


def test_windows_of_counters_reach_the_same_verdicts() -> None:
    broken, healthy = FaultDetector(), FaultDetector()
    assert broken.observe_window(80, 0, 2) is None
    assert broken.observe_window(220, 1, 6) == FAULT
    assert healthy.observe_window(100, 40, 4) == HEALTHY
    with pytest.raises(ValueError, match="contradict"):
        healthy.observe_window(3, 5)


@given(st.integers(3, 200), st.integers(1, 2000))
def test_120_drafts_of_three_requests_without_one_accepted_are_a_fault(requests: int, drafts: int) -> None:
    """What docs/rollouts.md promises of a revision on trial, whose engine's counters are read as one window."""
    assume(drafts * requests >= 120)
    assert FaultDetector().observe_window(drafts * requests, 0, requests) == FAULT


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), max_size=80))
def test_fault_state_is_restored_exactly(told: list[tuple[int, int]]) -> None:
    one, two = FaultDetector(), FaultDetector()
    for hit, request in told:
        one.observe((hit,), (request,))
    two.load_state(json.loads(json.dumps(one.export_state())))
    assert two.export_state() == one.export_state()
    for hit, request in told:
        assert one.observe((hit,), (request,)) == two.observe((hit,), (request,))
    assert two.evidence() == one.evidence()


def test_mix_changes_are_noticed_within_twice_the_bound() -> None:
    rows, worst = mix_delays(runs=12)
    assert len(rows) == 15
    assert worst["worstRatio"] <= 2.0


def test_mix_false_alarms_stay_below_the_promise() -> None:
    found = mix_false_alarms(200_000, arl=2000)
    assert found["meanBetween"] >= found["promised"]


def test_whole_requests_tell_the_same_as_their_drafts() -> None:
    """Up to where the sums may restart: after every draft, or after every request."""
    one, two = MixDetector(0.7), MixDetector(0.7)
    for request in range(4):
        one.observe(([0, 1, 0, 0, 1, 0] * 5), [request] * 30)
        two.observe_request(30, 10)
    assert one.changed_to == two.changed_to
    assert two.statistic == pytest.approx(one.statistic, abs=2.0)


def test_mix_detector_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="mean"):
        MixDetector(1.0)
    with pytest.raises(ValueError, match="false_alarm_drafts"):
        MixDetector(0.5, false_alarm_drafts=0)
    with pytest.raises(ValueError, match="5 accepted of 3"):
        MixDetector(0.5).observe_request(3, 5)


def test_information_of_a_cluster_is_less_than_of_its_drafts() -> None:
    """With ever more concentration it tends to the Bernoulli information of independent drafts."""
    bernoulli = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    clustered, nearly = information(0.8, 0.5, 20.0, 50), information(0.8, 0.5, 1e6, 50)
    assert clustered < 0.5 * 50 * bernoulli
    assert nearly == pytest.approx(50 * bernoulli, rel=0.01)
    assert information(0.6, 0.6, 20.0, 30) == pytest.approx(0.0, abs=1e-9)


def test_river_agrees_where_drafts_are_independent() -> None:
    """ADWIN and Page-Hinkley see the same drop; ours sees it no later than ADWIN does."""
    rng = random.Random(8)
    before, after = ([rng.random() < p for _ in range(3000)] for p in (0.8, 0.4))
    ours = MixDetector(0.8, concentration=1e6, false_alarm_drafts=1e6)
    adwin, page = drift.ADWIN(delta=1e-6), drift.PageHinkley(threshold=50, min_instances=30, delta=0.05)
    seen: dict[str, int] = {}
    for n, hit in enumerate(before + after):
        adwin.update(hit)
        page.update(hit)
        found = {
            "ours": ours.observe((int(hit),), (n,)),
            "adwin": adwin.drift_detected,
            "page": page.drift_detected,
        }
        for name, alarm in found.items():
            if alarm:
                seen.setdefault(name, n)
    assert set(seen) == {"ours", "adwin", "page"}
    assert all(3000 <= n < 3400 for n in seen.values()), seen
    assert seen["ours"] <= seen["adwin"]


def test_river_raises_alarms_on_clustered_traffic_where_ours_does_not() -> None:
    """Why a detector of our own: requests differ, and ADWIN takes every request for a change."""
    rng = random.Random(9)
    ours, adwin, alarms = MixDetector(0.7, false_alarm_drafts=1e6), drift.ADWIN(delta=0.002), 0
    for request in range(400):
        rate = rng.betavariate(14, 6)
        for _ in range(100):
            hit = rng.random() < rate
            adwin.update(hit)
            alarms += adwin.drift_detected
            assert not ours.observe((int(hit),), (request,))
    assert alarms >= 5


@pytest.mark.parametrize(("rate", "accepts"), [(0.45, False), (0.75, True)])
def test_sprt_keeps_its_error_probabilities(rate: float, accepts: bool) -> None:
    rng, wrong, trials = random.Random(4), 0, []
    for _ in range(300):
        test = Sprt(0.5, 0.7, false_accept=0.01, false_reject=0.05)
        while test.decision is None:
            hit = rng.random() < rate
            test.observe(hit, not hit)
        wrong += test.decision is not accepts
        trials.append(test.trials)
    assert wrong <= 12
    assert statistics.mean(trials) < 80


def test_sprt_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="low < high"):
        Sprt(0.7, 0.5)
    with pytest.raises(ValueError, match="error probabilities"):
        Sprt(0.5, 0.7, false_accept=0.9)


def test_detector_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="false_alarm"):
        FaultDetector(false_alarm=0.0)
    with pytest.raises(ValueError, match="weak"):
        FaultDetector(weak=0.01)
