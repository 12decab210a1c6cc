"""What each K earns, and what is not known of it: by hand where a hand can, by properties elsewhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmaspec.core.acceptance import Window
from gemmaspec.core.goodput import Estimate, Step, estimate
from gemmaspec.core.recipe import Prior
from gemmaspec.core.recovery import prove

RATES = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8)
NOTHING = Prior.model_validate({})
PRIOR = Prior(acceptance=(0.9, 0.8), step_milliseconds={0: 10.0, 4: 20.0})


def known(rates: list[float], cost: float, trials: float = 1e9) -> Estimate:
    """An estimate of which everything is known."""
    size = len(rates)
    return Estimate(rates, [trials] * size, [100.0 * (1 + cost * k) for k in range(size + 1)], [0.0] * (size + 1))


def seen(*accepted: float, drafts: float, requests: float = 1000.0, batch: float = 0.0, ms: float = 0.0) -> Window:
    paces = (ms,) * 12 if ms else ()
    return Window(
        k=len(accepted), drafts=drafts, accepted=accepted, requests=requests, batch=batch, paces=paces, span=60.0
    )


def test_tokens_by_hand() -> None:
    found = known([0.5, 0.5], 0.1)
    assert [found.tokens(k) for k in range(3)] == [1.0, 1.5, 1.75]
    assert found.gain(2, 1) == pytest.approx(1.5 / 1.1 / (1.75 / 1.2) - 1)


def test_a_window_is_read_by_the_engines_estimator() -> None:
    found = estimate(seen(800.0, 600.0, drafts=1000.0), Window(), (), NOTHING, 4)
    assert found.rates[:2] == pytest.approx([0.8, 0.75], abs=0.01)
    assert found.rates[2] == pytest.approx(0.75, abs=0.02), "never drafted: like the position before"
    assert found.trials[0] > 900


def test_few_long_requests_weigh_little() -> None:
    short, long = (estimate(seen(900.0, drafts=1000.0, requests=n), Window(), (), NOTHING, 1) for n in (1000.0, 2.0))
    assert long.trials[0] < 40 < short.trials[0]
    assert long.sure(1, 0) < short.sure(1, 0)


def test_untried_positions_take_the_prior() -> None:
    assert estimate(Window(), Window(), (), PRIOR, 3).rates == pytest.approx((0.9, 0.8, 0.8))


def test_measured_times_win_over_published_ones_which_shape_the_rest() -> None:
    found = estimate(Window(), seen(0, 0, 0, 0, drafts=0, batch=1.0, ms=200.0), (), PRIOR, 4)
    assert found.milliseconds[4] == pytest.approx(200.0, rel=0.02)
    assert found.milliseconds[0] == pytest.approx(100.0, rel=0.05)
    assert found.milliseconds[2] == pytest.approx(150.0, rel=0.05)
    assert found.doubts[4] is not None
    assert found.doubts[0] is None, "this engine never ran K=0"


def test_without_any_knowledge_a_draft_costs_a_twentieth() -> None:
    found = estimate(Window(), Window(), (), NOTHING, 4)
    assert found.milliseconds[4] / found.milliseconds[0] == pytest.approx(1.2)
    assert set(found.doubts) == {None}


def test_remembered_steps_are_measurements_of_like_batches_only() -> None:
    steps = (Step(0, 100.0, 1.0), Step(4, 180.0, 1.0))
    same = estimate(Window(), seen(0, 0, 0, 0, drafts=0, batch=1.2, ms=181.0), steps, NOTHING, 4)
    assert same.milliseconds[0] == pytest.approx(100.0, rel=0.03)
    assert same.doubts[0] is not None
    other = estimate(Window(), seen(0, 0, 0, 0, drafts=0, batch=12.0, ms=540.0), steps, NOTHING, 4)
    assert other.milliseconds[0] == pytest.approx(300.0, rel=0.05), "the shape, at the height of now"
    assert other.doubts[0] is None


def test_one_step_of_eighteen_seconds_is_an_accident() -> None:
    odd = Window(k=4, batch=1.0, paces=(18_000.0, *(180.0,) * 11))
    assert estimate(Window(), odd, (), NOTHING, 4).milliseconds[4] == pytest.approx(180.0, rel=0.1)


@given(RATES, st.floats(0.0, 0.5))
def test_best_is_best_and_the_smallest_of_equals(rates: list[float], cost: float) -> None:
    found = known(rates, cost)
    chosen = found.best(range(len(rates) + 1))
    assert all(found.gain(chosen, other) <= 1e-9 for other in range(len(rates) + 1))
    assert all(found.gain(chosen, other) < 0 for other in range(chosen))


@given(RATES, st.floats(0.0, 0.5), st.floats(1.0, 1e4))
def test_what_is_sure_is_less_than_what_is_likely_and_grows_with_drafts(
    rates: list[float], cost: float, trials: float
) -> None:
    few, many = known(rates, cost, trials), known(rates, cost, 4 * trials)
    for k in range(len(rates)):
        assert few.sure(len(rates), k) <= many.sure(len(rates), k) + 1e-9 <= few.gain(len(rates), k) + 2e-9


@given(
    st.integers(1, 8),
    st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8),
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(0, 12), st.floats(0.001, 1e6), st.floats(0.0, 600.0)), max_size=4),
    st.floats(0.0, 600.0),
)
@settings(max_examples=60, deadline=None)
def test_whatever_was_seen_an_estimate_is_finite(
    top: int, shares: list[float], drafts: int, steps: list[tuple[int, float, float]], batch: float
) -> None:
    alive, accepted = float(drafts), []
    for share in shares[:top]:
        alive = float(int(alive * share))
        accepted.append(alive)
    told = Window(k=top, drafts=float(drafts), accepted=tuple(accepted), requests=3.0, batch=batch, paces=(5.0, 1e5))
    found = estimate(told, told, [Step(*step) for step in steps], PRIOR, top)
    for k in range(top + 1):
        assert math.isfinite(found.sure(top, k))
        assert found.milliseconds[k] > 0
    assert found.best(range(top + 1)) in range(top + 1)


def test_recovery_is_proved_refuted_or_open() -> None:
    times = known([0.5] * 4, 0.2)
    even = times.even(0, 4)
    assert even is not None
    assert sum(even**i for i in range(5)) == pytest.approx(1.8, rel=1e-4), "K=4 takes 1.8 times as long"
    good, bad = seen(900.0, drafts=1000.0, requests=50.0), seen(100.0, drafts=1000.0, requests=50.0)
    assert prove(times, good, 0, 4).decided is True
    assert prove(times, bad, 0, 4).decided is False
    assert prove(times, seen(4.0, drafts=8.0, requests=2.0), 0, 4).decided is None
    assert prove(times, Window(), 0, 4).decided is None
    assert "pays above 0.46" in prove(times, good, 0, 4).words


def test_one_long_request_proves_nothing() -> None:
    times = known([0.5] * 4, 0.2)
    assert prove(times, seen(9_000.0, drafts=10_000.0, requests=1.0), 0, 4).decided is None
    assert prove(times, seen(9_000.0, drafts=10_000.0, requests=40.0), 0, 4).decided is True


def test_where_no_acceptance_repays_the_time_nothing_is_proved() -> None:
    proof = prove(known([0.9] * 2, 5.0), seen(90.0, drafts=100.0), 0, 2)
    assert proof.decided is False
    assert "no acceptance repays" in proof.words
