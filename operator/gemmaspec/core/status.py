"""The one place that writes ``.status``: facts of a pass in, the whole status out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemmaspec.api.spec import Mode
from gemmaspec.api.status import EngineStatus, GemmaSpecDeployStatus, HeldK, HistoryEntry, KStatus
from gemmaspec.core import agenthealth, analysis, canary, figures, hold, memory, moment, names, replicas, warmup
from gemmaspec.core.acceptance import Window
from gemmaspec.core.canary import Rollout
from gemmaspec.core.control import Change, ControlState
from gemmaspec.core.health import Health, proof_text
from gemmaspec.core.hold import Hold
from gemmaspec.core.observation import Foreign, Observation, Pod
from gemmaspec.core.problem import Problem
from gemmaspec.core.resolve import Resolved
from gemmaspec.core.warmup import WarmUp

HISTORY = 20
# Conditions that speak of what runs: they stand while the spec can't be made so.
_KEPT = ("Preflight", "EngineHealthy", "SpeculationHealthy", "RolledBack")


@dataclass(frozen=True)
class Verdict:
    """One condition before it has a time: type, status, reason, message."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True)
class Facts:
    """What a pass found out about a resource that can be made so.

    recent, longer: a window, and several of them. boxes: engines that ``revision`` shall have. serving: ready
    engines of it and of the one that it is compared with. asked_k: what the spec asks for; ``held`` takes its place
    for a while, unless ``not_held`` says why not.
    """

    resolved: Resolved
    revision: str
    change: Change
    recent: Window
    longer: Callable[[], Window]
    health: Health
    complete: bool
    pods: Sequence[Pod]
    boxes: int
    serving: int
    rollout: Rollout
    live: bool = False
    why_restart: str = ""
    benchmark: Mapping[str, Any] | None = None
    verdict: analysis.Verdict | None = None
    warm: WarmUp | None = None
    asked_k: int | None = None
    held: Hold | None = None
    not_held: str = ""

    @property
    def ready(self) -> int:
        """Engines of the current revision that serve."""
        return sum(1 for pod in self.pods if pod.ready)


def stalled(observation: Observation, problems: Sequence[Problem]) -> dict[str, Any]:
    """Status of a resource whose spec can't be made so: what runs stays, and is still reported."""
    status = dict(observation.resource.status)
    serving = sum(1 for pod in observation.pods if pod.ready)
    message = "; ".join(str(problem) for problem in problems)
    ready = (
        Verdict("Ready", "True", "ServingEarlierSpec", f"{serving} engines of an earlier spec serve")
        if serving
        else Verdict("Ready", "False", problems[0].reason, message)
    )
    verdicts = [
        ready,
        Verdict("Reconciling", "False", problems[0].reason, "waiting for another spec"),
        Verdict("Stalled", "True", problems[0].reason, message),
    ]
    kept = [Verdict(c["type"], c["status"], c["reason"], c["message"]) for c in status.get("conditions", ())]
    verdicts += [entry for entry in kept if entry.type in _KEPT]
    status["observedGeneration"] = observation.resource.generation
    status["replicas"] = sum(1 for pod in observation.pods if pod.occupies)
    status["selector"] = names.selector_text(observation.resource.owner.name)
    status["conditions"] = conditions(observation, verdicts)
    return status


def outdated(observation: Observation, message: str) -> dict[str, Any]:
    """Status of a resource whose definition in the cluster is older than this operator.

    Only what that definition stored before, and conditions: both it knows. What Ready said is still true, or unknown.
    """
    status = dict(observation.resource.status)
    reason = "DefinitionOutdated"
    kept = {c["type"]: Verdict(c["type"], c["status"], c["reason"], c["message"]) for c in status.get("conditions", ())}
    kept |= {
        "Ready": kept.get("Ready") or Verdict("Ready", "Unknown", reason, message),
        "Reconciling": Verdict("Reconciling", "False", reason, "waiting for the definition to be upgraded"),
        "Stalled": Verdict("Stalled", "True", reason, message),
    }
    status["observedGeneration"] = observation.resource.generation
    status["conditions"] = conditions(observation, list(kept.values()))
    return status


def working(observation: Observation, facts: Facts) -> dict[str, Any]:
    """Status of a resource that is made so, or on its way."""
    owner, previous = observation.resource.owner, observation.resource.status
    resolved, state = facts.resolved, facts.change.state
    verdicts = [
        _ready(facts),
        *_progress(observation, facts),
        preflight(facts.pods, facts.resolved.image),
        Verdict("EngineHealthy", facts.health.status, facts.health.reason, facts.health.message),
        speculation(observation, resolved, state, None if facts.live or facts.not_held else facts.held),
        rolled_back(facts),
    ]
    decided = facts.change.moved
    body = GemmaSpecDeployStatus(
        observed_generation=observation.resource.generation,
        replicas=sum(1 for pod in observation.pods if pod.occupies),
        ready_replicas=facts.ready,
        selector=names.selector_text(owner.name),
        endpoint=names.endpoint(owner.name, owner.namespace, resolved.port),
        target=resolved.target,
        revision=facts.revision,
        k=_k(observation, facts),
        control=memory.store(state),
        engine=_engine(facts),
        history=_history(previous, facts.change, state, observation),
    ).body()
    body |= canary.fields(facts.rollout)
    body["benchmark"] = None if facts.benchmark is None else dict(facts.benchmark)
    body["conditions"] = conditions(observation, verdicts)
    body["acceptance"] = figures.acceptance(previous.get("acceptance"), facts.recent, observation.now, decided)
    body["warmUp"] = warmup.stored(facts.warm, facts.revision) if facts.warm else None
    body["throughput"] = figures.throughput(previous.get("throughput"), facts.longer, observation.now, decided)
    return {key: value for key, value in body.items() if value is not None}


def conditions(observation: Observation, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as conditions; the time of the last transition is carried forward while the status stands."""
    known = {entry["type"]: entry for entry in observation.resource.status.get("conditions", ())}
    written = []
    for verdict in verdicts:
        before = known.get(verdict.type)
        same = before is not None and before["status"] == verdict.status
        since = before["lastTransitionTime"] if before is not None and same else moment.text(observation.now)
        written.append(
            {
                "type": verdict.type,
                "status": verdict.status,
                "reason": verdict.reason,
                "message": verdict.message,
                "observedGeneration": observation.resource.generation,
                "lastTransitionTime": since,
            }
        )
    return written


def _ready(facts: Facts) -> Verdict:
    wanted = facts.resolved.spec.replicas
    if wanted == 0:
        return Verdict("Ready", "True", "ScaledToZero", "replicas is 0")
    if facts.rollout.returned and facts.ready >= wanted:
        words = f"{facts.ready} of {wanted} engines of the last good revision {facts.revision} serve"
        return Verdict("Ready", "True", "ServingLastGood", words)
    if facts.ready >= wanted:
        return Verdict("Ready", "True", "Serving", f"{facts.ready} of {wanted} engines of this revision serve")
    if facts.rollout.on_trial and facts.serving >= wanted:
        words = f"{facts.serving} of {wanted} engines serve, {facts.ready} of them of the revision on trial"
        return Verdict("Ready", "True", "Serving", words)
    if facts.health.status == "False":
        return Verdict("Ready", "False", facts.health.reason, facts.health.message)
    return Verdict("Ready", "False", "Starting", f"{facts.ready} of {wanted} engines of this revision serve")


def _progress(observation: Observation, facts: Facts) -> list[Verdict]:
    """Reconciling and Stalled, the two that kstatus reads besides Ready."""
    if observation.foreign:
        message = "; ".join(_foreign(foreign) for foreign in observation.foreign)
        return [
            Verdict("Reconciling", "False", "NameTaken", "waiting for the name to become free"),
            Verdict("Stalled", "True", "NameTaken", message),
        ]
    if facts.health.parked:
        return [
            Verdict("Reconciling", "False", facts.health.reason, "the engine is parked"),
            Verdict("Stalled", "True", facts.health.reason, facts.health.message),
        ]
    clear = Verdict("Stalled", "False", "Progressing", "nothing stands in the way")
    known = facts.rollout
    if known.on_trial and not _held(facts):
        return [Verdict("Reconciling", "True", *_trial(facts)), clear]
    if known.returned and facts.complete and facts.ready >= facts.resolved.spec.replicas:
        waiting = "the last good revision runs; waiting for another spec"
        return [
            Verdict("Reconciling", "False", "RolledBack", waiting),
            Verdict("Stalled", "True", "RolledBack", known.message),
        ]
    if known.returned:
        words = f"going back to revision {facts.revision}, the last good one"
        return [Verdict("Reconciling", "True", "RollingBack", words), clear]
    if facts.complete and (facts.ready >= facts.resolved.spec.replicas):
        return [Verdict("Reconciling", "False", "Settled", "what runs is what the spec asks for"), clear]
    return [Verdict("Reconciling", "True", "RollingOut", f"driving to revision {facts.revision}"), clear]


def _trial(facts: Facts) -> tuple[str, str]:
    """Reason and message of a trial that goes on. A canary that is held keeps it going by kstatus' rules: what the
    spec asks for is not what the other boxes run (so not Current), and no other spec is needed (so not Failed).
    """
    words = facts.verdict.message if facts.verdict else f"driving to revision {facts.revision}"
    told = f"revision {facts.revision} is on trial: {words}"
    if facts.verdict is None or facts.verdict.answer is not analysis.Answer.HOLD:
        return "Analysing", told
    return "Inconclusive", f"{told}; the other boxes stay with revision {facts.rollout.stable}"


def _held(facts: Facts) -> bool:
    """Whether all boxes run the revision on trial, and nothing but traffic can tell how it does."""
    held = facts.verdict is not None and facts.verdict.answer is analysis.Answer.HOLD
    wanted = facts.resolved.spec.replicas
    return wanted == 0 or (held and facts.boxes == wanted)


def rolled_back(facts: Facts) -> Verdict:
    """The condition RolledBack: whether the last good revision runs in place of the spec's."""
    known = facts.rollout
    if known.returned:
        return Verdict("RolledBack", "True", known.reason, known.message)
    if known.on_trial:
        reason, words = "Analysing", "it is not ready yet"
        if facts.verdict is not None:
            reason, words = facts.verdict.reason, facts.verdict.message
        told = f"revision {facts.revision} is compared with {known.stable}: {words}"
        return Verdict("RolledBack", "False", reason, told)
    if known.good:
        return Verdict("RolledBack", "False", known.reason, known.message)
    return Verdict("RolledBack", "False", "FirstRevision", "there is no earlier revision to go back to")


def _foreign(foreign: Foreign) -> str:
    return (
        f"{foreign.kind} {foreign.name} exists and belongs to {foreign.owner}; it is left alone. Rename this "
        "resource, or remove that object"
    )


def preflight(pods: Sequence[Pod], image: str) -> Verdict:
    """The condition Preflight: whether every engine of this revision is the one that was pinned."""
    proofs = [pod.proof for pod in pods if pod.proof is not None and not pod.terminating]
    for proof in proofs:
        if not proof.ok:
            return Verdict("Preflight", "False", proof.reason, proof_text(proof))
    digests = _digests(pods)
    if len(digests) > 1:
        message = (
            f"engines of this revision run different images ({', '.join(digests)}): what {image} means has changed; "
            "name one of them in spec.engine.image, as repository@sha256:…"
        )
        return Verdict("Preflight", "False", "ImageDiffers", message)
    if proofs:
        return Verdict("Preflight", "True", proofs[0].reason, proofs[0].message + _other_name(image, digests))
    return Verdict("Preflight", "Unknown", "NotProved", "no engine of this revision has been proved yet")


def _digests(pods: Sequence[Pod]) -> list[str]:
    """Images that the engines run, by what the container runtime says."""
    return sorted({pod.image_digest for pod in pods if pod.image_digest and not pod.terminating})


def _other_name(image: str, digests: Sequence[str]) -> str:
    """A runtime may know an image that was pulled by one digest under another: an index and what it lists differ."""
    if "@" not in image or not digests or image.endswith(digests[0]):
        return ""
    return f"; the container runtime names this image {digests[0]}"


def speculation(observation: Observation, resolved: Resolved, state: ControlState, held: Hold | None = None) -> Verdict:
    """The condition SpeculationHealthy: what the engines' agents can't do comes before what they chose."""
    kind = "SpeculationHealthy"
    if held is not None and not state.fault:
        return Verdict(kind, "Unknown", "KHeld", f"K is held at {held.k} until {moment.text(held.until)}")
    if state.fault:
        message = state.reason or "this engine accepts none of its drafts; the drafter is broken"
        return Verdict(kind, "False", "DraftRejected", message)
    pods, agents = observation.pods, observation.agents
    if failed := agenthealth.fallen_back(pods, agents):
        return Verdict(kind, "False", "AgentFailed", failed)
    if refused := agenthealth.only_watching(pods, agents):
        return Verdict(kind, "False", "AgentOnlyWatches", refused)
    known = observation.resource.status.get("conditions", ())
    told = {entry["reason"] for entry in known if entry["type"] == kind}
    if unheard := agenthealth.silent(pods, observation.silent, agents, "AgentSilent" in told):
        return Verdict(kind, "Unknown", "AgentSilent", unheard)
    if lost := agenthealth.graphs_missing(resolved, pods, agents, "GraphsMissing" in told):
        return Verdict(kind, "False", "GraphsMissing", lost)
    if state.desired == 0:
        return Verdict(kind, "Unknown", "SpeculationOff", "the spec asks for no drafts")
    if state.effective < state.desired:
        return Verdict(kind, "False", "KLowered", state.reason)
    if state.on_trial:
        return Verdict(kind, "Unknown", "OnTrial", state.reason)
    if not state.proved:
        return Verdict(kind, "Unknown", "NotMeasured", "too few drafts so far to judge the drafter")
    mode = resolved.control.mode
    note = f" (mode {mode}: K is reported, not moved)" if mode in (Mode.FIXED, Mode.ENGINE) else ""
    chosen = "as asked for" if state.effective == state.desired else "by the agents' choice"
    return Verdict(kind, "True", "Accepting", f"the target accepts drafts; K is {state.effective} {chosen}{note}")


def _k(observation: Observation, facts: Facts) -> KStatus:
    state = facts.change.state
    before = observation.resource.status.get("k") or {}
    same = before.get("effective") == state.effective and before.get("since")
    return KStatus(
        desired=state.desired if facts.asked_k is None else facts.asked_k,
        effective=state.effective,
        held=_held_k(observation, facts),
        reason=state.reason or memory.AS_ASKED,
        since=before["since"] if same else moment.text(observation.now),
        actuator="Live" if facts.live else "Restart",
        actuator_reason=facts.why_restart or None,
        replicas=replicas.each(before, observation),
    )


def _held_k(observation: Observation, facts: Facts) -> HeldK | None:
    """What of a K held for a while is to be told."""
    held = facts.held
    if held is None:
        text = hold.unreadable(observation.resource.annotations, observation.now)
        advice = "`gemmaspec set-k NAME K --for 10m` writes one, `--clear` removes it; a day is the longest"
        return (
            HeldK(message=f"annotation {hold.ANNOTATION} is {text!r}, which holds nothing: {advice}") if text else None
        )
    how = "by the agents in the engines, which end it by themselves" if facts.live else "by restart, now and at its end"
    return HeldK(k=held.k, until=moment.text(held.until), message=facts.not_held or f"held {how}")


def _engine(facts: Facts) -> EngineStatus:
    resolved = facts.resolved
    digests = _digests(facts.pods)
    recipe = resolved.recipe
    proof = next((pod.proof for pod in facts.pods if pod.proof is not None and pod.proof.ok), None)
    return EngineStatus(
        vllm=proof.vllm if proof else None,
        transformers=proof.transformers if proof else None,
        patches=dict(proof.patches) if proof and proof.patches else None,
        utilization=proof.utilization if proof else resolved.utilization,
        memory=proof.memory if proof else None,
        image=resolved.image,
        image_digest=digests[0] if digests else None,
        recipe=f"{recipe.name} (version {recipe.version})" if recipe else None,
    )


def _history(
    previous: Mapping[str, Any], change: Change, state: ControlState, observation: Observation
) -> list[HistoryEntry] | None:
    entries = [HistoryEntry.model_validate(entry) for entry in previous.get("history", ())]
    if change.moved:
        before = (previous.get("k") or {}).get("effective")
        entries.append(
            HistoryEntry(
                time=moment.text(observation.now),
                reason=change.reason,
                message=change.message,
                from_k=before,
                to_k=state.effective,
            )
        )
    return entries[-HISTORY:] or None
