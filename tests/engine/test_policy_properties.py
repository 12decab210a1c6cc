"""What holds for every policy, whatever it is told."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmaspec_engine.policy import NAMES, Policy, make
from gemmaspec_engine.policy.adaptive import Adaptive

pytestmark = pytest.mark.slow

GRIDS = st.sampled_from([(8, None), (4, None), (8, (0, 1, 2, 4, 8)), (7, (1, 3, 7)), (4, (0, 2)), (0, None)])


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, list[int], list[float], float]]:
    """Steps as (batch, ids, shares of K accepted, time); a time is NaN now and then."""
    times = st.one_of(st.floats(0.5, 500), st.just(math.nan), st.just(math.inf), st.just(0.0))
    count = draw(st.integers(1, 60))
    result = []
    for _ in range(count):
        batch = draw(st.integers(1, 6))
        ids = draw(st.lists(st.integers(0, 9), min_size=batch, max_size=batch, unique=True))
        shares = draw(st.lists(st.floats(0, 1), min_size=0, max_size=batch))
        result.append((batch, ids, shares, draw(times)))
    return result


def drive(policy: Policy, told: list[Any], *, known: bool = True) -> list[int]:
    """Feed steps to a policy; returns what it chose."""
    chosen = []
    for batch, ids, shares, ms in told:
        k = policy.choose(batch, ids if known else ())
        accepted = [round(share * k) for share in shares]
        policy.observe(batch, k, accepted, ms, ids[: len(accepted)] if known else ())
        chosen.append(k)
    return chosen


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(told=steps(), grid=GRIDS, known=st.booleans())
def test_never_outside_the_grid(name: str, told: list[Any], grid: Any, known: bool) -> None:
    policy = make(name, k_max=grid[0], ks=grid[1])
    assert set(drive(policy, told, known=known)) <= set(policy.ks)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(told=steps(), low=st.integers(0, 8), high=st.integers(0, 8), turn=st.integers(0, 30))
def test_never_outside_the_bounds(name: str, told: list[Any], low: int, high: int, turn: int) -> None:
    low, high = min(low, high), max(low, high)
    policy = make(name, k_max=8)
    drive(policy, told[:turn])
    policy.set_bounds(low, high)
    assert all(low <= k <= high for k in drive(policy, told[turn:]))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(told=steps(), grid=GRIDS)
def test_same_observations_same_decisions(name: str, told: list[Any], grid: Any) -> None:
    one, two = (make(name, k_max=grid[0], ks=grid[1]) for _ in range(2))
    assert drive(one, told) == drive(two, told)
    assert one.export_state() == two.export_state()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(before=steps(), after=steps(), known=st.booleans())
def test_export_and_import_is_identity(name: str, before: list[Any], after: list[Any], known: bool) -> None:
    one, two = make(name, k_max=8), make(name, k_max=8)
    drive(one, before, known=known)
    state = json.loads(json.dumps(one.export_state(), allow_nan=False))
    two.load_state(state)
    assert two.export_state() == one.export_state()
    assert drive(two, after, known=known) == drive(one, after, known=known)
    assert two.export_state() == one.export_state()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(told=steps(), k=st.integers(0, 8))
def test_a_step_that_says_nothing_changes_nothing(name: str, told: list[Any], k: int) -> None:
    policy = make(name, k_max=8)
    drive(policy, told)
    before = policy.export_state()
    for _ in range(3):
        policy.observe(2, k, [], math.nan, ())
    assert policy.export_state() == before


@settings(max_examples=30, deadline=None)
@given(told=steps(), repeat=st.integers(1, 6))
def test_k_changes_stay_within_the_stated_rate(told: list[Any], repeat: int) -> None:
    chosen = drive(make("adaptive", k_max=8), told * repeat)
    for start in range(0, len(chosen), 20):
        window = chosen[start:]
        changes = sum(1 for a, b in itertools.pairwise(window) if a != b)
        assert changes <= Adaptive.BURST + Adaptive.REFILL * len(window)


@settings(max_examples=30, deadline=None)
@given(told=steps(), repeat=st.integers(1, 12), hold=st.integers(1, 64))
def test_rollback_changes_k_within_its_stated_rate(told: list[Any], repeat: int, hold: int) -> None:
    """Two changes in eight steps while it proves, three in sixteen else, and those that begin and end a proof."""
    chosen = drive(make("rollback", k_max=8, hold=hold), told * repeat)
    for start in range(0, len(chosen), 20):
        window = chosen[start:]
        changes = sum(1 for a, b in itertools.pairwise(window) if a != b)
        assert changes <= 8 + len(window) / 4


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_state_is_refused_and_leaves_no_trace(name: str) -> None:
    policy = make(name, k_max=4)
    before = policy.export_state()
    broken = [{}, {**before, "version": 99}, {**before, "ks": [0, 1]}, {**before, "bounds": None}]
    own = [key for key in before if key not in ("version", "policy", "k_max", "ks", "bounds")]
    broken += [{k: v for k, v in before.items() if k != own[0]}, {**before, "bounds": [3, 9]}]
    for state in broken:
        with pytest.raises(ValueError, match="state"):
            policy.load_state(state)
        assert policy.export_state() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k_max": -1}, "k_max"),
        ({"k_max": 2.5}, "k_max"),
        ({"k_max": True}, "k_max"),
        ({"k_max": 4, "ks": []}, "at least one"),
        ({"k_max": 4, "ks": [0, 5]}, "ks"),
        ({"k_max": 4, "k_min": 5}, "bounds"),
        ({"k_max": 4, "ks": [0, 4], "k_min": 1, "nonsense": 1}, "options"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(name, **arguments)


def test_an_unknown_policy_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown policy 'magic'; known: fixed, rollback, adaptive"):
        make("magic", k_max=4)


@pytest.mark.parametrize("name", NAMES)
def test_contradicting_steps_are_refused(name: str) -> None:
    policy = make(name, k_max=4)
    with pytest.raises(ValueError, match="negative"):
        policy.choose(-1)
    with pytest.raises(ValueError, match="2 accepted counts for 1 requests"):
        policy.observe(2, 2, [1, 1], 10.0, ["a"])
    with pytest.raises(ValueError, match=r"0\.\.2"):
        policy.observe(1, 2, [3], 10.0)
    with pytest.raises(ValueError, match="negative"):
        policy.observe(1, -1, [], 10.0)


@pytest.mark.parametrize("name", NAMES)
def test_bounds_that_hold_no_k_are_refused(name: str) -> None:
    policy = make(name, k_max=8, ks=(0, 4, 8))
    with pytest.raises(ValueError, match=r"no K of the grid \[0, 4, 8\] lies within 1\.\.3"):
        policy.set_bounds(1, 3)
    with pytest.raises(ValueError, match="bounds"):
        policy.set_bounds(5, 2)
    assert policy.allowed == (0, 4, 8)


@pytest.mark.parametrize("name", NAMES)
def test_every_decision_is_explained_with_a_number(name: str) -> None:
    policy = make(name, k_max=4)
    for _ in range(5):
        k = policy.choose(2, ("a", "b"))
        policy.observe(2, k, [min(1, k), k], 20.0 + k, ("a", "b"))
    sentence = policy.explain()
    assert sentence.startswith("K=")
    assert any(character.isdigit() for character in sentence[4:])
    assert "\n" not in sentence
