"""The rollback machine: K goes down on evidence, is held, is tried again, and never flaps.

State lives in ``.status.control``; one step is a function of settings, state, evidence and time. The two kinds of
drop get different answers: a *fault* (this engine has never accepted while drafts flowed) ends speculation until
the spec changes; a *mix change* chooses the K with the best expected goodput.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gemmaspec.api.spec import Mode
from gemmaspec.core.acceptance import Window
from gemmaspec.core.goodput import StepTimes, best, expected_tokens, gain, upper_conditional
from gemmaspec.core.recipe import Prior
from gemmaspec.core.resolve import ControlSettings

# A fault: at most this share of first draft tokens accepted, since this engine began, ...
FAULT_RATE = 0.02
# ... over at least this many drafts and finished requests. A healthy engine with a mean of .4 and beta
# concentration 20 has a probability below 1e-9 for it (three independent requests of 67 drafts).
FAULT_DRAFTS = 200
FAULT_REQUESTS = 3
# Acceptance is proved at this share of first draft tokens over this many drafts.
PROVED_RATE = 0.05
PROVED_DRAFTS = 50


@dataclass(frozen=True)
class ControlState:
    """What the machine remembers. Times in seconds since the epoch."""

    engine: str = ""
    desired: int = 0
    effective: int = 0
    proved: bool = False
    fault: bool = False
    changed_at: float | None = None
    hold_until: float | None = None
    hold_seconds: int | None = None
    on_trial: bool = False
    step_milliseconds: tuple[tuple[int, float], ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was seen. ``recent``: since K last took effect, within the window; ``ever``: since the engines began.

    settled: every engine runs the effective K and is ready. boot_seconds: what the last start of an engine took.
    """

    recent: Window
    ever: Window
    requests_finished: float
    settled: bool
    boot_seconds: float | None = None


@dataclass(frozen=True)
class Change:
    """A decision: the new state, and a reason when K moved."""

    state: ControlState
    reason: str = ""
    message: str = ""

    @property
    def moved(self) -> bool:
        """Whether K moved by a judgement of ours (not by a new spec)."""
        return bool(self.reason)


def start(engine: str, desired: int) -> ControlState:
    """State of an engine of which nothing is known yet."""
    return ControlState(engine=engine, desired=desired, effective=desired)


def step(
    settings: ControlSettings,
    state: ControlState,
    engine: str,
    desired: int,
    evidence: Evidence,
    prior: Prior,
    now: float,
) -> Change:
    """One step of the machine. Missing evidence changes nothing."""
    if state.engine != engine:
        return Change(start(engine, desired))
    if state.desired != desired:
        # Somebody asks for another K: that is also how a retry after a fault is asked for.
        fresh = replace(start(engine, desired), proved=state.proved, step_milliseconds=state.step_milliseconds)
        return Change(replace(fresh, changed_at=now))
    state = _learn(state, evidence)
    if settings.mode is Mode.FIXED:
        fault = _is_fault(state, evidence)
        return Change(replace(state, effective=desired, fault=fault, hold_until=None, on_trial=False))
    if state.fault:
        return Change(state)
    if _is_fault(state, evidence):
        return _fault(state, evidence, now)
    times = StepTimes(dict(state.step_milliseconds), prior.step_milliseconds)
    lowered = _lower(settings, state, evidence, times, prior, now)
    if lowered is not None:
        return lowered
    return _raise(state, evidence, now) or Change(state)


def _learn(state: ControlState, evidence: Evidence) -> ControlState:
    """Note that the engine has accepted."""
    ever = evidence.ever
    first = ever.conditional[0] if ever.conditional else 0.0
    if not state.proved and ever.drafts >= PROVED_DRAFTS and first >= PROVED_RATE:
        state = replace(state, proved=True)
    return state


def _is_fault(state: ControlState, evidence: Evidence) -> bool:
    ever = evidence.ever
    if state.proved or ever.k == 0 or ever.drafts < FAULT_DRAFTS or evidence.requests_finished < FAULT_REQUESTS:
        return state.fault
    return bool(ever.conditional) and ever.conditional[0] <= FAULT_RATE


def _fault(state: ControlState, evidence: Evidence, now: float) -> Change:
    ever = evidence.ever
    message = (
        f"K {state.effective}→0: this engine accepted {ever.accepted[0]:.0f} of {ever.drafts:.0f} first draft tokens "
        f"over {evidence.requests_finished:.0f} requests since it began; the drafter is broken (wrong patch, wrong "
        "transformers version, or a drafter that does not fit). Speculation stays off until the spec changes"
    )
    moved = replace(state, fault=True, effective=0, changed_at=now, hold_until=None, on_trial=False, reason=message)
    return Change(moved, "DraftRejected", message)


def _lower(
    settings: ControlSettings, state: ControlState, evidence: Evidence, times: StepTimes, prior: Prior, now: float
) -> Change | None:
    recent = evidence.recent
    if state.effective <= settings.k_min or not evidence.settled or recent.drafts < settings.min_drafts:
        return None
    if state.changed_at is not None and now - state.changed_at < settings.min_dwell_seconds:
        return None
    times = _with_measured(times, recent)
    choices = range(settings.k_min, state.effective)
    rates = recent.conditional
    chosen = best(rates, times, choices)
    sure = gain(upper_conditional(recent, prior.acceptance), times, state.effective, chosen)
    likely = gain(rates, times, state.effective, chosen)
    if sure < settings.min_gain or not _pays(evidence, likely, settings.hold_seconds):
        if state.on_trial and likely <= 0:
            return Change(replace(state, on_trial=False, hold_seconds=None, reason=""))
        return None
    hold = settings.hold_seconds
    if state.on_trial and state.hold_seconds:
        hold = min(settings.max_hold_seconds, 2 * state.hold_seconds)
    message = _lower_message(state.effective, chosen, recent, times, likely, hold)
    moved = replace(
        state,
        effective=chosen,
        changed_at=now,
        hold_until=now + hold,
        hold_seconds=hold,
        on_trial=False,
        step_milliseconds=_remember(state, recent),
        reason=message,
    )
    return Change(moved, "DraftsDoNotPay", message)


def _raise(state: ControlState, evidence: Evidence, now: float) -> Change | None:
    if state.effective >= state.desired or state.hold_until is None or now < state.hold_until or not evidence.settled:
        return None
    if evidence.recent.generation_tokens <= 0:
        return None  # nobody would tell whether the trial pays
    message = (
        f"K {state.effective}→{state.desired}: held for {state.hold_seconds} s; trying the desired K again on the "
        "traffic of now"
    )
    moved = replace(
        state,
        effective=state.desired,
        changed_at=now,
        hold_until=None,
        on_trial=True,
        step_milliseconds=_remember(state, evidence.recent),
        reason=message,
    )
    return Change(moved, "TrialAfterHold", message)


def _with_measured(times: StepTimes, recent: Window) -> StepTimes:
    if recent.step_milliseconds is None:
        return times
    return StepTimes({**times.measured, recent.k: recent.step_milliseconds}, times.prior)


def _remember(state: ControlState, recent: Window) -> tuple[tuple[int, float], ...]:
    known = dict(state.step_milliseconds)
    if recent.step_milliseconds is not None:
        known[recent.k] = round(recent.step_milliseconds, 2)
    return tuple(sorted(known.items()))


def _pays(evidence: Evidence, likely: float, horizon_seconds: float) -> bool:
    """A change by restart costs a boot without service: the gain over the hold must repay it."""
    boot = evidence.boot_seconds
    return boot is None or likely * horizon_seconds >= boot


def _lower_message(current: int, chosen: int, recent: Window, times: StepTimes, likely: float, hold: int) -> str:
    cost = times.at(current) / times.at(chosen)
    rates = rates_text(recent.conditional)
    return (
        f"K {current}→{chosen}: drafts earn {expected_tokens(recent.conditional, current):.2f} tokens a step "
        f"(conditional acceptance {rates}; {recent.drafts:.0f} drafts in {recent.span:.0f} s) for a step of "
        f"{cost:.2f}× the time of K={chosen}, which promises {100 * likely:+.0f} % tokens per second; held for {hold} s"
    )


def rates_text(rates: Sequence[float]) -> str:
    """Rates as people write them: ``.95/.93/.87``."""
    return "/".join(f"{rate:.2f}".removeprefix("0") for rate in rates) or "none"
