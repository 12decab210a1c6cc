"""The rules of others, step by step as they are published."""

from __future__ import annotations

import math

import pytest

from gemmaspec_engine.policy import Policy, make


def feed(policy: Policy, *accepted: int, ms: float = 10.0) -> list[int]:
    """One request; every step accepts at most what was drafted. Returns the K of each step."""
    chosen = []
    for count in accepted:
        k = policy.choose(1)
        policy.observe(1, k, [min(count, k)], ms)
        chosen.append(k)
    return chosen


def test_hf_adds_two_when_all_passed_and_takes_one_otherwise() -> None:
    assert feed(make("hf-heuristic", k_max=8), 9, 9, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0) == [
        5, 7, 8, 7, 6, 8, 7, 6, 5, 4, 3, 2, 1,
    ]  # fmt: skip


def test_hf_never_turns_off() -> None:
    assert feed(make("hf-heuristic", k_max=4), *[0] * 20)[-1] == 1


def test_sglang_moves_between_tiers_after_warm_up_every_fifth_step() -> None:
    policy = make("ema-tiers", k_max=8)
    chosen = feed(policy, *[8] * 40)
    assert chosen[:15] == [3] * 15
    assert chosen[15] == 7
    assert feed(policy, *[0] * 60)[-1] == 1


def test_sglang_needs_the_average_to_fall_below_the_lower_tier_by_its_margin() -> None:
    policy = make("ema-tiers", k_max=8)
    assert feed(policy, *[1] * 60)[-1] == 3  # 1.0 > 1 - 0.5 - 0.25
    assert feed(policy, *[0, 0, 0, 1] * 20)[-1] == 1


def test_tensorrt_turns_off_for_good_once_a_full_window_is_below_the_threshold() -> None:
    policy = make("threshold-off", k_max=4, window=10, threshold=0.3)
    assert feed(policy, *[1] * 10) == [4] * 10
    assert set(feed(policy, *[4] * 50)) == {0}


def test_tensorrt_looks_at_a_rolling_window() -> None:
    policy = make("threshold-off", k_max=4, window=10, threshold=0.3)
    feed(policy, *[4] * 30)
    assert set(feed(policy, *[0] * 6)) == {4}
    assert feed(policy, *[0] * 6)[-1] == 0


def test_ucb_tries_every_arm_first_and_then_prefers_the_best() -> None:
    policy = make("ucb", k_max=3)
    chosen = []
    for _ in range(400):
        k = policy.choose(1)
        policy.observe(1, k, [k], 10.0 + 8 * abs(k - 2))
        chosen.append(k)
    assert sorted(chosen[:4]) == [0, 1, 2, 3]
    assert chosen[100:].count(2) > 150


def test_fixed_is_the_nearest_value_of_the_grid_below() -> None:
    assert make("fixed", k_max=8, ks=(0, 2, 8), k=5).choose(3) == 2
    assert make("fixed", k_max=8).choose(1) == 8


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("fixed", {"k": 9}),
        ("hf-heuristic", {"start": 0}),
        ("ema-tiers", {"tiers": []}),
        ("threshold-off", {"window": 0}),
        ("threshold-off", {"threshold": 1.5}),
        ("ucb", {"discount": 0.1}),
        ("ucb", {"exploration": math.nan}),
        ("rollback", {"k": -1}),
        ("rollback", {"hold": 0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(option)).rstrip("s")):
        make(name, k_max=8, **option)
