"""Windows over counters: resets, gaps and missing scrapes are missing data, never bad data."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec.core.acceptance import (
    DENSE_SAMPLES,
    KEPT_SECONDS,
    MAX_GAP_SECONDS,
    MOST_SAMPLES,
    Window,
    comparable,
    lifetime,
    remember,
    window,
)
from gemmaspec.core.observation import Sample


def sample(time: float, drafts: float = 0.0, accepted: tuple[float, ...] = (0.0, 0.0), **more: Any) -> Sample:
    values = {
        "draft_tokens": drafts * len(accepted),
        "accepted_tokens": sum(accepted),
        "generation_tokens": drafts + sum(accepted),
        "requests_finished": drafts // 50,
        "step_seconds_sum": drafts * 0.02,
        "step_seconds_count": drafts,
        "running": 2.0,
    }
    return Sample(time=time, drafts=drafts, accepted_per_position=accepted, **(values | more))


STEADY = [sample(float(t), 10.0 * t, (8.0 * t, 4.0 * t)) for t in range(0, 100, 5)]


def test_a_steady_engine() -> None:
    found = window(2, [STEADY], 0.0)
    assert found.drafts == 950.0
    assert found.conditional == (0.8, 0.5)
    assert found.mean == pytest.approx(0.6)
    assert found.tokens_per_step == pytest.approx(2.2)
    assert found.step_milliseconds == pytest.approx(20.0)
    assert found.tokens_per_second == pytest.approx(22.0)
    assert (found.seconds, found.span, found.engines, found.running, found.batch) == (95.0, 95.0, 1, 2.0, 2.0)
    assert found.requests == 19.0 + 2.0


def test_the_window_begins_where_it_is_asked_to() -> None:
    assert window(2, [STEADY], 50.0).drafts == 450.0
    assert window(2, [STEADY], 51.0).drafts == 400.0
    assert window(2, [STEADY], 95.0) == Window(k=2)
    assert window(2, [STEADY], 1000.0) == Window(k=2)


@pytest.mark.parametrize("series", [[], [[]], [[STEADY[0]]], [[STEADY[0]], [STEADY[1]]]])
def test_without_two_samples_of_an_engine_there_is_nothing(series: list[list[Sample]]) -> None:
    found = window(2, series, 0.0)
    assert (found.drafts, found.conditional, found.mean, found.tokens_per_step) == (0.0, (), None, None)
    assert (found.step_milliseconds, found.tokens_per_second, found.batch) == (None, None, 0.0)


def test_several_engines_are_pooled_by_counts() -> None:
    other = [sample(float(t), 30.0 * t, (3.0 * t, 3.0 * t)) for t in range(0, 100, 5)]
    found = window(2, [STEADY, other], 0.0)
    assert found.conditional == (pytest.approx(11 / 40), pytest.approx(7 / 11))
    assert (found.seconds, found.span, found.engines) == (190.0, 95.0, 2)
    assert found.tokens_per_second == pytest.approx(22.0 + 36.0)


@pytest.mark.parametrize(
    "field",
    [
        "drafts",
        "draft_tokens",
        "accepted_tokens",
        "generation_tokens",
        "requests_finished",
        "step_seconds_sum",
        "step_seconds_count",
    ],
)
def test_a_pair_in_which_any_counter_fell_is_left_out(field: str) -> None:
    series = [*STEADY[:10], *(replace(later, **{field: getattr(later, field) - 47 * 10.0}) for later in STEADY[10:])]
    if getattr(series[10], field) >= getattr(series[9], field):
        series[10:] = [replace(later, **{field: 0.0}) for later in series[10:]]
    assert window(2, [series], 0.0).drafts == 950.0 - 50.0


def test_a_restarted_engine_goes_on_from_nothing() -> None:
    again = [replace(later, time=later.time + 100.0) for later in STEADY]
    found = window(2, [[*STEADY, *again]], 0.0)
    assert found.drafts == 1900.0
    assert found.conditional == (0.8, 0.5)


def test_positions_that_come_or_go_are_half_a_scrape() -> None:
    half = [replace(one, accepted_per_position=()) if one.time == 50.0 else one for one in STEADY]
    assert window(2, [half], 0.0).drafts == 950.0 - 100.0


def test_a_restart_that_passed_every_counter_again_betrays_itself() -> None:
    """More first tokens accepted than drafts made between two scrapes: not one engine's life."""
    before = sample(0.0, 2.0, (0.0, 0.0))
    assert window(2, [[before, sample(5.0, 3.0, (3.0, 3.0))]], 0.0).drafts == 0.0
    assert window(2, [[before, sample(5.0, 9.0, (3.0, 4.0))]], 0.0).drafts == 0.0
    assert window(2, [[before, sample(5.0, 9.0, (3.0, 3.0))]], 0.0).drafts == 7.0


def test_a_gap_is_not_judged_and_costs_no_speed() -> None:
    gap = [one for one in STEADY if not 20.0 < one.time < 90.0]
    assert MAX_GAP_SECONDS < 70.0
    found = window(2, [gap], 0.0)
    assert found.drafts == 200.0 + 50.0
    assert found.tokens_per_second == pytest.approx(22.0)
    short = [one for one in STEADY if not 20.0 < one.time < 70.0]
    assert window(2, [short], 0.0).drafts == 950.0


def test_clocks_that_stand_or_run_back() -> None:
    doubled = sorted([*STEADY, *STEADY], key=lambda one: one.time)
    assert window(2, [doubled], 0.0).drafts == 950.0
    assert window(2, [doubled], 0.0).seconds == 95.0


def test_at_k_0_the_draft_counters_stand_and_speed_goes_on() -> None:
    frozen = [replace(one, drafts=7.0, draft_tokens=14.0, accepted_tokens=9.0) for one in STEADY]
    frozen = [replace(one, accepted_per_position=(5.0, 4.0)) for one in frozen]
    found = window(0, [frozen], 0.0)
    assert (found.drafts, found.conditional, found.tokens_per_step) == (0.0, (), None)
    assert found.step_milliseconds == pytest.approx(20.0)


def test_idle_time_is_no_small_batch() -> None:
    busy = [replace(one, running=4.0) for one in STEADY]
    idle = [replace(STEADY[-1], time=95.0 + t, running=0.0) for t in range(5, 60, 5)]
    found = window(2, [[*busy, *idle]], 0.0)
    assert found.batch == 4.0
    assert found.running < 3.0


def test_lifetime_takes_the_newest_counters() -> None:
    pooled = lifetime(2, {"a": STEADY, "b": STEADY[:3], "c": []})
    assert pooled.drafts == 950.0 + 100.0
    assert pooled.accepted == (760.0 + 80.0, 380.0 + 40.0)
    assert pooled.requests == 19.0 + 2.0 + 4.0, "finished, and running now"
    assert pooled.engines == 2


def test_a_day_is_remembered_in_few_samples_and_loses_no_draft() -> None:
    series: list[Sample] = []
    for i in range(24 * 720):
        drafts = float(10 * i if i < 9000 else 10 * (i - 9000))  # a restart in the middle
        remember(series, sample(5.0 * i, drafts, (drafts / 2, drafts / 5)), lambda: 86_400.0)
    assert len(series) < MOST_SAMPLES + 60 + 86_400 / 40
    assert [one.time for one in series[-MOST_SAMPLES:]] == [5.0 * i for i in range(24 * 720 - MOST_SAMPLES, 24 * 720)]
    whole = window(2, [series], 0.0)
    assert whole.drafts == 10.0 * (24 * 720 - 2)
    assert whole.span == pytest.approx(86_400, abs=10)
    short: list[Sample] = []
    for one in series:
        remember(short, one, lambda: 120.0)
    assert len(short) < MOST_SAMPLES + 60


def test_a_clock_that_was_set_back_starts_the_memory_anew() -> None:
    series = list(STEADY)
    for at in (40.0, 45.0, 50.0):
        remember(series, sample(at, 1000.0 + at, (900.0 + at, 0.0)), lambda: 1e6)
    assert [one.time for one in series] == [40.0, 45.0, 50.0]
    assert window(2, [series], 0.0).drafts == 10.0


def test_an_idle_engine_is_remembered_in_few_samples_and_its_traffic_in_full() -> None:
    series: list[Sample] = []
    whole: list[Sample] = []
    for i in range(720):
        drafts = float(min(max(0, 10 * (i - 300)), 500))  # fifty scrapes of traffic in the middle of an hour
        one = sample(5.0 * i, drafts, (drafts / 2, drafts / 5))
        whole.append(one)
        remember(series, one, lambda: 120.0)
        if i == 400:
            assert set(whole[300:351]) <= set(series), "traffic is kept as it came"
            ours, all_of_it = window(2, [series], 0.0), window(2, [whole], 0.0)
            assert (ours.drafts, ours.accepted, ours.paces) == (all_of_it.drafts, all_of_it.accepted, all_of_it.paces)
            assert ours.seconds == ours.span >= KEPT_SECONDS - 50
    assert series[-DENSE_SAMPLES + 1 :] == whole[-DENSE_SAMPLES + 1 :]
    assert all(comparable(before, after) for before, after in pairwise(series))
    assert len(series) < 160
    assert series[-1].time - series[0].time >= KEPT_SECONDS - 60


def test_what_is_remembered_keeps_gaps_and_restarts() -> None:
    series: list[Sample] = []
    for i in range(1500):
        drafts = float(i % 100)  # restarts, and every third scrape of some minutes is lost
        if i // 12 % 3 or i % 3:
            remember(series, sample(5.0 * i, drafts, (drafts, drafts)), lambda: 1e6)
    told = [(after.time, after.drafts) for before, after in pairwise(series) if after.drafts < before.drafts]
    assert len(told) == 14
    assert all(comparable(before, after) or after.drafts < before.drafts for before, after in pairwise(series))


def test_lifetime_leaves_out_half_a_scrape() -> None:
    torn = sample(1.0, 3.0, (5.0, 1.0))
    assert lifetime(2, {"a": STEADY[:3], "b": [torn]}) == lifetime(2, {"a": STEADY[:3]})


def test_a_pair_of_another_k_is_left_out() -> None:
    """More draft tokens than drafts of this K can hold: K changed in between, and later pairs may be of it again."""
    at_4 = [replace(one, draft_tokens=2.0 * one.draft_tokens) for one in STEADY]
    assert window(4, [at_4], 0.0).drafts == 950.0
    assert window(2, [at_4], 0.0) == Window(k=2)
    jump = [replace(one, draft_tokens=one.draft_tokens + (200.0 if one.time > 50 else 0.0)) for one in STEADY]
    assert window(2, [jump], 0.0).drafts == 950.0 - 50.0


def test_paces_are_step_times_scrape_by_scrape() -> None:
    slow = [replace(one, step_seconds_sum=2 * one.step_seconds_sum) for one in STEADY]
    assert window(2, [STEADY[:3], slow[:2]], 0.0).paces == pytest.approx((20.0, 20.0, 40.0))
    idle = [replace(STEADY[3], time=20.0 + t) for t in range(3)]
    assert window(2, [idle], 0.0).paces == ()


STEP = st.tuples(
    st.floats(0.5, 100.0),  # seconds
    st.integers(0, 200),  # drafts
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),  # share accepted by position
    st.integers(0, 5),  # requests finished
    st.booleans(),  # a restart before it
    st.booleans() | st.just(True),  # scraped after it
)
Steps = list[tuple[float, int, list[float], int, bool, bool]]


def grown(steps: Steps, scrapes: bool = False) -> list[Sample]:
    """Counters of an engine that did these steps."""
    now, drafts, accepted, finished = 0.0, 0, [0, 0, 0], 0
    series = [sample(0.0, 0.0, (0.0, 0.0, 0.0))]
    for seconds, more, shares, ended, restart, scraped in steps:
        if restart:
            drafts, accepted, finished = 0, [0, 0, 0], 0
        now, drafts, finished, alive = now + seconds, drafts + more, finished + ended, more
        for position, share in enumerate(shares):
            alive = int(alive * share)
            accepted[position] += alive
        counts = tuple(float(count) for count in accepted)
        if scraped or not scrapes:
            series.append(sample(now, float(drafts), counts, requests_finished=float(finished)))
    return series


@given(st.lists(st.lists(STEP, max_size=8), max_size=2), st.sampled_from([0.0, 50.0]))
def test_whatever_is_lost_rates_are_rates(engines: list[Steps], since: float) -> None:
    found = window(3, [grown(steps, scrapes=True) for steps in engines], since)
    assert all(0.0 <= rate <= 1.0 for rate in found.conditional)
    assert len(found.conditional) <= 3
    assert min(found.drafts, found.requests, found.seconds, found.generation_tokens, found.batch) >= 0.0
    assert list(found.accepted) == sorted(found.accepted, reverse=True)
    assert found.mean is None or 0.0 <= found.mean <= 1.0
    assert found.tokens_per_step is None or 1.0 <= found.tokens_per_step <= 4.0


@given(st.lists(STEP, min_size=2, max_size=8), st.integers(0, 8))
def test_splitting_a_window_changes_no_sum(steps: Steps, cut: int) -> None:
    series = grown(steps)
    at = min(cut, len(series) - 1)
    whole = window(3, [series], 0.0)
    parts = [window(3, [series[: at + 1]], 0.0), window(3, [series[at:]], 0.0)]
    for name in ("drafts", "draft_tokens", "accepted_tokens", "generation_tokens", "step_seconds_count", "seconds"):
        assert getattr(whole, name) == pytest.approx(sum(getattr(part, name) for part in parts)), name
    for position in range(3):
        split = sum(part.accepted[position] for part in parts if part.accepted)
        assert (whole.accepted[position] if whole.accepted else 0.0) == pytest.approx(split)
