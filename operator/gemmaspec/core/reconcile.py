"""One pass over one resource: observation in, decision out.

Order matters for crashes. A decision that carries state (K moved, a drafter proved itself) is stored in
``.status`` before anything acts on it: a pass that died in between is repeated from the stored state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gemmaspec.api import identity
from gemmaspec.core import (
    benchmark,
    caches,
    canary,
    control,
    drift,
    hold,
    learned,
    live,
    memory,
    names,
    rollout,
    status,
    trial,
    warmup,
)
from gemmaspec.core.acceptance import Window, lifetime, window
from gemmaspec.core.agent import Wanted
from gemmaspec.core.analysis import Answer, Verdict
from gemmaspec.core.canary import Rollout, Turn
from gemmaspec.core.control import Change, Evidence
from gemmaspec.core.health import health
from gemmaspec.core.hold import Hold
from gemmaspec.core.learned import Restore, Save
from gemmaspec.core.observation import Child, Observation, Pod, Sample
from gemmaspec.core.plan import Plan, engine_identity, pin_of, plan
from gemmaspec.core.pod import by_label
from gemmaspec.core.problem import Problem, Stalling
from gemmaspec.core.recipe import Recipes
from gemmaspec.core.resolve import Resolved, resolve

# Where a few long requests fill the window, this many windows are looked at before nothing is said to be sure.
LONGER = 10
# A name that somebody else holds is looked at again this often.
FOREIGN_RETRY_SECONDS = 15.0
# An engine that is to be warmed up is looked at again this often: scrapes of an idle one wake nobody.
WARM_UP_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """What the operator's administrator decides, and the engine files of this release."""

    recipes: Recipes
    files: Mapping[str, str]
    host_path_prefixes: tuple[str, ...] = ()
    key: bytes = b""
    live_files: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    """The operator's own image; empty where it does not know it."""


@dataclass(frozen=True)
class Create:
    """Create an object that was not observed."""

    body: Mapping[str, Any]


@dataclass(frozen=True)
class Apply:
    """Server-side apply over a child of ours that differs from the plan."""

    body: Mapping[str, Any]
    child: Child


@dataclass(frozen=True)
class Reset:
    """Take back what others added to a child of ours, and what we set there once and no longer plan."""

    patch: Mapping[str, Any]
    child: Child


@dataclass(frozen=True)
class Steer:
    """Tell an agent its settings. seconds: after so long they end; None for never."""

    pod: Pod
    wanted: Wanted
    seconds: float | None = None


@dataclass(frozen=True)
class Probe:
    """Send an idle engine a request of ours."""

    pod: Pod
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Teach:
    """Give this pod's agent what a benchmark has found, as its state."""

    pod: Pod
    state: str


@dataclass(frozen=True)
class Delete:
    """Remove a child of ours that the plan no longer holds."""

    child: Child


Action = Create | Apply | Reset | Delete | Steer | Save | Restore | Probe | Teach


@dataclass(frozen=True)
class Event:
    """A Kubernetes event, written after the status that it speaks of."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True)
class Reading:
    """What a pass knew that is a metric and no status.

    mode: who moves K. replicas: engines asked for. goodput: see :func:`gemmaspec.core.control.estimates`.
    """

    mode: str = ""
    replicas: int = 0
    goodput: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What to do: ``actions`` in order, then ``status`` where it differs from the stored one, then ``events``.

    wake_after: seconds until the next look that no watch event would cause; None for never.
    """

    actions: tuple[Action, ...] = ()
    status: Mapping[str, Any] | None = None
    events: tuple[Event, ...] = ()
    wake_after: float | None = None
    reading: Reading = field(default_factory=Reading)


def reconcile(observation: Observation, settings: Settings) -> Decision:
    """Decide what one pass does."""
    if observation.resource.deleting:
        return Decision()  # garbage collection removes the children
    try:
        asked = _resolved(observation, observation.resource.spec, settings)
        turn = _begin(observation, asked, settings)
        if turn.stored:
            return turned(turn, _begun_revision(observation, asked, settings, turn), asked, observation.now)
        running = trial.last_good(observation, turn.rollout) if turn.rollout.returned else None
        resolved = asked if running is None else _resolved(observation, running, settings)
    except Stalling as stalling:
        return Decision(status=status.stalled(observation, stalling.problems))
    return _drive(observation, resolved, turn.rollout, settings, turn.rollout.pin if running is None else None)


def _resolved(observation: Observation, spec: Mapping[str, Any], settings: Settings) -> Resolved:
    """The spec, complete. Raises Stalling where it can't be made so here."""
    resolved = resolve(spec, settings.recipes)
    if settings.key and resolved.spec.service.api_key_secret_ref:
        resolved = replace(resolved, asker=live.digest(live.token(settings.key, observation.resource.owner.uid)))
    _allowed(resolved, settings)
    unavailable = live.problem(resolved, bool(settings.key))
    if unavailable:
        raise Stalling(unavailable)
    return resolved


def _plan(observation: Observation, resolved: Resolved, k: int, settings: Settings, pin: str | None = None) -> Plan:
    agent = _agent(observation, resolved, settings)
    files = settings.live_files if agent else settings.files
    return plan(observation.resource.owner, resolved, k, files, agent, pin)


def _begin(observation: Observation, asked: Resolved, settings: Settings) -> Turn:
    """What the spec by itself changes about the rollout."""
    before, now = observation.resource.status, observation.now
    agent = _agent(observation, asked, settings)
    files = settings.live_files if agent else settings.files
    pin = pin_of(observation.resource.owner.name, asked, files, agent)
    wanted = Rollout(pin, trial.attempt(pin, asked), since=now if asked.spec.replicas else None)
    known = canary.load(before)
    judged = known is not None and known.pin != pin and not known.on_trial
    measured = {**before, **trial.measured(observation, asked)} if judged else before
    return canary.begin(known, wanted, measured, now)


def _begun_revision(observation: Observation, asked: Resolved, settings: Settings, turn: Turn) -> str:
    if not turn.rollout.on_trial:
        return turn.rollout.stable
    known = memory.load(turn.status)
    same = known is not None and (known.engine, known.desired) == (engine_identity(asked), asked.k)
    return _plan(observation, asked, known.effective if known and same else asked.k, settings).revision


def turned(turn: Turn, revision: str, resolved: Resolved, now: float) -> Decision:
    """Store a turn of the rollout; the next pass acts on it."""
    kind = "Warning" if turn.rollout.returned else "Normal"
    events = (Event(kind, turn.reason, turn.message),) if turn.reason else ()
    body = canary.stored(turn, revision, now, status.HISTORY)
    reading = Reading(str(resolved.control.mode), resolved.spec.replicas)
    return Decision(status=body, events=events, wake_after=0.0, reading=reading)


def _drive(
    observation: Observation, resolved: Resolved, known: Rollout, settings: Settings, pin: str | None
) -> Decision:
    """Bring what runs closer to ``resolved``: the spec's revision, or the last good one after a return.

    pin: that of ``resolved``, where it is known.
    """
    agent = _agent(observation, resolved, settings)
    asked, held = resolved, hold.standing(observation.resource.annotations, observation.now)
    refused = _refused_hold(observation, resolved, known, held, live=agent is not None)
    if held is not None and agent is None and not refused:
        resolved = hold.restarted(resolved, held)
    change, evidence = decide_k(observation, resolved, agent is not None)
    if known.on_trial:
        change = trial.frozen(memory.load(observation.resource.status), change)
    planned = _plan(observation, resolved, change.state.effective, settings, pin)
    kept = trial.kept(_own(observation), planned, known)
    if kept is not None:
        planned = replace(planned, revision=kept)
    goal = trial.goal(resolved, planned.revision, known)
    unavailable = trial.unavailable(resolved, known)
    scale = rollout.scale(goal, resolved.spec.replicas, _asked(observation), observation.pods, unavailable)
    why = live.why_restart(resolved, bool(settings.key))
    facts = _facts(
        observation, resolved, planned, change, evidence, scale, goal, known, live=agent is not None, why_restart=why
    )
    facts = replace(facts, asked_k=asked.k, held=held, not_held=refused)
    facts = replace(facts, warm=trial.warm(observation, resolved, planned.revision))
    verdict = trial.judge(observation, resolved, known, change, evidence, facts)
    if verdict is not None and verdict.answer in (Answer.PROMOTE, Answer.REJECT):
        told = {"warmUp": warmup.stored(facts.warm, planned.revision)} if facts.warm else {}
        turn = trial.turn(known, planned.revision, verdict, {**observation.resource.status, **told})
        return turned(turn, turn.rollout.stable, resolved, observation.now)
    recorded = observation.child("ConfigMap", planned.config["metadata"]["name"]) is not None
    facts = replace(facts, rollout=trial.settled(known, planned, facts, recorded), verdict=verdict)
    bench = _benchmark(observation, resolved, known, facts, settings)
    facts = replace(facts, benchmark=bench.status)
    body = status.working(observation, facts)
    reading = _reading(resolved, facts)
    state = memory.load(observation.resource.status)
    if state is not None and memory.load(body) != state:
        # The state of the machine changed: store it, act in the next pass.
        return Decision(status=body, events=_events(change), wake_after=0.0, reading=reading)
    number = trial.number(_own(observation), planned.revision)
    own: tuple[dict[str, Any], ...] = () if kept is not None else (planned.config, numbered(planned.deployment, number))
    if known.on_trial:
        own += _lost_stable(observation, known, settings, max(0, number - 1))
    shared = (*planned.shared, *bench.objects)
    actions = () if observation.foreign else tuple(_actions(observation, shared, own, facts, scale, bench.kept))
    if agent:
        followers = [pod for pod in observation.pods if pod.revision == planned.revision or not known.on_trial]
        wished = held or bench.hold or hold.read(observation.resource.annotations, observation.now)
        wished = Hold(0, 0.0) if change.state.fault else wished  # lets go: speculation stays off
        actions += tuple(_steering(observation, followers, live.wanted(resolved, change.state.fault), wished))
        if bench.lesson:
            actions += tuple(Teach(pod, bench.lesson) for pod in followers if pod.live and pod.ready)
        if not observation.foreign and not known.on_trial:  # what the good one's agents know is not overwritten
            actions += tuple(learned.steps(observation, planned.engine, planned.revision))
    wake = _wake(observation, change, verdict, held)
    if trial.waits(resolved, known, facts.warm):
        actions += _probes(observation, resolved, facts)
        wake = min(wake or WARM_UP_SECONDS, WARM_UP_SECONDS)
    if benchmark.watches(bench):
        wake = min(wake or benchmark.LOOK_SECONDS, benchmark.LOOK_SECONDS)
    return Decision(actions=actions, status=body, wake_after=wake, reading=reading)


def _benchmark(
    observation: Observation, resolved: Resolved, known: Rollout, facts: status.Facts, settings: Settings
) -> benchmark.Step:
    """What is done about the benchmark that the spec asks for; a rollout comes first."""
    serving = [pod for pod in facts.pods if pod.ready and pod.live]
    settled = facts.complete and not known.on_trial and not known.returned
    pod = min(serving, key=lambda pod: pod.name) if serving and settled else None
    why = "" if facts.live else facts.why_restart or "the actuator is Restart"
    return benchmark.step(observation, resolved, benchmark.Place(pod, settings.image, why))


def _probes(observation: Observation, resolved: Resolved, facts: status.Facts) -> tuple[Probe, ...]:
    idle = trial.to_ask(observation, resolved, facts.revision, facts.warm)
    return () if idle is None else (Probe(idle, warmup.request(facts.warm, resolved)),)


def _refused_hold(
    observation: Observation, resolved: Resolved, known: Rollout, held: Hold | None, *, live: bool
) -> str:
    """Why K is not held as asked for; empty where it is, or nobody asks."""
    if held is None:
        return ""
    fault = bool((observation.resource.status.get("control") or {}).get("fault"))
    return hold.refusal(resolved, held, live=live, on_trial=known.on_trial, fault=fault)


def _lost_stable(
    observation: Observation, known: Rollout, settings: Settings, number: int
) -> tuple[dict[str, Any], ...]:
    """The last good revision's objects, where somebody deleted its Deployment while it serves beside a trial."""
    name = names.revision_object(observation.resource.owner.name, known.stable)
    if observation.child("Deployment", name) is not None:
        return ()
    try:
        resolved = _resolved(observation, trial.last_good(observation, known), settings)
    except Stalling:
        return ()
    planned = _plan(observation, resolved, int((known.kept.get("k") or {}).get("effective") or 0), settings)
    return (planned.config, numbered(planned.deployment, number)) if planned.revision == known.stable else ()


def numbered(deployment: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The Deployment with the number of its revision; 0 for none."""
    metadata = dict(deployment["metadata"])
    if number:
        metadata["annotations"] = {**metadata["annotations"], names.NUMBER_ANNOTATION: str(number)}
    return {**deployment, "metadata": metadata}


def _reading(resolved: Resolved, facts: status.Facts) -> Reading:
    # Agents know the step time of each K; their engines' own counters mix all of them.
    goodput = {} if facts.live else control.estimates(facts.change.state, facts.recent, resolved.prior)
    return Reading(str(resolved.control.mode), resolved.spec.replicas, goodput)


def _allowed(resolved: Resolved, settings: Settings) -> None:
    allowed = ", ".join(settings.host_path_prefixes) or "none"
    problems = [
        Problem(
            "HostPathNotAllowed",
            field,
            f"{host.path!r} is below no prefix that the operator's administrator allows (allowed: {allowed}); use a "
            "pvc, or have the prefix added",
        )
        for field, host in caches.host_paths(resolved)
        if not any((host.path.rstrip("/") + "/").startswith(p.rstrip("/") + "/") for p in settings.host_path_prefixes)
    ]
    if problems:
        raise Stalling(*problems)


def _agent(observation: Observation, resolved: Resolved, settings: Settings) -> str | None:
    """Token of the agents that move K, or None where K is moved by restart."""
    if not live.is_live(resolved, bool(settings.key)):
        return None
    return live.token(settings.key, observation.resource.owner.uid)


def _steering(observation: Observation, pods: Iterable[Pod], wanted: Wanted, held: Hold | None) -> Iterable[Steer]:
    """Agents that follow other settings than the spec's, or than those held for a while: fresh pods, and every pod
    after an edit or a fault.
    """
    for pod in pods:
        reports = observation.agents.get(pod.uid, ())
        if pod.live and pod.ready and reports and reports[-1].live:
            settings = hold.told(reports[-1], wanted, held, observation.now)
            if settings is not None:
                yield Steer(pod, *settings)


def decide_k(observation: Observation, resolved: Resolved, by_agents: bool = False) -> tuple[Change, Evidence]:
    """The rollback machine's step on what was observed; where agents move K, what is left of it."""
    engine = engine_identity(resolved)
    state = memory.load(observation.resource.status) or control.start(engine, resolved.k)
    if by_agents:
        return _watch(observation, resolved, state, engine)
    evidence = _evidence(observation, resolved, state)
    change = control.step(resolved.control, state, engine, resolved.k, evidence, resolved.prior, observation.now)
    return change, evidence


def _watch(
    observation: Observation, resolved: Resolved, state: control.ControlState, engine: str
) -> tuple[Change, Evidence]:
    known = canary.load(observation.resource.status)
    # A revision on trial is judged by its own engines, not by the good ones beside it.
    only = observation.resource.status.get("revision") if known is not None and known.on_trial else None
    pods = [pod for pod in observation.pods if pod.live and pod.ready and only in (None, pod.revision)]
    reports = [observation.agents.get(pod.uid, ()) for pod in pods]
    series, seconds = [observation.samples.get(pod.uid, ()) for pod in pods], resolved.control.window_seconds

    def since(moment: float) -> Window:
        return window(max(live.grid(resolved)), series, moment)

    recent = live.unbiased(since(observation.now - seconds), reports)
    longer, ever = observation.now - LONGER * seconds, live.lifetime(reports)
    evidence = Evidence(recent, recent, lambda: since(longer), since, ever, settled=bool(pods))
    running = live.running_k(reports)
    return control.watch(resolved.control, state, engine, resolved.k, evidence, running, observation.now), evidence


def _evidence(observation: Observation, resolved: Resolved, state: control.ControlState) -> Evidence:
    revision = observation.resource.status.get("revision")
    current = [pod for pod in observation.pods if pod.revision == revision and pod.k == state.effective]
    series = {pod.uid: observation.samples.get(pod.uid, ()) for pod in current if pod.ready}
    ready = [pod for pod in current if pod.ready]
    # A moment to come is none: a clock was set back, or a node's runs ahead. What is remembered of the engines has come
    # after it all the same (core.acceptance.remember).
    moments = [state.changed_at or 0.0, *(pod.ready_at or 0.0 for pod in ready)]
    began = max((at for at in moments if at <= observation.now), default=0.0)
    seconds, pair = resolved.control.window_seconds, _latest_pair(series.values())

    def since(moment: float) -> Window:
        return window(state.effective, series.values(), max(began, moment))

    return Evidence(
        recent=since(min(observation.now - seconds, pair)),
        newest=since(min(observation.now - seconds / 2, pair)),
        longer=lambda: since(observation.now - LONGER * seconds),
        since=since,
        ever=lifetime(state.effective, series),
        settled=0 < resolved.spec.replicas == len(ready) == sum(1 for pod in observation.pods if pod.occupies),
        boot_seconds=_boot_seconds(ready),
    )


def _latest_pair(series: Iterable[Sequence[Sample]]) -> float:
    """When the last two samples begin: a window shorter than the pause between two scrapes would see nothing."""
    return max((samples[-2].time for samples in series if len(samples) > 1), default=0.0)


def _boot_seconds(ready: Sequence[Pod]) -> float | None:
    began = [(pod.ready_at, pod.started_at or pod.created_at) for pod in ready if not pod.restarts]
    return max((ready_at - at for ready_at, at in began if ready_at and at), default=None)


def _facts(
    observation: Observation,
    resolved: Resolved,
    planned: Plan,
    change: Change,
    evidence: Evidence,
    scale: rollout.Scale,
    goal: Mapping[str, int],
    known: Rollout,
    *,
    live: bool,
    why_restart: str,
) -> status.Facts:
    wanted = goal[planned.revision]
    # A pod that was evicted stays as an object: its last words are no engine's.
    current = [pod for pod in observation.pods if pod.revision == planned.revision and pod.occupies]
    return status.Facts(
        resolved=resolved,
        revision=planned.revision,
        change=change,
        recent=evidence.recent,
        longer=evidence.longer,
        health=health(
            current,
            wanted,
            resolved.spec.rollout.max_restarts,
            observation.downloads,
            observation.waits,
            by_label=by_label(resolved),
            refused=_refused(observation, planned),
        ),
        complete=scale.complete,
        pods=current,
        boxes=wanted,
        serving=sum(1 for pod in observation.pods if pod.ready and pod.revision in goal),
        rollout=known,
        live=live,
        why_restart=why_restart,
    )


def _refused(observation: Observation, planned: Plan) -> str:
    child = observation.child("Deployment", planned.deployment["metadata"]["name"])
    return child.refused if child else ""


def _own(observation: Observation) -> list[Child]:
    uid = observation.resource.owner.uid
    return [child for child in observation.children if child.owner_uid == uid]


def _asked(observation: Observation) -> dict[str, int]:
    return {
        child.revision: child.replicas
        for child in _own(observation)
        if child.kind == "Deployment" and child.revision is not None
    }


def _actions(
    observation: Observation,
    shared: Sequence[Mapping[str, Any]],
    own: Sequence[Mapping[str, Any]],
    facts: status.Facts,
    scale: rollout.Scale,
    also: Collection[tuple[str, str]] = (),
) -> list[Action]:
    """Everything that brings the children to the plan: shared objects, the revision's, replica counts, pruning."""
    bodies = [*shared, *(_with_replicas(body, scale) if body["kind"] == "Deployment" else body for body in own)]
    actions: list[Action] = []
    for body in bodies:
        actions += _ensure(observation, body)
    settled = scale.complete and facts.serving >= facts.resolved.spec.replicas
    kept = {(body["kind"], body["metadata"]["name"]) for body in bodies} | set(also)
    if facts.live:
        kept.add(("ConfigMap", names.learned_object(observation.resource.owner.name)))
    history = trial.remembered(_own(observation), facts)
    for child in _own(observation):
        if (child.kind, child.name) in kept:
            continue
        if child.revision is None or (settled and child.revision not in history):
            actions.append(Delete(child))
        elif child.kind == "Deployment" and child.replicas != scale.replicas.get(child.revision, 0):
            actions.append(_resize(child, scale.replicas.get(child.revision, 0)))
    return actions


def _with_replicas(deployment: Mapping[str, Any], scale: rollout.Scale) -> dict[str, Any]:
    count = scale.replicas.get(deployment["metadata"]["labels"][names.REVISION_LABEL], 0)
    return {**deployment, "spec": {**deployment["spec"], "replicas": count}}


def _ensure(observation: Observation, body: Mapping[str, Any]) -> list[Action]:
    child = observation.child(body["kind"], body["metadata"]["name"])
    if child is None:
        return [Create(body)]
    if body["kind"] == "Job":
        return []  # what it was made of is history: its engine's address may be another by now
    patch = drift.reset_patch(body, child.unplanned) or drift.ports_patch(body, child.body)
    if patch is not None:
        return [Reset(patch, child)]  # its watch event brings the next pass, which compares values
    if body.get("immutable"):
        planned = _watched(body)
    else:
        planned = {key: value for key, value in body.items() if key not in ("apiVersion", "kind")}
    return [Apply(body, child)] if drift.differs(planned, child.body) else []


def _watched(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a revision's ConfigMap can drift: its metadata, but for the spec that rendered it first."""
    metadata = dict(config["metadata"])
    metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != names.SPEC_ANNOTATION}
    return {"metadata": metadata}


def _resize(child: Child, count: int) -> Apply:
    """An old revision keeps its template, whatever this release would render: only its replica count moves."""
    spec = {**child.body["spec"], "replicas": count}
    kept = ("name", "namespace", "labels", "annotations", "ownerReferences")
    metadata = {key: child.body["metadata"][key] for key in kept if key in child.body["metadata"]}
    metadata["annotations"] = {
        key: value for key, value in metadata.get("annotations", {}).items() if key.startswith(f"{identity.GROUP}/")
    }
    return Apply({"apiVersion": "apps/v1", "kind": child.kind, "metadata": metadata, "spec": spec}, child)


def _events(change: Change) -> tuple[Event, ...]:
    if not change.moved:
        return ()
    kind = "Warning" if change.reason in ("DraftRejected", "DraftsDoNotPay") else "Normal"
    return (Event(kind, change.reason, change.message),)


def _wake(observation: Observation, change: Change, verdict: Verdict | None, held: Hold | None) -> float | None:
    if observation.foreign:
        return FOREIGN_RETRY_SECONDS
    # What a trial of K still waits for is traffic or a pod, and both wake.
    known = (change.state.hold_until, verdict.again if verdict else None, held.until if held else None)
    times = [at for at in known if at is not None]
    due = [at - observation.now for at in times if at > observation.now]
    return max(1.0, min(due)) if due else None
