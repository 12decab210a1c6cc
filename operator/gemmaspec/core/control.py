"""The rollback machine: K goes down on evidence, is held, is tried again, and never flaps.

State lives in ``.status.control``; one step is a function of settings, state, evidence and time. The two kinds of
drop get different answers: a *fault* (this engine has never accepted while drafts flowed) ends speculation until
the spec changes; a *mix change* chooses the K with the best expected goodput.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


# Times of a step are comparable between like batches: more requests make every step slower, whatever K is.
LIKE_BATCH = 1.5
# Where agents move K, the published one follows at most this often: under Adaptive it moves by itself all the time.
PUBLISH_SECONDS = 60.0


@dataclass(frozen=True, order=True)
class Step:
    """Measured time of a step at ``k``, with ``batch`` running requests."""

    k: int
    milliseconds: float
    batch: float


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
    steps: tuple[Step, ...] = ()
    boot_seconds: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was seen. ``recent``: since K last took effect, within the window; ``newest``: in the window's later half;
    ``longer``: over several windows, worked out where it is needed; ``ever``: since the engines began.

    settled: every engine runs the effective K and is ready. boot_seconds: what the last start of an engine took.
    """

    recent: Window
    newest: Window
    longer: Callable[[], Window]
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
    if state.desired != desired or state.effective > desired:
        # Somebody asks for another K: that is also how a retry after a fault is asked for.
        fresh = replace(start(engine, desired), proved=state.proved, steps=state.steps, boot_seconds=state.boot_seconds)
        return Change(replace(fresh, changed_at=now))
    state = _learn(state, evidence)
    if settings.mode in (Mode.FIXED, Mode.ENGINE):
        return Change(_fixed(state, evidence, now))
    if state.fault and state.effective == 0:
        return Change(state)
    if _is_fault(state, evidence):
        return _fault(state, evidence, now)
    floor = min(settings.k_min, desired)
    if state.effective < floor:
        message = f"K {state.effective}→{floor}: control.kMin is {settings.k_min}"
        return Change(replace(state, effective=floor, changed_at=now, reason=message if floor < desired else ""))
    times = _times(state, evidence.recent, prior)
    lowered = _lower(settings, state, evidence, times, prior, now)
    if lowered is not None:
        return lowered
    return _raise(settings, state, evidence, times, prior, now) or Change(state)


def watch(
    settings: ControlSettings,
    state: ControlState,
    engine: str,
    desired: int,
    evidence: Evidence,
    running: tuple[int, str] | None,
    now: float,
) -> Change:
    """One step where the agents in the engines move K: a fault ends speculation, all else is theirs.

    running: the K that they run with, and why; published when it moved, at most once in ``PUBLISH_SECONDS``.
    """
    if state.engine != engine:
        return Change(start(engine, desired))
    if state.desired != desired:
        return Change(replace(start(engine, desired), proved=state.proved, changed_at=now))
    state = _learn(state, evidence)
    if not state.fault and _is_fault(state, evidence):
        if settings.mode is Mode.FIXED:
            return Change(_fixed(state, evidence, now))
        return _fault(state, evidence, now)
    if running is None or running[0] == state.effective:
        return Change(state)
    if state.changed_at is not None and now - state.changed_at < PUBLISH_SECONDS:
        return Change(state)
    k, why = running
    reason = state.reason if state.fault else "" if k == desired else why
    return Change(replace(state, effective=k, changed_at=now, reason=reason))


def _learn(state: ControlState, evidence: Evidence) -> ControlState:
    """Note that the engine has accepted, and what its start takes at least: a pod that was unready for a moment
    looks as if it had booted since its creation.
    """
    ever = evidence.ever
    first = ever.conditional[0] if ever.conditional else 0.0
    if not state.proved and ever.drafts >= PROVED_DRAFTS and first >= PROVED_RATE:
        state = replace(state, proved=True, fault=False, reason="" if state.fault else state.reason)
    boot = evidence.boot_seconds
    if boot is not None and evidence.settled and (state.boot_seconds is None or round(boot) < state.boot_seconds):
        state = replace(state, boot_seconds=round(boot))
    return state


def _fixed(state: ControlState, evidence: Evidence, now: float) -> ControlState:
    """Modes Fixed and Engine: K is the desired one, a fault is reported and nothing else."""
    if state.effective != state.desired:
        state = replace(state, effective=state.desired, changed_at=now)
    fault = state.fault or _is_fault(state, evidence)
    reason = "this engine accepts none of its drafts; the drafter is broken, and the mode leaves K" if fault else ""
    return replace(state, fault=fault, hold_until=None, hold_seconds=None, on_trial=False, reason=reason)


def _is_fault(state: ControlState, evidence: Evidence) -> bool:
    ever = evidence.ever
    if state.proved or ever.k == 0 or ever.drafts < FAULT_DRAFTS or evidence.requests_finished < FAULT_REQUESTS:
        return False
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
    recent, newest = evidence.recent, evidence.newest
    if state.effective <= settings.k_min or not evidence.settled or recent.drafts < settings.min_drafts:
        return None
    if newest.drafts < settings.min_drafts / 2:
        return None
    if state.changed_at is not None and now - state.changed_at < settings.min_dwell_seconds:
        return None
    # While the mix changes, the window holds some of both. Its later half chooses, or K would stop half-way and pay
    # for a second start; the whole window must be sure.
    chosen = best(newest.conditional, times, range(settings.k_min, state.effective))
    likely = gain(newest.conditional, times, state.effective, chosen)
    sure = gain(upper_conditional(recent, prior.acceptance), times, state.effective, chosen)
    if sure < settings.min_gain <= likely:  # one or two long requests prove nothing in a window: look further back
        sure = gain(upper_conditional(evidence.longer(), prior.acceptance), times, state.effective, chosen)
    hold = _hold(settings, state)
    if min(sure, likely) < settings.min_gain or not _pays(state, likely, hold):
        return _passed(settings, state, likely, now)
    message = _lower_message(state.effective, chosen, newest, times, likely, hold)
    moved = replace(
        state,
        effective=chosen,
        changed_at=now,
        hold_until=now + hold,
        hold_seconds=hold,
        on_trial=False,
        steps=_remember(state, recent),
        reason=message,
    )
    return Change(moved, "DraftsDoNotPay", message)


def _hold(settings: ControlSettings, state: ControlState) -> int:
    """How long a K lowered now is held: twice as long after each trial that failed; a further step down, which only
    corrects the first, forgets no back-off.
    """
    before = state.hold_seconds or 0
    doubled = 2 * before if state.on_trial else before
    return max(settings.hold_seconds, min(settings.max_hold_seconds, doubled))


def _passed(settings: ControlSettings, state: ControlState, likely: float, now: float) -> Change | None:
    """A trial is over when no lower K promises more, or when none was sure to for as long as a hold."""
    if not state.on_trial:
        return None
    if likely > 0 and state.changed_at is not None and now - state.changed_at < settings.hold_seconds:
        return None
    return Change(replace(state, on_trial=False, hold_seconds=None, reason=""))


def _raise(
    settings: ControlSettings, state: ControlState, evidence: Evidence, times: StepTimes, prior: Prior, now: float
) -> Change | None:
    if state.effective >= state.desired or state.hold_until is None or now < state.hold_until or not evidence.settled:
        return None
    if evidence.recent.generation_tokens <= 0 or _hopeless(settings, state, evidence.recent, times, prior):
        return None  # nobody would tell whether the trial pays, or it can't
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
        steps=_remember(state, evidence.recent),
        reason=message,
    )
    return Change(moved, "TrialAfterHold", message)


def _hopeless(settings: ControlSettings, state: ControlState, recent: Window, times: StepTimes, prior: Prior) -> bool:
    """Whether the positions that are still drafted say already that the desired K would not pay."""
    if recent.drafts < settings.min_drafts:
        return False
    seen = upper_conditional(recent, prior.acceptance)
    unseen = (*prior.acceptance[len(seen) :], *(1.0 for _ in range(state.desired)))
    return gain((*seen, *unseen), times, state.effective, state.desired) < settings.min_gain


def _times(state: ControlState, recent: Window, prior: Prior) -> StepTimes:
    """What is known of step times at the batch of now."""
    low, high = recent.batch / LIKE_BATCH, recent.batch * LIKE_BATCH
    known = {step.k: step.milliseconds for step in state.steps if low <= step.batch <= high}
    if recent.step_milliseconds is not None:
        known[recent.k] = recent.step_milliseconds
    return StepTimes(known, prior.step_milliseconds)


def _remember(state: ControlState, recent: Window) -> tuple[Step, ...]:
    if recent.step_milliseconds is None:
        return state.steps
    measured = Step(recent.k, round(recent.step_milliseconds, 2), round(recent.batch, 2))
    return tuple(sorted([measured, *(step for step in state.steps if step.k != recent.k)]))


def _pays(state: ControlState, likely: float, hold_seconds: float) -> bool:
    """A change by restart costs a boot without service: the gain over the hold must repay it."""
    return state.boot_seconds is None or likely * hold_seconds >= state.boot_seconds


def _lower_message(current: int, chosen: int, seen: Window, times: StepTimes, likely: float, hold: int) -> str:
    cost = times.at(current) / times.at(chosen)
    rates = rates_text(seen.conditional)
    return (
        f"K {current}→{chosen}: drafts earn {expected_tokens(seen.conditional, current):.2f} tokens a step "
        f"(conditional acceptance {rates}; {seen.drafts:.0f} drafts in {seen.span:.0f} s) for a step of "
        f"{cost:.2f}× the time of K={chosen}, which promises {100 * likely:+.0f} % tokens per second; held for {hold} s"
    )


def estimates(state: ControlState, recent: Window, prior: Prior) -> dict[int, float]:
    """Expected tokens per second of one sequence by K, 0 to the desired one: what decisions compare.

    Only what was measured, or what the recipe's source measured, is estimated: a K with a position of which neither
    is known is absent, and nothing is known before a step was timed.
    """
    times = _times(state, recent, prior)
    if not times.measured:
        return {}
    seen = recent.conditional if recent.drafts >= PROVED_DRAFTS else ()
    rates = (*seen, *prior.acceptance[len(seen) :])
    known = range(min(state.desired, len(rates)) + 1)
    return {k: 1000.0 * expected_tokens(rates, k) / times.at(k) for k in known}


def rates_text(rates: Sequence[float]) -> str:
    """Rates as people write them: ``.95/.93/.87``."""
    return "/".join(f"{rate:.2f}".removeprefix("0") for rate in rates) or "none"
