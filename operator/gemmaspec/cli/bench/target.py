"""What a benchmark measures: an engine of a resource through the API server, or one behind addresses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from gemmaspec.adapters.cluster import ApiFailure, Cluster, Stale
from gemmaspec.adapters.reader import Reader
from gemmaspec.adapters.transport import Direct, Proxied, Transport, Unreached
from gemmaspec.api import identity
from gemmaspec.bench import reading
from gemmaspec.bench.runner import Failed
from gemmaspec.bench.steering import AgentPort, Annotation, Note, Refused, Restarts, Steering, Unsteerable
from gemmaspec.core import hold, moment, names
from gemmaspec.core.bench import subject
from gemmaspec.core.bench.result import EngineFacts
from gemmaspec.core.live import AGENT_PORT
from gemmaspec.core.problem import Stalling
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load

# As long as an engine may take from its start until it is ready, where nothing else is known.
START_SECONDS: Final = 3600.0
# Beyond it, for the operator, the scheduler, and the old engine's end.
SETTLE_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Target:
    """An engine and the ways to it.

    ks: the values of K that it can be moved through; empty where it can't. current: K that its spec asks for.
    boot_seconds: what a move costs, where it is a restart. restarts: tells how often its container was restarted, and
    which pod it is. offer: gives the agent's policy what was found; None where only the operator may.
    """

    engine: Transport
    agent: Transport | None
    steering: Steering | None
    ks: tuple[int, ...]
    current: int | None
    facts: EngineFacts
    boot_seconds: float | None = None
    why_not: str = ""
    restarts: Callable[[], Awaitable[tuple[str, int]]] | None = field(default=None, compare=False)
    offer: Callable[[str], Awaitable[None]] | None = field(default=None, compare=False)

    @property
    def by_restart(self) -> bool:
        """Whether each move of K is a restart."""
        return self.steering is not None and self.steering.name == Restarts.name


@asynccontextmanager
async def by_address(url: str, agent_url: str, key: str, token: str) -> AsyncIterator[Target]:
    """An engine at an address, with or without the agent's. Raises Failed."""
    engine = Direct(url.rstrip("/").removesuffix("/v1"), key)
    agent = Direct(agent_url, token) if agent_url else None
    try:
        ks: tuple[int, ...] = ()
        moves = False
        if agent is not None:
            text = await _asked(agent)
            ks, moves = reading.grid(text), reading.moves(text)
            if token:
                _let_be(text)
        steering = AgentPort(agent) if agent is not None and moves and token else None
        why = "" if steering else _why_not_by_address(agent_url, token, moves)
        facts = EngineFacts(ks=list(ks), actuator=steering.name if steering else None)
        offer = None if steering is None else steering.offer
        yield Target(engine, agent, steering, ks if steering else (), None, facts, why_not=why, offer=offer)
    finally:
        await engine.close()
        if agent is not None:
            await agent.close()


async def _asked(agent: Transport) -> str:
    try:
        return await agent.get("/metrics")
    except Unreached as failure:
        raise Failed(
            f"{failure}; is --agent-url the agent's port ({AGENT_PORT})? It opens once the engine serves"
        ) from failure


def _why_not_by_address(agent_url: str, token: str, moves: bool) -> str:
    if not agent_url:
        return "K stays: without --agent-url nothing moves it"
    if not token:
        return "K stays: the agent takes settings with its token only; give --token-file"
    return "" if moves else "K stays: the agent of this engine only watches; its /status says why"


async def of_resource(cluster: Cluster, namespace: str, name: str) -> Target:
    """The engine of a resource; with several, the first one by name. Raises Failed or ApiFailure."""
    body = await Reader(cluster).resource(namespace, name)
    pods = await Reader(cluster).pods(namespace, name)
    if pods is None:
        raise Failed(f"you may not list pods in {namespace}; ask for the right (docs/plugin.md has a role)")
    status = body.get("status") or {}
    serving = sorted(
        (pod for pod in pods if _serves(pod, status.get("revision"))), key=lambda p: str(p["metadata"]["name"])
    )
    if not serving:
        raise Failed(f"no engine of {namespace}/{name} serves; `gemmaspec status {name} -n {namespace}` tells why")
    pod = serving[0]
    resolved = _resolved(body)
    port = _port(pod)
    _free(body)
    live = (pod["metadata"].get("annotations") or {}).get(names.ACTUATOR_ANNOTATION) == "Live"
    if live:
        return await _live(cluster, namespace, body, pod, resolved, port)
    engine = Proxied(cluster, namespace, "services", name, resolved.port if resolved else port)
    return _by_restart(cluster, namespace, body, resolved, engine)


async def _live(
    cluster: Cluster,
    namespace: str,
    body: Mapping[str, Any],
    pod: Mapping[str, Any],
    resolved: Resolved | None,
    port: int,
) -> Target:
    pod_name, name = str(pod["metadata"]["name"]), str(body["metadata"]["name"])
    engine = Proxied(cluster, namespace, "pods", pod_name, port)
    agent = Proxied(cluster, namespace, "pods", pod_name, AGENT_PORT)
    text = await _asked_by_proxy(agent)
    ks, moves = reading.grid(text), reading.moves(text)
    _let_be(text)

    async def restarts() -> tuple[str, int]:
        return await _restarts(cluster, namespace, name, pod_name)

    steering = Annotation(note_of(cluster, namespace, name), agent) if moves else None
    why = "" if moves else "K stays: the agent of this engine only watches; the condition SpeculationHealthy says why"
    facts = subject.facts(resolved, body.get("status") or {}, ks, steering.name if steering else None)
    current = resolved.k if resolved else None
    return Target(engine, agent, steering, ks if moves else (), current, facts, why_not=why, restarts=restarts)


async def _asked_by_proxy(agent: Transport) -> str:
    try:
        return await agent.get("/metrics")
    except Unreached as failure:
        hint = "ask for the right to get and create pods/proxy" if failure.status == 403 else "try again in a moment"
        raise Failed(f"{failure}; {hint}, or measure with --url through `kubectl port-forward`") from failure


def _by_restart(
    cluster: Cluster, namespace: str, body: Mapping[str, Any], resolved: Resolved | None, engine: Transport
) -> Target:
    name = str(body["metadata"]["name"])
    status = body.get("status") or {}
    boot = (status.get("control") or {}).get("bootSeconds")
    patience = ((resolved.spec.rollout.startup_seconds if resolved else None) or START_SECONDS) + SETTLE_SECONDS

    async def resource() -> Mapping[str, Any]:
        return await _read(cluster, namespace, name)

    top = max(resolved.k, resolved.control.k_max) if resolved else 0
    off = resolved is None or resolved.k == 0
    steering = None if off else Restarts(note_of(cluster, namespace, name), resource, patience)
    why = "" if steering else "K stays: the spec asks for no drafts"
    if resolved is None:
        why = f"K stays: this release can't read the spec; `gemmaspec status {name}` may tell why"
    facts = subject.facts(resolved, status, range(top + 1) if steering else (), steering.name if steering else None)
    return Target(
        engine,
        None,
        steering,
        tuple(range(top + 1)) if steering else (),
        resolved.k if resolved else None,
        facts,
        boot_seconds=None if boot is None else float(boot),
        why_not=why,
    )


def _free(body: Mapping[str, Any]) -> None:
    """Raises Failed where somebody holds K: a benchmark would take it from them."""
    name = body["metadata"]["name"]
    held = hold.standing(body["metadata"].get("annotations") or {}, time.time())
    if held is not None:
        raise Failed(
            f"K is held at {held.k} until {moment.text(held.until)}: wait, or end it with "
            f"`gemmaspec set-k {name} --clear`"
        )
    asked = (body.get("status") or {}).get("benchmark") or {}
    if asked.get("phase") == "Running":
        raise Failed(
            f"the benchmark {asked.get('request')} of the spec runs: wait for its end (`gemmaspec status {name}`), or "
            "take spec.benchmark away"
        )


def _let_be(metrics: str) -> None:
    """Raises Failed where the agent holds a K that the resource does not tell of."""
    held = reading.held(metrics)
    if held is not None:
        raise Failed(
            f"the agent holds K={held} for somebody: a benchmark runs, or died within the last minute; wait for its end"
        )


def note_of(cluster: Cluster, namespace: str, name: str) -> Note:
    """The annotation of a resource by which K is held."""

    async def resource() -> Mapping[str, Any]:
        return await _read(cluster, namespace, name)

    async def annotate(annotations: Mapping[str, str | None], version: str) -> None:
        await _annotated(cluster, namespace, name, annotations, version)

    return Note(resource, annotate)


async def _annotated(
    cluster: Cluster, namespace: str, name: str, annotations: Mapping[str, str | None], version: str
) -> None:
    metadata = {"annotations": annotations, "resourceVersion": version}
    try:
        await cluster.merge(identity.KIND, namespace, name, {"metadata": metadata})
    except Stale:
        raise
    except ApiFailure as failure:
        if _passing(failure):
            raise Unreached(failure.status, f"the resource was not patched: {failure.message}") from failure
        way = "; ask for the right to patch gemmaspecdeploys" if failure.status == 403 else ""
        raise Refused(f"the resource was not patched: {failure.message}{way}") from failure


async def _read(cluster: Cluster, namespace: str, name: str) -> Mapping[str, Any]:
    try:
        return await Reader(cluster).resource(namespace, name)
    except ApiFailure as failure:
        if _passing(failure):
            raise Unreached(failure.status, f"the resource was not read: {failure.message}") from failure
        raise Unsteerable(f"the resource can't be read any more: {failure.message}") from failure


def _passing(failure: ApiFailure) -> bool:
    """Whether the API server may answer otherwise in a moment."""
    return failure.status in (0, 429) or failure.status >= 500


async def _restarts(cluster: Cluster, namespace: str, name: str, pod_name: str) -> tuple[str, int]:
    pods = await Reader(cluster).pods(namespace, name) or []
    pod = next((entry for entry in pods if entry["metadata"]["name"] == pod_name), None)
    if pod is None:
        return "", 0
    statuses = (pod.get("status") or {}).get("containerStatuses", ())
    return str(pod["metadata"]["uid"]), sum(int(entry.get("restartCount", 0)) for entry in statuses)


def _serves(pod: Mapping[str, Any], revision: str | None) -> bool:
    metadata, status = pod["metadata"], pod.get("status") or {}
    ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions", ()))
    own = revision in (None, (metadata.get("labels") or {}).get(names.REVISION_LABEL))
    return ready and own and not metadata.get("deletionTimestamp")


def _port(pod: Mapping[str, Any]) -> int:
    ports = [entry for container in pod["spec"]["containers"] for entry in container.get("ports", ())]
    return next((int(entry["containerPort"]) for entry in ports if entry.get("name") == "http"), 8000)


def _resolved(body: Mapping[str, Any]) -> Resolved | None:
    """The spec with its recipe's values; None where this release can't read it."""
    try:
        return resolve(body.get("spec") or {}, load())
    except Stalling:
        return None
