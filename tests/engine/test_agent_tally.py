"""Counts of acceptance, step times and overhead."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec_engine.agent.tally import SEEN_MOST, Overhead, Tally


def test_conditional_counts() -> None:
    tally = Tally(4)
    tally.drafts_of(4, [0, 2, 4], ["a", "b", "c"])
    assert tally.drafted == [3, 2, 2, 1]
    assert tally.accepted == [2, 2, 1, 1]
    tally.drafts_of(1, [1, 0], ["a", "b"])
    assert tally.drafted == [5, 2, 2, 1], "a position that K did not reach was not drafted"
    assert tally.accepted == [3, 2, 1, 1]
    assert tally.drafts == 5
    assert tally.requests == 3


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=60))
def test_rates_are_rates(steps: list[tuple[int, int]]) -> None:
    tally = Tally(4)
    for k, accepted in steps:
        tally.drafts_of(k, [min(k, accepted)], ["r"])
    assert all(a <= d for a, d in zip(tally.accepted, tally.drafted, strict=True))
    assert all(d <= a for d, a in zip(tally.drafted[1:], tally.accepted, strict=False))
    assert all(rate is None or 0 <= rate <= 1 for rate in tally.acceptance())


def test_recent_rates_follow_and_totals_remember() -> None:
    tally = Tally(1)
    for _ in range(5000):
        tally.drafts_of(1, [1], ["r"])
    for _ in range(3000):
        tally.drafts_of(1, [0], ["r"])
    assert tally.acceptance()[0] == pytest.approx(0.0, abs=0.01)
    assert tally.accepted[0] / tally.drafted[0] == 5000 / 8000


def test_goodput_counts_timed_steps_only() -> None:
    tally = Tally(4)
    tally.step(2, 4, 6, 20.0)
    tally.step(2, 4, 6, math.nan)
    tally.step(2, 4, 2, 20.0)
    found = tally.per_k[4].as_json()
    assert found["steps"] == 3
    assert found["tokens"] == 14
    assert found["timedSteps"] == 2
    assert found["stepMs"] == pytest.approx(20.0)
    assert found["tokensPerSecond"] == pytest.approx(200.0, rel=0.01)


def test_a_k_without_times() -> None:
    tally = Tally(4)
    tally.step(1, 2, 1, math.nan)
    assert tally.per_k[2].as_json()["tokensPerSecond"] is None
    assert tally.per_k[2].goodput() == 0


def test_memory_is_bounded() -> None:
    tally = Tally(1)
    for number in range(3 * SEEN_MOST):
        tally.drafts_of(1, [1], [f"r{number}"])
    assert tally.requests == 3 * SEEN_MOST
    assert len(tally._seen) == SEEN_MOST


def test_overhead() -> None:
    overhead = Overhead(keep=100)
    assert overhead.quantiles() == {}
    for number in range(1, 1001):
        overhead.add(number * 1200, number * 800, (number * 600, number * 400) if number % 2 else None)
    found = overhead.quantiles()
    assert overhead.count == 1000
    assert found["wallMaxUs"] == 2000
    assert found["wallP50Us"] == pytest.approx(1902, abs=4), "only the last steps"
    assert found["wallP99Us"] == pytest.approx(2000, abs=4)
    assert found["heldWallMeanUs"] == pytest.approx(600.6, abs=0.1)
    assert found["maxUs"] == 999, "of the steps whose processor time was read"
    assert found["p50Us"] == pytest.approx(901, abs=4)
    assert found["meanUs"] == pytest.approx(500, abs=0.1)
    assert found["heldMaxUs"] == pytest.approx(599.4)
