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
from gemmaspec.core.goodput import Estimate, Step, estimate
from gemmaspec.core.recipe import Prior
from gemmaspec.core.recovery import prove
from gemmaspec.core.resolve import ControlSettings
from gemmaspec_engine.fault import FAULT, HEALTHY, FaultDetector

# Where agents move K, the published one follows at most this often: under Adaptive it moves by itself all the time.
PUBLISH_SECONDS = 60.0
# A remembered moment may lie so far ahead of what it can be: moments are stored in whole seconds, clocks differ.
CLOCK_SECONDS = 60.0
# Fewer drafts than these are no figure that a metric could show.
LEAST_DRAFTS = 50


@dataclass(frozen=True)
class FirstDrafts:
    """First draft tokens of an engine's earlier pods: made, accepted, and of how many requests."""

    drafts: int = 0
    accepted: int = 0
    requests: int = 0


@dataclass(frozen=True)
class ControlState:
    """What the machine remembers. Times in seconds since the epoch.

    trial_from: while the desired K is on trial, the K to which it would go back. earlier: evidence on the drafter from
    pods that are gone, until it is proved or found broken.
    """

    engine: str = ""
    desired: int = 0
    effective: int = 0
    proved: bool = False
    fault: bool = False
    changed_at: float | None = None
    hold_until: float | None = None
    hold_seconds: int | None = None
    trial_from: int | None = None
    earlier: FirstDrafts = FirstDrafts()
    steps: tuple[Step, ...] = ()
    boot_seconds: int | None = None
    reason: str = ""

    @property
    def on_trial(self) -> bool:
        """Whether K was raised and has not proved itself yet."""
        return self.trial_from is not None


@dataclass(frozen=True)
class Evidence:
    """What was seen. ``recent``: since K last took effect, within the window; ``newest``: in the window's later half;
    ``longer``: over several windows, and ``since`` a moment, worked out where they are needed; ``ever``: since the
    engines began.

    settled: every engine runs the effective K and is ready. boot_seconds: what the last start of an engine took.
    """

    recent: Window
    newest: Window
    longer: Callable[[], Window]
    since: Callable[[float], Window]
    ever: Window
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
    state = _learn(_as_of(state, now), evidence)
    if settings.mode in (Mode.FIXED, Mode.ENGINE):
        return Change(_fixed(state, evidence, now))
    if state.fault and state.effective == 0:
        return Change(state)
    drafter = _drafter(state, evidence)
    if drafter.verdict == FAULT:
        return _fault(state, drafter, now)
    floor = min(settings.k_min, desired)
    if state.effective < floor:
        message = f"K {state.effective}→{floor}: control.kMin is {settings.k_min}"
        moved = _move(state, evidence, floor, now)
        return Change(replace(moved, hold_until=None, reason=message if floor < desired else ""))
    case = _Case(settings, state, evidence, prior, now)
    decided = _suspect(case) or (_try(case) if state.on_trial else _lower(case) or _raise(case))
    return decided or Change(state)


def _as_of(state: ControlState, now: float) -> ControlState:
    """The state as this clock knows it: one that was set back stretches no wait beyond the whole of it."""
    changed, hold = state.changed_at, state.hold_until
    if changed is not None and changed > now + CLOCK_SECONDS:
        state = replace(state, changed_at=now)
    whole = now + (state.hold_seconds or 0)
    if hold is not None and hold > whole + CLOCK_SECONDS:
        state = replace(state, hold_until=whole)
    return state


@dataclass(frozen=True)
class _Case:
    """All that a judgement of K is a function of."""

    settings: ControlSettings
    state: ControlState
    evidence: Evidence
    prior: Prior
    now: float

    def estimate(self, seen: Window) -> Estimate:
        """What each K earns where acceptance is that of ``seen``."""
        top = max(self.state.desired, self.state.effective)
        return estimate(seen, self.evidence.recent, self.state.steps, self.prior, top)

    @property
    def dwelt(self) -> bool:
        """Whether K may move again."""
        changed = self.state.changed_at
        return changed is None or self.now - changed >= self.settings.min_dwell_seconds

    @property
    def patience(self) -> int:
        """How long a K lowered now is held at least: twice as long after each trial that failed. A further step down,
        which only corrects the first, forgets no back-off.
        """
        before = self.state.hold_seconds or 0
        doubled = 2 * before if self.state.on_trial else before
        return max(self.settings.hold_seconds, min(self.settings.max_hold_seconds, doubled))

    def pays(self, likely: float) -> bool:
        """A change by restart costs a boot without service: the gain must repay it within the hold."""
        boot = self.state.boot_seconds
        return boot is None or likely * self.patience >= boot


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
    drafter = _drafter(state, evidence)
    if not state.fault and drafter.verdict == FAULT:
        if settings.mode is Mode.FIXED:
            return Change(_fixed(state, evidence, now))
        return _fault(state, drafter, now)
    if running is None or running[0] == state.effective:
        return Change(state)
    if state.changed_at is not None and now - state.changed_at < PUBLISH_SECONDS:
        return Change(state)
    k, why = running
    reason = state.reason if state.fault else "" if k == desired else why
    return Change(replace(state, effective=k, changed_at=now, reason=reason))


def _drafter(state: ControlState, evidence: Evidence) -> FaultDetector:
    """The test of the drafter, fed with all that this engine ever drafted; mute once acceptance was proved."""
    detector, ever = FaultDetector(), evidence.ever
    if state.proved:
        return detector
    first = _first(ever)
    for seen in (state.earlier, first):
        detector.observe_window(seen.drafts, seen.accepted, seen.requests)
    return detector


def _first(ever: Window) -> FirstDrafts:
    if not ever.drafts:
        return FirstDrafts()  # requests without drafts say nothing
    return FirstDrafts(int(ever.drafts), int(ever.accepted[0]) if ever.accepted else 0, int(ever.requests))


def _learn(state: ControlState, evidence: Evidence) -> ControlState:
    """Note that the engine has accepted, and what its start takes at least: a pod that was unready for a moment
    looks as if it had booted since its creation.
    """
    if not state.proved and _drafter(state, evidence).verdict == HEALTHY:
        state = replace(
            state, proved=True, fault=False, earlier=FirstDrafts(), reason="" if state.fault else state.reason
        )
    boot = evidence.boot_seconds
    if boot is not None and evidence.settled and (state.boot_seconds is None or round(boot) < state.boot_seconds):
        state = replace(state, boot_seconds=round(boot))
    return state


def _fixed(state: ControlState, evidence: Evidence, now: float) -> ControlState:
    """Modes Fixed and Engine: K is the desired one, a fault is reported and nothing else."""
    if state.effective != state.desired:
        state = replace(state, effective=state.desired, changed_at=now)
    fault = state.fault or _drafter(state, evidence).verdict == FAULT
    reason = "this engine accepts none of its drafts; the drafter is broken, and the mode leaves K" if fault else ""
    return replace(state, fault=fault, hold_until=None, hold_seconds=None, trial_from=None, reason=reason)


def _move(state: ControlState, evidence: Evidence, k: int, now: float) -> ControlState:
    """K becomes another one: its pods go, so what they showed of step times and of an unproved drafter is kept."""
    gone = FirstDrafts()
    if not state.proved:
        first, before = _first(evidence.ever), state.earlier
        gone = FirstDrafts(
            before.drafts + first.drafts, before.accepted + first.accepted, before.requests + first.requests
        )
    steps = _remember(state, evidence.recent)
    return replace(state, effective=k, changed_at=now, trial_from=None, steps=steps, earlier=gone)


def _fault(state: ControlState, drafter: FaultDetector, now: float) -> Change:
    message = (
        f"K {state.effective}→0: {drafter.explain()} (wrong patch, wrong transformers version, or a drafter that does "
        "not fit). Speculation stays off until the spec changes"
    )
    moved = replace(state, fault=True, effective=0, changed_at=now, hold_until=None, trial_from=None, reason=message)
    return Change(replace(moved, earlier=FirstDrafts()), "DraftRejected", message)


def _suspect(case: _Case) -> Change | None:
    """These pods had hardly a draft accepted: no verdict yet, but nothing to lose by waiting for it at a lower K."""
    state, floor = case.state, case.settings.k_min
    drafter = _drafter(replace(state, earlier=FirstDrafts()), case.evidence)
    if state.effective <= floor or not drafter.hopeless:
        return None
    hold = _hold(case, floor)
    message = f"K {state.effective}→{floor}: {drafter.explain()}; held for {hold} s, then tried again"
    return Change(_held(case, floor, hold, message), "DraftsDoNotPay", message)


def _lower(case: _Case) -> Change | None:
    settings, state, recent, newest = case.settings, case.state, case.evidence.recent, case.evidence.newest
    if state.effective <= settings.k_min or not case.evidence.settled or not case.dwelt:
        return None
    if recent.drafts < settings.min_drafts or newest.drafts < settings.min_drafts / 2:
        return None
    # While the mix changes, the window holds some of both. Its later half chooses, or K would stop half-way and pay
    # for a second start; the whole window must be sure.
    late = case.estimate(newest)
    chosen = late.best(range(settings.k_min, state.effective))
    likely = late.gain(state.effective, chosen)
    if likely < settings.min_gain or not case.pays(likely):
        return None
    # One or two long requests prove nothing in a window: then it is looked further back.
    if not _sure(case, recent, chosen) and not _sure(case, case.evidence.longer(), chosen):
        return None
    hold = _hold(case, chosen)
    message = _lower_message(state.effective, chosen, newest, late, hold)
    return Change(_held(case, chosen, hold, message), "DraftsDoNotPay", message)


def _sure(case: _Case, seen: Window, chosen: int) -> bool:
    return case.estimate(seen).sure(case.state.effective, chosen) >= case.settings.min_gain


def _held(case: _Case, k: int, hold: int, message: str) -> ControlState:
    moved = _move(case.state, case.evidence, k, case.now)
    return replace(moved, hold_until=case.now + hold, hold_seconds=hold, reason=message)


def _hold(case: _Case, k: int) -> int:
    """How long K is held at ``k``: so long that what a recovery would earn repays the two boots of a trial in vain."""
    settings, state, hold = case.settings, case.state, float(case.patience)
    hope = case.estimate(Window()).gain(k, state.desired) if state.desired > k else 0.0
    if state.boot_seconds and hope > 0:
        hold = max(hold, min(settings.max_hold_seconds, 2.0 * state.boot_seconds / hope))
    return round(hold)


def _raise(case: _Case) -> Change | None:
    """The hold is over: K rises where the positions still drafted prove that it pays, or, at K=0, on trial."""
    state, evidence = case.state, case.evidence
    if state.effective >= state.desired or state.hold_until is None or case.now < state.hold_until:
        return None
    if not evidence.settled or evidence.recent.generation_tokens <= 0:
        return None  # nobody would tell whether it pays
    seen = evidence.since(state.hold_until)
    proof = prove(case.estimate(seen), seen, state.effective, state.desired)
    rise = f"K {state.effective}→{state.desired}: held for {state.hold_seconds} s"
    if state.effective == 0 and proof.decided is not False:
        return _on_trial(case, "TrialAfterHold", f"{rise}; trying the desired K again on the traffic of now")
    if proof.decided:
        return _on_trial(case, "RecoveryProved", f"{rise}, then recovery was proved: {proof.words}")
    waited = case.now - state.hold_until >= case.settings.hold_seconds
    late = waited and seen.drafts >= case.settings.min_drafts
    return _back_off(case, proof.words) if proof.decided is False or late else None


def _on_trial(case: _Case, reason: str, message: str) -> Change:
    moved = _move(case.state, case.evidence, case.state.desired, case.now)
    return Change(replace(moved, hold_until=None, trial_from=case.state.effective, reason=message), reason, message)


def _back_off(case: _Case, why: str) -> Change:
    """No recovery: K stays, and is held twice as long."""
    state, settings = case.state, case.settings
    hold = min(max(settings.max_hold_seconds, settings.hold_seconds), 2 * (state.hold_seconds or settings.hold_seconds))
    message = f"K stays {state.effective}: no recovery ({why}); held for another {hold} s"
    held = replace(state, hold_until=case.now + hold, hold_seconds=hold, reason=message)
    return Change(held, "RecoveryNotProved", message)


def _try(case: _Case) -> Change | None:
    """The desired K on trial: everything that its pods drafted decides whether it stays."""
    state, ever, before = case.state, case.evidence.ever, case.state.trial_from or 0
    if not case.evidence.settled or not case.dwelt or not ever.drafts:
        return None
    known = case.estimate(ever)
    proof = prove(known, ever, before, state.effective)
    if proof.decided is False:
        chosen = known.best(range(case.settings.k_min, state.effective))
        likely, hold = known.gain(state.effective, chosen), _hold(case, chosen)
        if likely > 0 and case.pays(likely):
            message = f"K {state.effective}→{chosen}: the trial failed ({proof.words}); held for {hold} s"
            return Change(_held(case, chosen, hold, message), "RecoveryNotProved", message)
    waited = state.changed_at is not None and case.now - state.changed_at >= case.settings.hold_seconds
    if proof.decided or (waited and ever.drafts >= case.settings.min_drafts):
        word = "recovery is proved" if proof.decided else "the trial ends without a proof against it"
        message = f"K stays {state.effective}: {word} ({proof.words})"
        passed = replace(state, trial_from=None, hold_seconds=None, reason="")
        return Change(passed, "RecoveryProved" if proof.decided else "TrialPassed", message)
    return None


def _remember(state: ControlState, recent: Window) -> tuple[Step, ...]:
    if recent.step_milliseconds is None:
        return state.steps
    measured = Step(recent.k, round(recent.step_milliseconds, 2), round(recent.batch, 2))
    return tuple(sorted([measured, *(step for step in state.steps if step.k != recent.k)]))


def _lower_message(current: int, chosen: int, seen: Window, known: Estimate, hold: int) -> str:
    cost = known.milliseconds[current] / known.milliseconds[chosen]
    rates = rates_text(seen.conditional)
    return (
        f"K {current}→{chosen}: drafts earn {known.tokens(current):.2f} tokens a step "
        f"(conditional acceptance {rates}; {seen.drafts:.0f} drafts in {seen.span:.0f} s) for a step of "
        f"{cost:.2f}× the time of K={chosen}, which promises {100 * known.gain(current, chosen):+.0f} % tokens per "
        f"second; held for {hold} s"
    )


def estimates(state: ControlState, recent: Window, prior: Prior) -> dict[int, float]:
    """Expected tokens per second of one sequence by K, 0 to the desired one: what decisions compare.

    Only what was measured, or what the recipe's source measured, is estimated: a K with a position of which neither
    is known is absent, and nothing is known before a step was timed.
    """
    if not recent.paces and not state.steps:
        return {}
    found = estimate(recent, recent, state.steps, prior, state.desired)
    seen = len(recent.conditional) if recent.drafts >= LEAST_DRAFTS else 0
    known = range(min(state.desired, max(seen, len(prior.acceptance))) + 1)
    return {k: 1000.0 * found.tokens(k) / found.milliseconds[k] for k in known}


def rates_text(rates: Sequence[float]) -> str:
    """Rates as people write them: ``.95/.93/.87``."""
    return "/".join(f"{rate:.2f}".removeprefix("0") for rate in rates) or "none"
