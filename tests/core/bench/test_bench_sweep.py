"""What is measured, in which order, and how long it will take."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec.core.bench.forecast import seconds_left
from gemmaspec.core.bench.sweep import BadSweep, Sweep, Workload, depth_name, fit, fitting

CODE, PROSE = Workload("code", "Write it.", 100), Workload("prose", "Tell it.", 100)


def test_every_place_is_measured_once_and_k_changes_seldom() -> None:
    sweep = Sweep((CODE, PROSE), (1, 4), (0, 1, 2), 3)
    turns = list(sweep.turns())
    assert len(turns) == len(set(turns)) == sweep.size == 36
    assert sum(a.k != b.k for a, b in pairwise(turns)) < 2 * 3 * 3, "rounds that begin with the K before them"
    assert sweep.tokens == 36 // 2 * 100 * 5


@pytest.mark.parametrize(("current", "moves"), [(2, 3), (0, 3), (4, 4), (None, 4)])
def test_where_k_moves_by_restart_each_is_measured_in_one_go(current: int | None, moves: int) -> None:
    sweep = Sweep((CODE, PROSE), (1, 4), (0, 1, 2), 3, seldom=True)
    turns = list(sweep.turns())
    assert len(turns) == len(set(turns)) == sweep.size
    assert [turn.k for turn in turns] == sorted(turn.k or 0 for turn in turns)
    assert sweep.moves(current) == moves, "from the spec's K and back to it"


def test_no_k_is_always_the_first_of_its_round() -> None:
    turns = list(Sweep((CODE,), (1,), (0, 1, 2), 3).turns())
    assert {turns[at].k for at in (0, 3, 6)} == {0, 1, 2}


@given(
    st.lists(st.integers(0, 32), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(1, 16), min_size=1, max_size=3, unique=True),
    st.integers(1, 4),
)
def test_each_round_holds_every_k(ks: list[int], concurrencies: list[int], runs: int) -> None:
    sweep = Sweep((CODE,), tuple(concurrencies), tuple(ks), runs)
    turns = list(sweep.turns())
    rounds = {(turn.concurrency, turn.run) for turn in turns}
    for place in rounds:
        assert sorted(t.k for t in turns if (t.concurrency, t.run) == place and t.k is not None) == sorted(ks)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"workloads": ()}, "workloads is 0"),
        ({"workloads": (CODE, CODE)}, "two have one name"),
        ({"workloads": (Workload("x", "y", 1),)}, "tokens is 1; it takes 2 to"),
        ({"runs": 0}, "runs is 0; it takes 1 to 20"),
        ({"concurrencies": ()}, "concurrency is empty"),
        ({"concurrencies": (4, 4)}, "concurrency is 4, 4; give each value once"),
        ({"concurrencies": (0,)}, "concurrency is 0; it takes 1 to 256"),
        ({"ks": ()}, "ks is empty"),
        ({"temperature": 3.0}, "temperature is 3; it takes 0 to 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BadSweep, match=words):
        Sweep(**{"workloads": (CODE,), **fields})  # type: ignore[arg-type]


def test_the_grid_is_what_the_engine_has_graphs_for() -> None:
    assert fit((0, 1, 2, 4, 8), (0, 1, 2, 4)) == (0, 1, 2, 4)
    assert fit((4,), (0, 1, 2, 4)) == (0, 4)
    with pytest.raises(BadSweep, match=r"ks is 8, and the engine was started for K = 0, 1: a sweep needs 0 and"):
        fit((8,), (0, 1))


def test_depths_that_have_no_room_are_left_out() -> None:
    deep = Workload(depth_name(4096), "x", 128, 2048 + 4096)
    assert depth_name(0) == "pp2048+tg128"
    assert deep.name == "pp2048+tg128@d4096"
    assert fitting((CODE, deep), 4096) == ((CODE,), (deep,))
    assert fitting((CODE, deep), None) == ((CODE, deep), ())


def test_the_time_left() -> None:
    turns = list(Sweep((CODE, PROSE), (1, 4), (0, 2), 2).turns())
    assert seconds_left([], turns) is None
    done = [(turn, 2.0 if turn.k else 4.0) for turn in turns[:4]]
    same = turns[4:8]
    assert seconds_left(done, same) == pytest.approx(sum(2.0 if turn.k else 4.0 for turn in same))
    other = seconds_left(done, turns[8:])
    assert other is not None
    assert other == pytest.approx(8 * done[-1][1])


def test_the_time_left_is_none_at_the_end() -> None:
    turns = list(Sweep((CODE,), (1,), (0, 2), 1).turns())
    assert seconds_left([(turn, 1.0) for turn in turns], []) == 0.0
