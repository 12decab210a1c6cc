"""Alive is what brings tokens."""

from __future__ import annotations

import pytest

from gemmaspec_engine.agent.progress import CHUNKS, FIRST_FACTOR, TOKENS_PER_SECOND, Progress
from tests.engine.fake_scheduling import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def progress(clock: FakeClock) -> Progress:
    """Of an engine that has answered before."""
    found = Progress(2048, 120.0, clock)
    found.sampled()
    return found


def test_requests_without_tokens_are_a_stall(progress: Progress, clock: FakeClock) -> None:
    progress.arrived(0)
    clock.after(119)
    assert progress.verdict(1, paused=False).live
    clock.after(2)
    verdict = progress.verdict(1, paused=False)
    assert not verdict.live
    assert verdict.stalled == 121


def test_output_tokens_are_life(progress: Progress, clock: FakeClock) -> None:
    for _ in range(10):
        clock.after(100)
        progress.sampled()
        assert progress.verdict(3, paused=False).live


def test_a_long_prefill_is_life_as_long_as_it_gets_on(progress: Progress, clock: FakeClock) -> None:
    for chunk in range(1, 20):
        clock.after(100)
        progress.computed("a", 2048 * chunk)
        assert progress.verdict(1, paused=False).live


def test_computing_the_same_again_is_none(progress: Progress, clock: FakeClock) -> None:
    """Two long prompts that push each other out of the cache for ever."""
    progress.computed("a", 4096)
    for _ in range(4):
        clock.after(40)
        progress.computed("a", 2048)
        progress.computed("a", 4096)
    assert not progress.verdict(2, paused=False).live


def test_idle_and_paused_engines_are_alive(progress: Progress, clock: FakeClock) -> None:
    clock.after(10_000)
    assert progress.verdict(0, paused=False).live
    clock.after(10_000)
    assert progress.verdict(1, paused=True).live
    clock.after(100)
    assert progress.verdict(1, paused=False).live, "the time starts when the pause ends"


def test_after_idleness_the_time_starts_with_the_request(progress: Progress, clock: FakeClock) -> None:
    clock.after(10_000)
    progress.arrived(0)
    assert progress.verdict(1, paused=False).stalled == 0
    clock.after(60)
    progress.arrived(1)
    assert progress.verdict(2, paused=False).stalled == 60, "more requests do not hide a stall"


def test_the_limit_grows_with_the_slowest_chunk(progress: Progress) -> None:
    assert progress.limit() == 120
    progress.chunk(2048, 70.0)
    assert progress.limit() == CHUNKS * 70
    progress.chunk(100, 500.0)
    assert progress.limit() == CHUNKS * 70, "a small chunk says nothing about a full one"


def test_a_prompt_in_one_piece_gets_its_time() -> None:
    """Without chunked prefill one step computes 262,144 tokens: six minutes on a GB10."""
    found = Progress(262_144, 120.0, FakeClock())
    found.sampled()
    assert found.limit() == pytest.approx(3 * 360)
    assert pytest.approx(262_144 / 360) == TOKENS_PER_SECOND


def test_the_first_token_ever_may_take_longer(clock: FakeClock) -> None:
    found = Progress(2048, 120.0, clock)
    found.arrived(0)
    clock.after(500)
    assert found.verdict(1, paused=False).live
    assert found.limit() == FIRST_FACTOR * 120
    found.sampled()
    assert found.limit() == 120


def test_marks_are_bounded(progress: Progress) -> None:
    for number in range(5000):
        progress.computed(number, 10)
        progress.forget({number: None}, 1)
    assert len(progress._marks) <= 18
