"""Conditional acceptance: exchangeable across K, shrunk between requests."""

from __future__ import annotations

import random

import pytest

from gemmaspec_engine.acceptance import Acceptance, conditional


def lengths(rates: list[float], k: int, count: int, seed: int) -> list[int]:
    rng, result = random.Random(seed), []
    for _ in range(count):
        length = 0
        while length < k and rng.random() < rates[length]:
            length += 1
        result.append(length)
    return result


def test_conditional_rates_of_the_published_sweep() -> None:
    assert [round(a, 2) for a in conditional((0.722, 0.536, 0.412, 0.309))] == [0.72, 0.74, 0.77, 0.75]
    assert conditional((0.5, 0.0, 0.0)) == [0.5, 0.0, 0.0]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_rates_do_not_depend_on_the_k_they_were_seen_at(k: int) -> None:
    rates = [0.8, 0.6, 0.4, 0.3]
    model = Acceptance(4)
    for i, a in enumerate(lengths(rates, k, 4000, 1)):
        model.observe(k, [a], [i // 4])
    assert model.rates[:k] == pytest.approx(rates[:k], abs=0.13)


def test_positions_never_drafted_follow_the_last_known_one() -> None:
    model = Acceptance(6)
    for i, a in enumerate(lengths([0.9] * 6, 2, 400, 2)):
        model.observe(2, [a], [i // 4])
    assert model.rates[5] == pytest.approx(model.rates[1], abs=0.01)


def test_expected_lengths_follow_each_request() -> None:
    model = Acceptance(4)
    for step in range(200):
        model.observe(4, [4, 0], ["good", "bad"])
        assert step >= 0
    good, bad, new = (model.totals(1, (name,))[4] for name in ("good", "bad", "new"))
    assert good > 3.5
    assert bad < 0.5
    assert bad < new < good
    assert model.totals(2, ("good", "bad"))[4] == pytest.approx(good + bad)


def test_a_long_request_does_not_outweigh_many_short_ones() -> None:
    model = Acceptance(1)
    for _ in range(200):
        model.observe(1, [0], ["long"])
    for request in range(20):
        for _ in range(10):
            model.observe(1, [1], [request])
    assert model.rates[0] > 0.75


def test_windows_of_counters_give_the_same_rates() -> None:
    model = Acceptance(4)
    for _ in range(5):
        model.add_window(4, 400, [289, 214, 165, 124], requests=8)
    assert model.rates == pytest.approx([0.722, 0.74, 0.77, 0.75], abs=0.03)
    with pytest.raises(ValueError, match="fall from 10 drafts"):
        model.add_window(2, 10, [4, 7])


def test_a_mix_change_leaves_what_came_after_the_mark() -> None:
    model = Acceptance(2)
    for i in range(200):
        model.observe(2, [2], [i // 5])
    model.mark()
    for i in range(20):
        model.observe(2, [0], [1000 + i // 5])
    before = model.rates[0]
    model.forget(0.1)
    assert model.rates[0] < before / 2


def test_surprise_is_zero_on_average() -> None:
    model, total, spread = Acceptance(4), 0.0, 0.0
    for i, a in enumerate(lengths([0.7, 0.7, 0.7, 0.7], 4, 3000, 3)):
        surprise, variance = model.observe(4, [a], [i // 50])
        total, spread = total + surprise, spread + variance
    assert abs(total) < 4 * spread**0.5
