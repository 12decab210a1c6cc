"""Packed samples: nothing but a list, and a twentieth of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, MutableSequence
from itertools import islice, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.scale.memory import traffic
from gemmaspec.core import series as packing
from gemmaspec.core.acceptance import KEPT_SECONDS, MOST_SAMPLES, comparable, remember
from gemmaspec.core.observation import Sample
from gemmaspec.core.series import Series

# Under traffic for as long as anything is kept, with K = 4, all told: a thousand of these fit in 21 MiB.
MOST_BYTES = 21_000
VALUES = st.one_of(
    st.floats(min_value=0, max_value=1e15),
    st.integers(0, 300).map(float),
    st.integers(0, 2**60).map(float),
    st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000),
)
SAMPLES = st.builds(Sample, *[VALUES] * 4, st.lists(VALUES, max_size=4).map(tuple), *[VALUES] * 5)
STEPS = st.one_of(
    st.tuples(st.just("append"), SAMPLES),
    st.tuples(st.just("insert"), SAMPLES, st.integers(-9, 9)),
    st.tuples(st.just("delete"), st.integers(-9, 9)),
    st.tuples(st.just("cut"), st.integers(-9, 9), st.integers(-9, 9)),
    st.tuples(st.just("replace"), st.integers(-9, 9), st.integers(-9, 9), st.lists(SAMPLES, max_size=3)),
    st.tuples(st.just("clear")),
)


def sample(seconds: float, drafts: float) -> Sample:
    return Sample(seconds, drafts, 4 * drafts, drafts, (drafts, 0.0, 0.0, 0.0), 2 * drafts, 0.0, drafts, drafts, 4.0)


def taken(series: Series) -> int:
    """Bytes of all that a series is made of."""
    blocks = series._state.blocks
    parts = [series, series._state, series._state.numbers, blocks, *blocks]
    return sum(map(sys.getsizeof, [*parts, *(field for block in blocks for field in block)]))


def test_traffic_of_half_an_hour_and_more_takes_few_bytes() -> None:
    whole, series = list(islice(traffic(random.Random(3)), 720)), Series()
    for one in whole:
        remember(series, one, lambda: 120.0)
    assert series.nbytes < taken(series) <= MOST_BYTES
    assert series[-MOST_SAMPLES:] == whole[-MOST_SAMPLES:], "and nothing of it is lost"


@pytest.mark.parametrize("pause", [2.0, 5.0, 25.0])
def test_what_is_kept_is_bounded_by_time_however_often_is_scraped(pause: float) -> None:
    series = Series()
    for i in range(int(3 * KEPT_SECONDS / pause)):
        remember(series, sample(pause * i, 3.0 * i), lambda: 120.0)
    least = min(KEPT_SECONDS, pause * MOST_SAMPLES)
    assert least - 60 <= series[-1].time - series[0].time <= KEPT_SECONDS
    assert len(series) <= min(MOST_SAMPLES + 60, KEPT_SECONDS / pause) + 1
    assert all(comparable(before, after) for before, after in pairwise(series))


@pytest.fixture(params=[(36, 24), (2, 1), (1, 3)])
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So few open and closed samples that a handful is both."""
    monkeypatch.setattr(packing, "OPEN_SAMPLES", request.param[0])
    monkeypatch.setattr(packing, "CLOSED_SAMPLES", request.param[1])


@pytest.mark.usefixtures("_few")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=20), st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-2, -1, 1, 2]))
def test_a_series_is_a_list(steps: list[tuple[object, ...]], start: int, stop: int, step: int) -> None:
    packed, plain = Series(), list[Sample]()
    for made in steps:
        outcomes = [_tried(_step, known, *made) for known in (packed, plain)]
        assert outcomes[0] == outcomes[1], made
        assert list(packed) == plain
        assert len(packed) == len(plain)
        assert packed[start:stop:step] == plain[start:stop:step]
        assert _tried(packed.__getitem__, start) == _tried(plain.__getitem__, start)


@pytest.mark.usefixtures("_few")
def test_a_copy_stays_as_it_was() -> None:
    first, *others = [sample(float(i), float(i)) for i in range(100)]
    series = Series([first, *others])
    copy = series.copy()
    series.append(sample(300.0, 3.0))
    del series[0]
    assert copy == [first, *others]
    assert series == [*others, sample(300.0, 3.0)]


@pytest.mark.usefixtures("_few")
def test_those_since_a_moment_are_found_without_the_others() -> None:
    plain = [sample(float(i // 2), float(i)) for i in range(200)]
    series = Series(plain)
    for gone in range(40):
        for moment in (-1.0, 0.0, 17.5, 18.0, 50.0, 98.5, 99.0, 100.0):
            assert series.since(moment) == [one for one in plain[gone:] if one.time >= moment], (gone, moment)
        del series[0]


def test_an_exposition_with_fewer_positions_keeps_them_few() -> None:
    """A wider sample widens the rows before it, and says nothing about them."""
    narrow, wide = Sample(1, 2, 3, 4, (), 5, 6, 7, 8, 9), Sample(2, 2, 3, 4, (3.0, 1.0), 5, 6, 7, 8, 9)
    assert list(Series([narrow, wide, narrow])) == [narrow, wide, narrow]


def test_memory_is_the_same_as_that_of_a_list() -> None:
    """Idle, busy, restarted, lost, set back: what is remembered does not depend on how it is kept."""
    rng, series, plain, now, drafts = random.Random(7), Series(), list[Sample](), 0.0, 0.0
    for _ in range(3000):
        now += rng.choice([5.0, 5.0, 5.0, 25.0, 90.0]) if rng.random() > 0.001 else -500.0
        drafts = 0.0 if rng.random() < 0.003 else drafts + (3.0 if now % 2000 < 700 else 0.0)
        remember(series, sample(now, drafts), lambda: 600.0)
        remember(plain, sample(now, drafts), lambda: 600.0)
    assert list(series) == plain


def _step(known: MutableSequence[Sample], what: str, *details: object) -> None:
    match what, details:
        case "append", (Sample() as one,):
            known.append(one)
        case "insert", (Sample() as one, int(at)):
            known.insert(at, one)
        case "delete", (int(at),):
            del known[at]
        case "cut", (int(start), int(stop)):
            del known[start:stop]
        case "replace", (int(start), int(stop), list(samples)):
            known[start:stop] = samples
        case _:
            known.clear()


def _tried(act: Callable[..., object], *arguments: object) -> object:
    try:
        return act(*arguments)
    except IndexError:
        return IndexError
