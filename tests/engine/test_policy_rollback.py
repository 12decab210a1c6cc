"""The cautious policy: down on evidence, back on proof, with growing patience."""

from __future__ import annotations

import statistics

import pytest

from gemmaspec_engine.policy import make
from tests.engine.policy_play import Traffic

GB10_26B = (26.0, 33.9, 43.5, 48.0, 52.8, 58.0, 64.0, 70.0, 75.1)
GOOD, BAD = [0.85] * 8, [0.05] * 8


def test_stays_where_it_is_put_while_that_pays() -> None:
    chosen = Traffic(GOOD, tuple(20 + 0.2 * k for k in range(9))).run(make("rollback", k_max=8, k=4), 1500)
    assert statistics.mode(chosen) == 4
    assert sum(k != 4 for k in chosen) < 0.02 * len(chosen)


def test_never_goes_above_the_desired_k() -> None:
    chosen = Traffic(GOOD, tuple(20 + 0.01 * k for k in range(9))).run(make("rollback", k_max=8, k=2), 800)
    assert max(chosen) == 2


def test_goes_down_on_evidence_and_says_so() -> None:
    policy = make("rollback", k_max=8, k=4)
    Traffic(GOOD, GB10_26B).run(policy, 300)
    chosen = Traffic(BAD, GB10_26B, seed=2).run(policy, 400)
    assert statistics.mean(chosen[200:]) < 1
    assert "rolled back" in policy.explain() or "next try" in policy.explain() or "proving" in policy.explain()


def test_comes_back_after_recovery_is_proved() -> None:
    policy = make("rollback", k_max=8, k=4, hold=64)
    Traffic(GOOD, GB10_26B).run(policy, 300)
    Traffic(BAD, GB10_26B, seed=2).run(policy, 400)
    chosen = Traffic(GOOD, GB10_26B, seed=3).run(policy, 3000)
    assert statistics.mean(chosen[-300:]) > 2.5


def test_waits_longer_after_each_failed_proof() -> None:
    policy = make("rollback", k_max=8, k=4, hold=32)
    Traffic(GOOD, GB10_26B).run(policy, 200)
    chosen = Traffic(BAD, GB10_26B, seed=2).run(policy, 6000)
    early, late = chosen[500:2000], chosen[4500:]
    assert sum(k > 0 for k in late) < sum(k > 0 for k in early)
    assert sum(k > 0 for k in late) < 0.05 * len(late)


@pytest.mark.parametrize("step_ms", [GB10_26B, tuple(20 + 0.001 * k for k in range(9))], ids=["GB10", "free"])
@pytest.mark.parametrize("rate", [0.0, 0.002, 0.01, 0.02])
def test_a_broken_drafter_is_off_within_200_drafts(rate: float, step_ms: tuple[float, ...]) -> None:
    for seed in range(5):
        policy = make("rollback", k_max=8, k=4)
        traffic = Traffic([rate] * 8, step_ms, life=40, seed=seed)
        traffic.run(policy, 3000)
        assert traffic.drafts <= 200
        assert set(traffic.chosen[-1000:]) == {0}
        assert policy.verdict != "healthy"  # type: ignore[attr-defined]


def test_bounds_that_exclude_the_k_in_force_move_it() -> None:
    policy = make("rollback", k_max=8, k=8)
    assert policy.choose(1) == 8
    policy.set_bounds(0, 2)
    assert policy.choose(1) == 2
    assert "bounds" in policy.explain()


def test_the_verdict_on_a_broken_drafter_is_final_and_says_why() -> None:
    policy = make("rollback", k_max=8, k=4, hold=1)
    flat = tuple(20 + 0.001 * k for k in range(9))
    Traffic([0.0] * 8, flat, life=20).run(policy, 3000)
    assert "broken" in policy.explain()
    assert set(Traffic(GOOD, flat).run(policy, 300)) == {0}
