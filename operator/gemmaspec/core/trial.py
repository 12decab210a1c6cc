"""A revision on trial: what it is judged on, what runs meanwhile, and what of earlier revisions is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from gemmaspec.api.spec import Strategy
from gemmaspec.core import analysis, canary, figures, memory, names, rollout, warmup
from gemmaspec.core.acceptance import recent, window
from gemmaspec.core.analysis import Answer, Baseline, Rules, Seen, Speed, Verdict
from gemmaspec.core.canary import Phase, Rollout, Turn
from gemmaspec.core.control import Change, ControlState, Evidence
from gemmaspec.core.observation import Child, Observation, Pod, Sample
from gemmaspec.core.plan import Plan, digest
from gemmaspec.core.problem import Problem, Stalling
from gemmaspec.core.resolve import Resolved
from gemmaspec.core.status import Facts
from gemmaspec.core.warmup import WarmUp

HISTORY_LIMIT: Final = 2
# Fields of the spec that render nothing: the newest spec's are followed whatever revision runs.
UNRENDERED: Final = ("strategy", "maxUnavailable", "revisionHistoryLimit", "analysis")
# The good revision is measured over this many windows before another one takes its box.
BASELINE_WINDOWS: Final = 10


def attempt(pin: str, resolved: Resolved) -> str:
    """Identity of a trial: other rules of judgement are another one."""
    asked = resolved.spec.rollout
    return digest([pin, str(asked.strategy), asked.analysis.body() if asked.analysis else None])[:10]


def last_good(observation: Observation, known: Rollout) -> dict[str, Any]:
    """The spec that rendered the last good revision, with what of the newest one restarts nothing.

    Raises Stalling where its record is gone: what runs is left alone then.
    """
    name = names.revision_object(observation.resource.owner.name, known.stable)
    child = observation.child("ConfigMap", name)
    text = child.body["metadata"].get("annotations", {}).get(names.SPEC_ANNOTATION) if child else None
    if not text:
        message = (
            f"revision {known.rejected} was rolled back ({known.reason}), and the record of the last good one, "
            f"ConfigMap {name}, is gone: what runs is left alone; change the spec"
        )
        raise Stalling(Problem("LastGoodLost", "", message))
    newest = observation.resource.spec
    spec: dict[str, Any] = {**json.loads(text), "replicas": newest.get("replicas", 1)}
    followed = {key: value for key, value in (newest.get("rollout") or {}).items() if key in UNRENDERED}
    own = {key: value for key, value in (spec.get("rollout") or {}).items() if key not in UNRENDERED}
    return {**spec, "rollout": own | followed}


def measured(observation: Observation, asked: Resolved) -> dict[str, Any]:
    """Figures of the good revision, as fresh and as long as they can be had before another one takes its box."""
    before = observation.resource.status
    state = memory.load(before)
    pods = [pod for pod in observation.pods if pod.revision == before.get("revision") and pod.ready]
    if state is None or any(pod.live for pod in pods):
        return {}  # agents' rates are published already, and vLLM's own counters mix different values of K
    since = max([observation.now - BASELINE_WINDOWS * asked.control.window_seconds, state.changed_at or 0.0])
    seen = window(state.effective, [observation.samples.get(pod.uid, ()) for pod in pods], since)
    found = {
        "acceptance": figures.acceptance(None, seen, observation.now, decided=True),
        "throughput": figures.throughput(None, lambda: seen, observation.now, decided=True),
    }
    return {key: value for key, value in found.items() if value is not None}


def frozen(before: ControlState | None, change: Change) -> Change:
    """On trial K stays the one that is judged; only a fault is heard."""
    return Change(before) if change.moved and not change.state.fault and before is not None else change


def kept(children: Iterable[Child], planned: Plan, known: Rollout) -> str | None:
    """Revision of the last good pin at this K that exists, where this operator would render another one of it."""
    if not known.returned or planned.pin == known.good:
        return None
    for child in children:
        notes = child.body.get("metadata", {}).get("annotations", {})
        same = (notes.get(names.PIN_ANNOTATION), notes.get(names.K_ANNOTATION)) == (known.good, str(planned.k))
        if child.kind == "Deployment" and same:
            return child.revision
    return None


def goal(resolved: Resolved, revision: str, known: Rollout) -> dict[str, int]:
    """Boxes by revision to drive to."""
    one_first = resolved.spec.rollout.strategy is not Strategy.ALL_AT_ONCE
    stable = known.stable if known.on_trial else None
    return rollout.goal(revision, stable, resolved.spec.replicas, one_first=one_first)


def unavailable(resolved: Resolved, known: Rollout) -> int:
    """Engines that may be missing because of us; ``AllAtOnce`` and its return take all, a new K of ours does not."""
    asked = resolved.spec.rollout
    if asked.strategy is Strategy.ALL_AT_ONCE and (known.on_trial or known.returned):
        return max(1, resolved.spec.replicas)
    return asked.max_unavailable or 1


def judge(
    observation: Observation, resolved: Resolved, known: Rollout, change: Change, evidence: Evidence, facts: Facts
) -> Verdict | None:
    """The verdict on the revision on trial; None where there is none."""
    if not known.on_trial or facts.boxes == 0 or known.since is None:
        return None
    rules = analysis.rules(resolved)
    pods = [pod for pod in facts.pods if not pod.terminating]
    state, warm = change.state, facts.warm
    k = resolved.k if facts.live else state.effective
    # The agents count warm-up, too; vLLM's own counters come without it.
    ever = warmup.without(evidence.ever, warm) if facts.live and warm else evidence.ever
    seen = Seen(
        pods=pods,
        boxes=facts.boxes,
        asked_at=known.since,
        k=k,
        ever=ever,
        depth=min(k, 1) if facts.live else k,  # under agents deeper positions were drafted less often
        requests=ever.requests,
        spans=_spans(pods, observation.samples, state.effective, rules.initial_delay),
        parked=facts.health.parked,
        fault=(change.message or state.reason) if state.fault else _fault(known, warm),
        proved=state.proved,
        stopped=facts.live and state.effective == 0 < k,
    )
    baseline = _baseline(observation, known, rules, pods)
    return analysis.judge(rules, seen, baseline, observation.now, _warmed(known, seen, warm))


def _warmed(known: Rollout, seen: Seen, warm: WarmUp | None) -> tuple[Seen, Baseline] | None:
    """What warm-up showed of the revision on trial and of the last good one; None where it showed nothing of either."""
    before = _before(known)
    if warm is None or before is None or not warm.whole or not before.requests:
        return None
    own = replace(seen, ever=warm.window, requests=float(warm.requests), spans=warm.spans, stopped=False)
    return own, before.baseline


def _fault(known: Rollout, warm: WarmUp | None) -> str:
    """That no draft is accepted on warm-up prompts; it is no fault where the last good revision accepted none there."""
    before = _before(known)
    return "" if warm is None or (before is not None and before.fault()) else warm.fault()


def _before(known: Rollout) -> WarmUp | None:
    """What warm-up showed of the last good revision."""
    return warmup.read(known.kept.get("warmUp"), known.stable)


def warm(observation: Observation, resolved: Resolved, revision: str) -> WarmUp | None:
    """What warm-up showed of this revision: of an engine that lives, or of one that was asked all there is."""
    stored = warmup.load(observation.resource.status, revision)
    if stored is not None and stored.enough(analysis.rules(resolved).min_drafts, resolved.k):
        return stored
    lives = {pod.uid: warmup.life(pod) for pod in observation.pods if pod.revision == revision}
    found = [known for uid, known in observation.warmups.items() if lives.get(uid) == known.life]
    return max(found, key=lambda known: known.requests, default=stored)


def waits(resolved: Resolved, known: Rollout, warm: WarmUp | None) -> bool:
    """Whether warm-up is asked for, and has not shown enough: on trial that is what brings a verdict."""
    rules = analysis.rules(resolved)
    if not rules.warm_up or resolved.spec.replicas == 0:
        return False
    undecided = known.on_trial and _before(known) is not None
    return warm is None or not warm.enough(rules.min_drafts, resolved.k, undecided=undecided)


def to_ask(observation: Observation, resolved: Resolved, revision: str, known: WarmUp | None) -> Pod | None:
    """The idle engine that gets the next warm-up request; None where nobody is idle."""
    rules = analysis.rules(resolved)
    able = [
        pod
        for pod in observation.pods
        if pod.revision == revision
        and pod.ready
        and observation.now >= (pod.ready_at or observation.now) + rules.initial_delay
        and warmup.idle(observation.samples.get(pod.uid, ()))
    ]
    able.sort(key=lambda pod: (known is None or warmup.life(pod) != known.life, pod.name))
    return able[0] if able else None


def turn(known: Rollout, revision: str, verdict: Verdict, status: Mapping[str, Any]) -> Turn:
    """What the verdict changes."""
    if verdict.answer is Answer.PROMOTE:
        message = f"revision {revision} is the good one: {verdict.message}"
        return canary.promote(known, revision, verdict.reason, message, status)
    message = (
        f"revision {revision} is rolled back to {known.stable}: {verdict.message}. It is not tried again until the "
        "spec renders another"
    )
    return canary.reject(known, revision, verdict.reason, message, status)


def settled(known: Rollout, planned: Plan, facts: Facts, recorded: bool) -> Rollout:
    """What needs no turn: a first revision that serves is good, and the good pin goes on under another K.

    recorded: the revision's ConfigMap exists; before that, the one to go back to is the earlier one.
    """
    if not known.good:
        if facts.boxes == 0 or facts.ready < facts.boxes or facts.change.state.fault:
            return known
        message = f"revision {planned.revision} serves; there was none before it to compare with"
        return canary.promote(known, planned.revision, "FirstRevision", message, {}).rollout
    return known if known.phase is Phase.ANALYSING or not recorded else replace(known, stable=planned.revision)


def remembered(children: Iterable[Child], facts: Facts) -> set[str]:
    """Revisions whose records are kept: the running one, the last good one, and of the others the newest few."""
    limit = facts.resolved.spec.rollout.revision_history_limit
    always = {facts.revision, facts.rollout.stable}
    # Those of an operator that did not number them are the oldest; they are told apart by whole seconds.
    ages = {
        child.revision: (child.number, str(child.body.get("metadata", {}).get("creationTimestamp", "")))
        for child in children
        if child.kind == "Deployment" and child.revision is not None and child.revision not in always
    }
    newest = sorted(ages, key=lambda revision: (ages[revision], revision), reverse=True)
    return always | set(newest[: HISTORY_LIMIT if limit is None else limit])


def number(children: Iterable[Child], revision: str) -> int:
    """Number of the revision that is driven to: above every other one's. A revision that comes back is counted anew, as
    ControllerRevisions are: history is the order of use. 0 leaves one unnumbered that an earlier operator made.
    """
    known = {child.revision: child.number for child in children if child.kind == "Deployment" and child.revision}
    own, others = known.pop(revision, None), max(known.values(), default=0)
    if own is not None and own >= others and (own > others or own == 0):
        return own
    return others + 1


def _baseline(observation: Observation, known: Rollout, rules: Rules, pods: Sequence[Pod]) -> Baseline:
    """What the good revision earns beside the one on trial; what it earned before, where it has no box now."""
    k = int((known.kept.get("k") or {}).get("effective") or 0)
    since = max((pod.ready_at or 0.0 for pod in pods), default=observation.now)
    stable = [pod for pod in observation.pods if pod.revision == known.stable and pod.ready and not pod.live]
    beside = window(k, [observation.samples.get(pod.uid, ()) for pod in stable], since)
    milliseconds = beside.step_milliseconds
    if (beside.drafts if k else beside.step_seconds_count) >= rules.min_drafts and milliseconds:
        tokens = beside.tokens_per_step or 1.0
        return Baseline(beside.conditional, beside.drafts, Speed(1000.0 * tokens / milliseconds, beside.batch))
    drafts = (known.kept.get("acceptance") or {}) if k else {}
    speed = known.kept.get("throughput") or {}
    rates = tuple(drafts.get("perPosition", ()))
    return Baseline(rates, float(drafts.get("drafts", 0)), _known_speed(k, drafts, speed))


def _known_speed(k: int, drafts: Mapping[str, Any], speed: Mapping[str, Any]) -> Speed | None:
    milliseconds, batch = speed.get("stepMilliseconds"), speed.get("batch")
    if not milliseconds or not batch or (k and not drafts.get("tokensPerStep")):
        return None
    return Speed(1000.0 * (drafts.get("tokensPerStep", 1.0) if k else 1.0) / milliseconds, batch)


def _spans(pods: Sequence[Pod], samples: Mapping[str, Sequence[Sample]], k: int, delay: int) -> list[Speed]:
    found = []
    for pod in pods:
        since = (pod.ready_at or 0.0) + delay
        series = recent(samples.get(pod.uid, ()), since) if pod.ready else ()
        for pair in pairwise(series):
            span = window(k, [pair], 0.0)
            if span.step_milliseconds and span.step_seconds_count >= analysis.LEAST_OUTPUTS:
                found.append(Speed(1000.0 * (span.tokens_per_step or 1.0) / span.step_milliseconds, span.batch))
    return found
