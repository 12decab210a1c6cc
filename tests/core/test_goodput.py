"""Expected tokens, step times and bounds: by hand where a hand can, by properties elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec.core.acceptance import Window
from gemmaspec.core.goodput import (
    StepTimes,
    best,
    design_effect,
    expected_tokens,
    gain,
    upper_conditional,
    wilson_upper,
)

RATES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)


def test_expected_tokens_by_hand() -> None:
    assert expected_tokens((0.5, 0.5), 0) == 1.0
    assert expected_tokens((0.5, 0.5), 1) == 1.5
    assert expected_tokens((0.5, 0.5), 2) == 1.75
    assert expected_tokens((0.5,), 5) == 1.5, "what was never seen counts nothing"


def test_step_times_measured_wins_over_prior_and_prior_shapes_the_rest() -> None:
    times = StepTimes({4: 200.0}, {0: 10.0, 4: 20.0})
    assert times.at(4) == 200.0
    assert times.at(0) == 100.0
    assert times.at(2) == 150.0
    assert StepTimes({}, {0: 10.0, 4: 20.0}).at(1) == 12.5


def test_step_times_without_any_knowledge() -> None:
    assert StepTimes({}, {}).at(4) == pytest.approx(1.2)
    assert StepTimes({4: 36.0}, {}).at(0) == pytest.approx(30.0)


def test_two_measured_points_make_a_line() -> None:
    times = StepTimes({1: 24.0, 4: 36.0}, {})
    assert (times.at(0), times.at(2), times.at(6)) == (20.0, 28.0, 44.0)
    assert StepTimes({1: 30.0, 2: 20.0}, {}).at(0) == 30.0, "more drafts are never faster"
    assert StepTimes({1: 10.0, 2: 60.0}, {}).at(0) == 5.0, "no free step"


@given(st.dictionaries(st.integers(0, 8), st.floats(0.1, 1e4), max_size=4), st.integers(0, 32))
def test_step_times_are_positive(measured: dict[int, float], k: int) -> None:
    for prior in ({}, {0: 10.0, 7: 30.0}):
        assert StepTimes(measured, prior).at(k) > 0.0


def test_one_long_request_is_worth_21_drafts() -> None:
    assert design_effect(100.0, 1.0) == pytest.approx(1 + 99 / 21)
    assert design_effect(1.0, 1.0) == 1.0
    assert design_effect(50.0, 0.0) == design_effect(50.0, 1.0)
    assert 1e6 / design_effect(1e6, 1.0) == pytest.approx(21.0, rel=1e-3)
    assert 1e6 / design_effect(1e6, 100.0) == pytest.approx(2100.0, rel=1e-2)


def test_wilson_by_the_textbook() -> None:
    assert wilson_upper(0.0, 20.0) == pytest.approx(4 / 24)
    assert wilson_upper(0.5, 100.0) == pytest.approx(0.5981, abs=1e-4)
    assert wilson_upper(1.0, 5.0) == pytest.approx(1.0)


@given(st.floats(0.0, 1.0), st.floats(0.01, 1e6))
def test_wilson_is_a_bound_and_tightens(rate: float, n: float) -> None:
    bound = wilson_upper(rate, n)
    assert rate - 1e-9 <= bound <= 1.0
    assert wilson_upper(rate, 4 * n) <= bound + 1e-9


def seen(*accepted: float, drafts: float, requests: float = 1000.0) -> Window:
    return Window(k=len(accepted), drafts=drafts, accepted=accepted, requests=requests)


def test_untried_positions_take_the_prior_or_hope() -> None:
    bounds = upper_conditional(seen(0.0, 0.0, 0.0, drafts=1000.0), (0.9, 0.8))
    assert bounds[0] < 0.02
    assert bounds[1:] == (0.8, 1.0)
    assert upper_conditional(Window(k=2), ()) == (1.0, 1.0)


def test_deep_positions_that_few_drafts_reached_are_hardly_known() -> None:
    bounds = upper_conditional(seen(40.0, 4.0, 1.0, drafts=400.0), ())
    assert bounds[0] < 0.2
    assert bounds[1] < 0.3
    assert bounds[2] > 0.6


@given(RATES, RATES, st.floats(0.0, 0.5))
def test_bounds_of_rates_are_bounds_of_gain(rates: list[float], more: list[float], cost: float) -> None:
    """A lower K gains least where acceptance is highest: that is why upper bounds make the sure gain."""
    times = StepTimes({}, {0: 1.0, 8: 1.0 + 8 * cost})
    higher = [min(1.0, a + b) for a, b in zip(rates, [*more, *[0.0] * 8], strict=False)]
    k = len(rates)
    for lower in range(k):
        assert gain(higher, times, k, lower) <= gain(rates, times, k, lower) + 1e-9


@given(RATES, st.floats(0.0, 0.5))
def test_best_is_best_and_the_smallest_of_equals(rates: list[float], cost: float) -> None:
    times = StepTimes({}, {0: 1.0, 8: 1.0 + 8 * cost})
    choices = range(len(rates) + 1)
    chosen = best(rates, times, choices)
    assert all(gain(rates, times, chosen, other) <= 1e-9 for other in choices)
    assert all(gain(rates, times, chosen, other) < 0 for other in range(chosen))
