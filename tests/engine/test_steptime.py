"""Step times: prediction of cells never seen, robustness, and changes of the engine."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gemmaspec_engine.steptime import StepTimes

GRID = tuple(range(9))


def line(batch: int, k: int) -> float:
    return 10 + 0.5 * batch + (0.8 + 0.05 * batch) * k


def feed(times: StepTimes, batch: int, ks: list[int], truth: Callable[[int, int], float], noise: float = 0.02) -> None:
    rng = random.Random(batch * 100 + len(ks))
    for k in ks:
        times.observe(batch, k, truth(batch, k) * rng.lognormvariate(0, noise))


def test_a_straight_line_is_known_from_two_cells() -> None:
    times = StepTimes(GRID)
    feed(times, 1, [1, 8] * 10, line)
    for k in range(1, 9):
        ms, doubt = times.predict(1, k)
        assert ms == pytest.approx(line(1, k), rel=0.06)
        assert doubt < 0.1
    assert times.predict(1, 0)[1] > 0.1  # the first draft may cost anything


def test_a_batch_size_never_seen_takes_the_shape_of_its_neighbour() -> None:
    times = StepTimes(GRID)
    feed(times, 4, list(GRID) * 8, line)
    feed(times, 6, [4] * 4, line)
    for k in (1, 8):
        assert times.predict(6, k)[0] == pytest.approx(line(6, k), rel=0.1)


def test_doubt_falls_with_measurements_and_is_largest_where_nothing_was_seen() -> None:
    times = StepTimes(GRID)
    feed(times, 1, [4] * 5, line)
    few = times.predict(1, 4)[1]
    feed(times, 1, [4] * 40, line)
    assert times.predict(1, 4)[1] < few < times.predict(1, 8)[1]


@pytest.mark.parametrize("accident", [0, 3, 7])
def test_one_step_of_eighteen_seconds_is_an_accident(accident: int) -> None:
    times, rng = StepTimes(GRID), random.Random(1)
    for i in range(60):
        k = (4, 8, 1, 4)[i % 4]
        times.observe(1, k, 18_000.0 if i == accident else line(1, k) * rng.lognormvariate(0, 0.02))
    for k in (1, 4, 8):
        assert times.predict(1, k)[0] == pytest.approx(line(1, k), rel=0.1)


@pytest.mark.parametrize("factor", [0.3, 0.7, 1.15, 3.0])
def test_a_changed_engine_is_noticed_within_a_few_steps(factor: float) -> None:
    times = StepTimes(GRID)
    feed(times, 1, [2, 4, 8] * 40, line)
    feed(times, 1, [4] * 16, lambda b, k: factor * line(b, k))
    assert times.predict(1, 4)[0] == pytest.approx(factor * line(1, 4), rel=0.06)


def test_a_larger_k_is_never_predicted_to_be_faster_by_much() -> None:
    times = StepTimes(GRID)
    feed(times, 1, [8] * 20, line)
    times.observe(1, 2, 3 * line(1, 2))
    ms = times.curve(1).ms
    assert all(a <= 1.04 * b for i, a in enumerate(ms) for b in ms[i:])


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_ignored(ms: float) -> None:
    times = StepTimes(GRID)
    feed(times, 1, [4] * 4, line)
    before = times.export_state()
    times.observe(1, 4, ms)
    times.observe(1, 77, 10.0)
    assert times.export_state() == before


def test_a_prior_is_believed_until_it_is_contradicted() -> None:
    times = StepTimes(GRID, prior={1: {0: 5.0, 4: 11.0, 8: 16.0}})
    assert times.predict(1, 4)[0] == pytest.approx(11.0, rel=0.02)
    assert times.predict(1, 2)[0] == pytest.approx(8.0, rel=0.2)
    feed(times, 1, [4] * 30, lambda _b, _k: 22.0)
    assert times.predict(1, 4)[0] == pytest.approx(22.0, rel=0.05)
    with pytest.raises(ValueError, match="above zero"):
        StepTimes(GRID, prior={1: {0: 0.0}})


def test_a_measured_shape_ages_slowly_after_a_shift() -> None:
    """All steps a tenth longer: the curve opens again, and what was measured of its shape still stands later."""
    ms_of = {0: 4.89, 1: 7.35, 2: 8.84, 4: 11.17, 8: 15.74}
    times, dice = StepTimes((0, 1, 2, 4, 8)), random.Random(1)
    for step in range(400):
        k = (0, 1, 2, 4, 8)[step % 5]
        times.observe(1, k, ms_of[k] * dice.lognormvariate(0, 0.01))
    for _ in range(1500):
        times.observe(1, 0, 1.12 * ms_of[0] * dice.lognormvariate(0, 0.01))
    ms, doubt = times.predict(1, 8)
    assert ms == pytest.approx(1.12 * ms_of[8], rel=0.05)
    assert 0.1 < doubt < 0.45
