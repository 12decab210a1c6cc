"""Warm-up: counted apart, compared with itself, bounded, and sent to nobody who has something to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmaspec.core.acceptance import Window
from gemmaspec.core.analysis import judge
from gemmaspec.core.observation import Sample
from gemmaspec.core.warmup import LEAST_REQUESTS, MOST_REQUESTS, PROMPTS, WarmUp, idle, load, request, stored, without
from tests.core.test_analysis import GOOD, NOW, RULES, seen
from tests.core.test_resolve import resolved

EMPTY = Sample(0.0, 0, 0, 0, (0.0,) * 4, 0, 0, 0, 0, 0)


def asked(rate: float, requests: int = 12, drafts: float = 40.0, step: float = 0.02) -> WarmUp:
    """So many requests, of which each position accepts ``rate``."""
    found, before = WarmUp("u/0"), EMPTY
    for _ in range(requests):
        positions = tuple(before.accepted_per_position[i] + drafts * rate ** (i + 1) for i in range(4))
        after = replace(
            before,
            drafts=before.drafts + drafts,
            draft_tokens=before.draft_tokens + 4 * drafts,
            accepted_tokens=sum(positions),
            accepted_per_position=positions,
            step_seconds_sum=before.step_seconds_sum + drafts * step,
            step_seconds_count=before.step_seconds_count + drafts,
        )
        found, before = found.plus(before, after), after
    return found


def verdict(new: WarmUp, old: WarmUp) -> tuple[str, str]:
    """What is said of a revision that nobody else asks anything."""
    own = replace(seen(0), ever=new.window, requests=new.requests, spans=new.spans, fault="")
    found = judge(RULES, seen(0), GOOD, NOW, (own, old.baseline))
    return str(found.answer), found.reason


def test_an_idle_revision_is_judged_by_warm_up_alone() -> None:
    assert verdict(asked(0.8), asked(0.8)) == ("Promote", "AnalysisPassed")
    assert verdict(asked(0.4), asked(0.8)) == ("Reject", "AcceptanceWorse")
    assert verdict(asked(0.8, step=0.04), asked(0.8)) == ("Reject", "SpeedWorse")
    assert verdict(asked(0.8, requests=3), asked(0.8)) == ("Wait", "FewDrafts")


def test_hard_prompts_are_no_fault_where_the_good_revision_found_them_hard_too() -> None:
    """The baseline of traffic, code perhaps, is not what warm-up is compared with."""
    assert verdict(asked(0.35, requests=36), asked(0.35, requests=36)) == ("Promote", "AnalysisPassed")


def test_a_drafter_whose_drafts_are_all_rejected_is_told_after_the_whole_set() -> None:
    """Not after the first kinds of text: a drafter may be poor at one of them."""
    assert "warm-up" in asked(0.0, requests=LEAST_REQUESTS, drafts=128).fault()
    assert asked(0.0, requests=LEAST_REQUESTS - 1, drafts=128).fault() == ""
    assert asked(0.3).fault() == WarmUp("u/0").fault() == ""


@pytest.mark.parametrize(
    ("found", "k", "expected"),
    [
        (asked(0.8, requests=LEAST_REQUESTS - 1, drafts=100), 4, False),
        (asked(0.8, requests=LEAST_REQUESTS, drafts=100), 4, True),
        (asked(0.8, requests=LEAST_REQUESTS, drafts=10), 4, False),
        (asked(0.8, requests=LEAST_REQUESTS, drafts=0), 0, True),
        (asked(0.8, requests=MOST_REQUESTS, drafts=1), 4, True),
        (WarmUp("u/0", requests=1, lost=MOST_REQUESTS - 1), 4, True),
        (WarmUp("u/0", refused="HTTP 404"), 4, True),
    ],
)
def test_it_has_an_end(found: WarmUp, k: int, expected: bool) -> None:
    assert found.enough(400, k) is expected


def test_more_is_asked_while_a_verdict_is_open_but_not_for_ever() -> None:
    """A real engine beside others was judged on twelve speeds that were neither fast nor slow, and waited for ever."""
    assert not asked(0.8, requests=LEAST_REQUESTS, drafts=100).enough(400, 4, undecided=True)
    assert asked(0.8, requests=MOST_REQUESTS, drafts=100).enough(400, 4, undecided=True)
    assert WarmUp("u/0", refused="HTTP 404").enough(400, 4, undecided=True)


def test_who_is_idle() -> None:
    assert idle([EMPTY])
    assert idle([EMPTY, EMPTY])
    assert not idle([])
    assert not idle([replace(EMPTY, running=1.0)])
    assert not idle([EMPTY, replace(EMPTY, generation_tokens=5.0)])


def test_it_survives_in_the_status_and_speaks_of_one_revision() -> None:
    found = replace(asked(0.5, drafts=64), lost=2)
    kept = load({"warmUp": stored(found, "abc")}, "abc")
    assert kept is not None
    assert (kept.life, kept.requests, kept.lost, kept.drafts) == ("u/0", 12, 2, 768)
    assert kept.window.conditional == pytest.approx(found.window.conditional, abs=0.05)
    assert load({"warmUp": stored(found, "abc")}, "abd") is None
    assert load({}, "abc") is None


def test_what_agents_counted_is_less_by_it() -> None:
    ever = Window(k=4, drafts=1000.0, accepted=(800.0,), requests=20.0)
    left = without(ever, asked(0.5))
    assert (left.drafts, left.accepted, left.requests) == (520.0, (560.0,), 8.0)


@pytest.mark.parametrize(("accelerator", "temperature"), [("GB10", 0.7), ("Any", 0.7), ("CPU", 0.0)])
def test_on_a_cpu_answers_are_greedy(accelerator: str, temperature: float) -> None:
    """vLLM's CPU build samples with a temperature that nobody wrote (vllm-project/vllm#55005): a real engine of the
    tiny pair accepted 13 of 3,417 first drafts at 0.7, also on the kinds of text that it was trained on.
    """
    engine = resolved(nodes={"accelerator": accelerator})
    assert request(None, engine)["temperature"] == temperature


def test_the_prompts_are_of_three_kinds() -> None:
    japanese, english, python = PROMPTS
    assert "国債" in japanese
    assert "bond" in english
    assert "Python" in python
