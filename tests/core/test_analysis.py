"""The verdict on a revision on trial: what sends it away, what takes it, and what is no evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gemmaspec.core.acceptance import Window
from gemmaspec.core.analysis import Answer, Baseline, Rules, Seen, Speed, judge
from gemmaspec.core.observation import Ended, Pod, Proof

NOW = 10_000.0
RULES = Rules(initial_delay=30, min_drafts=400, max_loss=0.2, failure_limit=1, deadline=600, timeout=300, promote=False)
POD = Pod(
    name="new-1",
    uid="u",
    revision="new",
    k=4,
    ip=None,
    node=None,
    phase="Running",
    ready=True,
    terminating=False,
    running=True,
    restarts=0,
    created_at=NOW - 400,
    ready_at=NOW - 100,
)
RATES = (0.8, 0.75, 0.7, 0.7)
GOOD = Baseline(RATES, 2000.0, Speed(30.0, 2.0))


def drafted(drafts: float, rates: Sequence[float], requests: float = 20.0) -> tuple[Window, float]:
    accepted, alive = [], drafts
    for rate in rates:
        alive *= rate
        accepted.append(alive)
    return Window(k=len(rates), drafts=drafts, accepted=tuple(accepted)), requests


def seen(drafts: float = 0.0, rates: Sequence[float] = RATES, speeds: Sequence[float] = (), batch: float = 2.0) -> Seen:
    ever, requests = drafted(drafts, rates)
    return Seen(
        pods=(POD,),
        boxes=1,
        asked_at=NOW - 500,
        k=len(rates),
        ever=ever,
        depth=len(rates),
        requests=requests,
        spans=[Speed(tokens, batch) for tokens in speeds],
    )


STARTING = replace(POD, ready=False, ready_at=None)


def answer(found: Seen, baseline: Baseline = GOOD, rules: Rules = RULES, now: float = NOW) -> tuple[str, str]:
    verdict = judge(rules, found, baseline, now)
    assert verdict.message
    return str(verdict.answer), verdict.reason


def test_as_good_is_taken_once_both_tests_have_passed() -> None:
    fast = [30.0] * 30
    assert answer(seen(1000, speeds=fast)) == ("Promote", "AnalysisPassed")
    assert answer(seen(1000)) == ("Wait", "FewSpans")
    assert answer(seen(300, speeds=fast)) == ("Wait", "FewDrafts")
    assert answer(seen(1000), now=NOW + 300) == ("Promote", "AnalysisPassed")
    assert answer(seen(0, speeds=fast), now=NOW + 300) == ("Promote", "AnalysisPassed")


def test_worse_is_sent_away() -> None:
    assert answer(seen(1000, rates=(0.5, 0.5, 0.5, 0.5))) == ("Reject", "AcceptanceWorse")
    assert answer(seen(400, rates=(0.0, 0.0, 0.0, 0.0))) == ("Reject", "AcceptanceWorse")
    assert answer(seen(1000, speeds=[20.0] * 30)) == ("Reject", "SpeedWorse")
    assert answer(replace(seen(100), fault="it accepted none")) == ("Reject", "DraftRejected")


def test_dead_engines_are_sent_away() -> None:
    broken = Proof(False, "FilesChanged", "another hash", deterministic=True)
    asked = replace(seen(), pods=(replace(STARTING, proof=broken),))
    assert answer(asked) == ("Reject", "PreflightFailed")
    retried = replace(asked, pods=(replace(STARTING, proof=replace(broken, deterministic=False)),))
    assert answer(retried) == ("Wait", "Starting")
    once, twice = (replace(STARTING, restarts=n, ended=Ended("EngineFailed", "ValueError", 1)) for n in (1, 2))
    assert answer(replace(seen(), pods=(once,))) == ("Wait", "Starting")
    assert answer(replace(seen(), pods=(twice,))) == ("Reject", "EngineRestarts")
    assert answer(replace(seen(), pods=(once,), parked=True)) == ("Reject", "EngineParked")


def test_the_deadline_counts_from_when_the_engine_was_asked_for_or_came_anew() -> None:
    late = replace(seen(), pods=(replace(STARTING, created_at=NOW - 400),))
    assert judge(RULES, late, GOOD, NOW).again == NOW - 400 + 600
    assert answer(late, now=NOW + 201) == ("Reject", "ProgressDeadlineExceeded")
    none = replace(late, pods=())
    assert judge(RULES, none, GOOD, NOW).again == NOW - 500 + 600
    assert answer(none, now=NOW + 101) == ("Reject", "ProgressDeadlineExceeded")
    evicted = replace(late, pods=(replace(STARTING, created_at=NOW + 5000),))
    assert answer(evicted, now=NOW + 5001) == ("Wait", "Starting")


def test_what_was_not_measured_is_no_evidence() -> None:
    assert judge(RULES, seen(), GOOD, NOW - 90).reason == "InitialDelay"
    assert judge(RULES, seen(), GOOD, NOW - 90).again == NOW - 70
    assert answer(seen()) == ("Wait", "FewDrafts")
    assert judge(RULES, seen(), GOOD, NOW).again == NOW - 70 + 300
    assert answer(seen(), now=NOW + 300) == ("Hold", "Inconclusive")
    assert answer(seen(), rules=replace(RULES, promote=True), now=NOW + 300) == ("Promote", "Inconclusive")
    assert answer(seen(1000, speeds=[10.0] * 50, batch=8.0)) == ("Wait", "FewSpans"), "another load"


def test_without_figures_of_the_good_one_accepted_drafts_must_do() -> None:
    assert answer(seen(1000), Baseline()) == ("Wait", "FewDrafts")
    assert answer(replace(seen(1000), proved=True), Baseline()) == ("Promote", "AnalysisPassed")
    few = Baseline(RATES, 10.0)
    assert answer(seen(1000), few) == ("Wait", "FewDrafts")


def test_fewer_drafts_are_what_the_spec_asks_for() -> None:
    off = replace(seen(speeds=[5.0] * 50), k=0, depth=0)
    assert answer(off) == ("Promote", "AnalysisPassed")
    fewer = replace(seen(1000, rates=RATES[:2], speeds=[20.0] * 50), k=2)
    assert answer(fewer) == ("Promote", "AnalysisPassed")


def test_agents_that_have_stopped_drafting_leave_nothing_to_wait_for() -> None:
    none = seen(150, rates=(0.0, 0.0, 0.0, 0.0))
    assert answer(none) == ("Wait", "FewDrafts")
    assert answer(replace(none, stopped=True)) == ("Reject", "AcceptanceWorse")


def looks(rng: np.random.Generator, rates: Sequence[float]) -> str:
    """A trial that is looked at after every request, each with rates of its own around ``rates``."""
    accepted, drafts = np.zeros(4), 0
    for request in range(1, 120):
        own = np.clip(np.array(rates) * rng.beta(16, 4) / 0.8, 0.0, 0.99)
        steps = int(rng.integers(20, 120))
        alive = steps
        for position in range(4):
            alive = rng.binomial(alive, own[position])
            accepted[position] += alive
        drafts += steps
        ever = Window(k=4, drafts=float(drafts), accepted=tuple(accepted))
        found = judge(RULES, replace(seen(), ever=ever, requests=float(request)), Baseline(RATES, 2000.0), NOW)
        if found.answer is not Answer.WAIT:
            return str(found.answer)
    return "Wait"


@pytest.mark.parametrize(("rates", "wrong", "most"), [(RATES, "Reject", 6), ((0.6, 0.55, 0.5, 0.5), "Promote", 6)])
def test_looking_after_each_request_errs_seldom(rates: Sequence[float], wrong: str, most: int) -> None:
    """Of 200 trials each; 1 % is what the test is made for, clustering and the unsure baseline included."""
    rng = np.random.default_rng(7)
    found = [looks(rng, rates) for _ in range(200)]
    assert found.count(wrong) <= most
    assert found.count("Wait") <= 20
