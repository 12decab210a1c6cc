"""The grid of K and the start schedule that names it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec_engine.agent.grid import capture_sizes, fit, schedule_for

grids = st.lists(st.integers(0, 16), min_size=1).filter(lambda grid: max(grid) > 0)


def dense(schedule: list[list[int]]) -> list[int]:
    return [k for first, last, k in schedule for _ in range(first, last + 1)]


@given(grids, st.integers(1, 64))
def test_schedule_covers_every_batch_once_and_names_the_whole_grid(grid: list[int], sequences: int) -> None:
    schedule = schedule_for(grid, sequences)
    assert schedule[0][0] == 1
    assert schedule[-1][1] == sequences
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(schedule))
    assert all(first <= last for first, last, _ in schedule)
    assert sorted(set(dense(schedule))) == list(fit(grid, sequences))


@given(grids, st.integers(1, 64))
def test_fit_keeps_the_ends_and_invents_nothing(grid: list[int], sequences: int) -> None:
    values = fit(grid, sequences)
    assert set(values) <= set(grid)
    assert len(values) == min(len(set(grid)), sequences)
    assert max(grid) in values
    assert sequences == 1 or len(set(grid)) == 1 or min(grid) in values


@given(grids, st.integers(1, 64))
def test_every_k_has_a_graph_for_its_widest_batch(grid: list[int], sequences: int) -> None:
    sizes = capture_sizes(grid, sequences)
    assert sizes == sorted(set(sizes))
    for k in fit(grid, sequences):
        assert {(k + 1), sequences * (k + 1)} <= set(sizes)


def test_four_sequences() -> None:
    assert fit(range(5), 4) == (0, 1, 2, 4)
    assert schedule_for(range(5), 4) == [[1, 1, 4], [2, 2, 2], [3, 3, 1], [4, 4, 0]]
    assert fit(range(9), 4)[0] == 0
    assert fit(range(9), 4)[-1] == 8


def test_one_sequence_takes_the_largest() -> None:
    assert schedule_for([0, 2, 4], 1) == [[1, 1, 4]]


def test_small_batches_have_sizes_of_their_own() -> None:
    assert capture_sizes([0, 4], 3) == [1, 2, 3, 5, 10, 15]


@pytest.mark.parametrize(("grid", "sequences"), [([], 4), ([0], 4), ([-1, 2], 4), ([1], 0)])
def test_refuses(grid: list[int], sequences: int) -> None:
    with pytest.raises(ValueError, match="must"):
        schedule_for(grid, sequences)
