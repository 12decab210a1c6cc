"""Is the revision on trial as good as the last good one? A pure verdict over what was seen of both.

Every test may be looked at after each scrape: they are Wald's sequential tests over counters since the new engine
began, so that looking often makes no error likelier. What was not measured is no evidence against a revision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gemmaspec.api.spec import OnInconclusive, WarmUp
from gemmaspec.core.acceptance import Window
from gemmaspec.core.goodput import expected_tokens
from gemmaspec.core.observation import Pod
from gemmaspec.core.resolve import Resolved
from gemmaspec_engine.fault import Sprt

# Probability of sending away a revision that is as good, and of keeping one that loses as much as is too much.
ERROR: Final = 0.01
# Drafts of one request are alike: intraclass correlation 1 / (CONCENTRATION + 1), as the policies take it
# (gemmaspec_engine.acceptance), and a request is taken to be no longer than this many drafts (gemmaspec_engine.fault).
CONCENTRATION: Final = 20.0
CLUSTER: Final = 250.0
# A good engine is at least half-way above the limit in 70 % of the spans between two scrapes, one that loses too
# much in at most 30 %: so for noise of up to a fifth of the speed. Neighbouring spans are alike: two weigh as one.
SLOW, FAST, ALIKE = 0.3, 0.7, 2.0
# Above the limit by this share of what the good revision earned, a new one is surely good enough.
INDIFFERENT: Final = 0.2
# Speeds compare between like batches only.
LIKE_BATCH: Final = 1.5
# A span with fewer outputs says nothing about speed.
LEAST_OUTPUTS: Final = 10.0


@dataclass(frozen=True)
class Rules:
    """Resolved ``rollout.analysis``. Times in seconds; max_loss is a share."""

    initial_delay: int
    min_drafts: int
    max_loss: float
    failure_limit: int
    deadline: int
    timeout: int
    promote: bool
    warm_up: bool = False


def rules(resolved: Resolved) -> Rules:
    """The rules of the spec, defaults filled in."""
    rollout = resolved.spec.rollout
    given = rollout.analysis
    values: Mapping[str, Any] = given.model_dump(exclude_none=True) if given else {}
    return Rules(
        initial_delay=values.get("initial_delay_seconds", 30),
        min_drafts=values.get("min_drafts", 400),
        max_loss=values.get("max_loss_percent", 20) / 100,
        failure_limit=values.get("failure_limit", 1),
        deadline=values.get("progress_deadline_seconds", rollout.startup_seconds + rollout.drain_seconds + 600),
        timeout=values.get("timeout_seconds", 600),
        promote=values.get("on_inconclusive") is OnInconclusive.PROMOTE,
        warm_up=values.get("warm_up") is WarmUp.WHEN_IDLE,
    )


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one request over a span between two scrapes, and the requests that a step served."""

    tokens: float
    batch: float


@dataclass(frozen=True)
class Baseline:
    """What the last good revision earned. conditional: P(position i accepted | i-1 accepted), over ``drafts``."""

    conditional: Sequence[float] = ()
    drafts: float = 0.0
    speed: Speed | None = None


@dataclass(frozen=True)
class Seen:
    """What was seen of the revision on trial.

    boxes: engines that it shall have. asked_at: since when. k: the K that it was started for. stopped: its agents have
    stopped drafting, so that no more drafts are to be waited for. ever: drafts since its engines began, of
    ``depth`` positions that can be compared. requests: those that it finished. spans: between scrapes, the initial
    delay left out. fault: the drafter's fault in words. proved: it has accepted drafts.
    """

    pods: Sequence[Pod]
    boxes: int
    asked_at: float
    k: int
    ever: Window
    depth: int
    requests: float
    spans: Sequence[Speed]
    parked: bool = False
    fault: str = ""
    proved: bool = False
    stopped: bool = False


class Answer(StrEnum):
    """What a verdict asks for."""

    WAIT = "Wait"
    HOLD = "Hold"
    PROMOTE = "Promote"
    REJECT = "Reject"


@dataclass(frozen=True)
class Verdict:
    """An answer with a stable reason and a sentence; ``again``: when time alone may change it."""

    answer: Answer
    reason: str
    message: str
    again: float | None = None


def judge(
    rules: Rules, seen: Seen, baseline: Baseline, now: float, warmed: tuple[Seen, Baseline] | None = None
) -> Verdict:
    """The verdict on what was seen so far. warmed: what warm-up prompts showed of both; it is compared by itself."""
    dead = _dead(rules, seen)
    if dead is not None:
        return dead
    if seen.fault:
        return Verdict(Answer.REJECT, "DraftRejected", seen.fault)
    ready = [pod for pod in seen.pods if pod.ready]
    if len(ready) < seen.boxes:
        return _late(rules, seen, now)
    began = max(pod.ready_at or 0.0 for pod in ready)
    if now < began + rules.initial_delay:
        words = f"the new engine serves; it is measured after its first {rules.initial_delay} s"
        return Verdict(Answer.WAIT, "InitialDelay", words, began + rules.initial_delay)
    drafts = _drafts(rules, seen, baseline)
    speed = _speed(rules, seen, baseline)
    worse = next((test for test in (drafts, speed) if test is not None and test.good is False), None)
    if worse is not None:
        return Verdict(Answer.REJECT, worse.reason, worse.message)
    told = _warmed(rules, *warmed) if warmed is not None else None
    if told is not None:
        return told
    return _sum_up(rules, [test for test in (drafts, speed) if test is not None], began + rules.initial_delay, now)


def _warmed(rules: Rules, seen: Seen, baseline: Baseline) -> Verdict | None:
    """The verdict on warm-up alone; None while it is open, or where the last good revision had none to compare with."""
    drafts = _drafts(rules, seen, baseline) if baseline.conditional else None
    known = [test for test in (drafts, _speed(rules, seen, baseline)) if test is not None]
    worse = next((test for test in known if test.good is False), None)
    if worse is not None:
        return Verdict(Answer.REJECT, worse.reason, f"on warm-up prompts: {worse.message}")
    if not known or not all(test.good for test in known):
        return None
    return Verdict(Answer.PROMOTE, "AnalysisPassed", "on warm-up prompts: " + "; ".join(t.message for t in known))


@dataclass(frozen=True)
class _Test:
    """One comparison: ``good`` is None while it is open."""

    good: bool | None
    reason: str
    message: str


def _dead(rules: Rules, seen: Seen) -> Verdict | None:
    for pod in sorted(seen.pods, key=lambda pod: pod.name):
        if pod.proof is not None and not pod.proof.ok and pod.proof.deterministic:
            return Verdict(Answer.REJECT, "PreflightFailed", f"{pod.proof.reason}: {pod.proof.message}")
        if pod.restarts > rules.failure_limit:
            why = f": {pod.ended.reason}: {pod.ended.message}" if pod.ended else ""
            limit = f"analysis.failureLimit is {rules.failure_limit}"
            return Verdict(Answer.REJECT, "EngineRestarts", f"the new engine failed again ({limit}){why}")
    if seen.parked:
        return Verdict(Answer.REJECT, "EngineParked", "the new engine failed as often as it may, and is parked")
    return None


def _late(rules: Rules, seen: Seen, now: float) -> Verdict:
    """Not ready yet. A pod that came later, after an eviction, has its own time."""
    late = [pod.created_at or 0.0 for pod in seen.pods if not pod.ready]
    end = max([seen.asked_at, *late]) + rules.deadline
    if now >= end:
        words = f"the new engine was not ready within {rules.deadline} s"
        return Verdict(Answer.REJECT, "ProgressDeadlineExceeded", words)
    return Verdict(Answer.WAIT, "Starting", "the new engine is not ready yet", end)


def _drafts(rules: Rules, seen: Seen, baseline: Baseline) -> _Test | None:
    """Tokens per step over the positions that both drafted; None where the new engine drafts nothing."""
    if seen.k == 0:
        return None
    open_test = _Test(None, "FewDrafts", f"it is judged after {rules.min_drafts} drafts")
    depth = min(len(baseline.conditional), seen.depth, len(seen.ever.accepted))
    if not baseline.conditional:  # nothing to compare with: that drafts are accepted at all must do
        return _Test(True, "Accepting", "the target accepts its drafts") if seen.proved else open_test
    enough = 1 if seen.stopped else rules.min_drafts
    if depth == 0 or seen.ever.drafts < enough or baseline.drafts <= 0:
        return open_test
    before = expected_tokens(baseline.conditional, depth)
    known = max((before - 1.0) / depth, 1e-6)
    least = ((1.0 - rules.max_loss) * before - 1.0) / depth
    hits = sum(seen.ever.accepted[:depth])
    after = 1.0 + hits / seen.ever.drafts
    words = f"{after:.2f} tokens a step where the last good revision gained {before:.2f}"
    if least <= 0.0:  # no acceptance at all would lose less than that
        return _Test(True, "DraftsPay", words)
    design = depth * (1.0 + (min(CLUSTER, seen.ever.drafts / max(1.0, seen.requests)) - 1.0) / (CONCENTRATION + 1.0))
    # The baseline was measured, too: what it may have been at worst is what has to be matched.
    doubt = 2.0 * (known * max(0.0, 1.0 - known) * design / (baseline.drafts * depth)) ** 0.5
    fine = (before * (1.0 - rules.max_loss + min(rules.max_loss, INDIFFERENT)) - 1.0) / depth
    high = min(known - doubt, fine, 0.999)
    if high <= least:
        return _Test(None, "FewDrafts", "too few drafts of the last good revision are known to compare with")
    test = Sprt(least, high, false_accept=ERROR, false_reject=ERROR, design_effect=max(1.0, design))
    good = test.observe(hits, max(0.0, seen.ever.drafts * depth - hits))
    reason = "AcceptanceWorse" if good is False else "AcceptanceHolds"
    return _Test(good, reason, words if good is not None else open_test.message)


def _speed(rules: Rules, seen: Seen, baseline: Baseline) -> _Test | None:
    """Tokens per second of a request at like load; None where the last good revision's is not known."""
    known = baseline.speed
    if known is None or known.tokens <= 0 or known.batch <= 0:
        return None
    if seen.k < len(baseline.conditional):
        return None  # fewer drafts, or none, are what the spec asks for, whatever that costs
    like = [span.tokens for span in seen.spans if known.batch / LIKE_BATCH <= span.batch <= known.batch * LIKE_BATCH]
    limit = known.tokens * (1.0 - rules.max_loss + min(rules.max_loss, INDIFFERENT) / 2.0)
    fast = sum(1 for tokens in like if tokens >= limit)
    test = Sprt(SLOW, FAST, false_accept=ERROR, false_reject=ERROR, design_effect=ALIKE)
    good = test.observe(fast, len(like) - fast)
    if good is None:
        return _Test(None, "FewSpans", "its speed is not known yet at the load that the last good revision had")
    mean = sum(like) / len(like)
    words = (
        f"{mean:.1f} tokens per second of a request where the last good revision made {known.tokens:.1f} "
        f"({fast} of {len(like)} spans above {limit:.1f})"
    )
    return _Test(good, "SpeedHolds" if good else "SpeedWorse", words)


def _sum_up(rules: Rules, tests: Sequence[_Test], began: float, now: float) -> Verdict:
    passed = [test for test in tests if test.good]
    waiting = [test for test in tests if test.good is None]
    words = "; ".join(test.message for test in (passed or waiting))
    if not waiting:
        return Verdict(Answer.PROMOTE, "AnalysisPassed", words or "it serves, and nothing else is to be compared")
    if now < began + rules.timeout:
        told = "; ".join(test.message for test in waiting)
        return Verdict(Answer.WAIT, waiting[0].reason, f"the new engine serves; {told}", began + rules.timeout)
    if passed:
        left = "; ".join(test.message for test in waiting)
        return Verdict(Answer.PROMOTE, "AnalysisPassed", f"{words}; after {rules.timeout} s that was all: {left}")
    if rules.promote:
        told = f"nothing speaks against it after {rules.timeout} s, and onInconclusive is Promote; {words}"
        return Verdict(Answer.PROMOTE, "Inconclusive", told)
    told = f"{words}; held as it is, since onInconclusive is Hold: traffic decides"
    return Verdict(Answer.HOLD, "Inconclusive", told)
