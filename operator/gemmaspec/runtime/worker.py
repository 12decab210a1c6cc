"""One pass over one resource: gather, decide, act, report. Any line may be the last: the next pass repairs it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from gemmaspec.adapters.cluster import ApiFailure, Cluster, Missing, Rejected, Stale, Taken, Undeclared
from gemmaspec.adapters.engine import ScrapeError
from gemmaspec.api import identity
from gemmaspec.core import moment, names, status
from gemmaspec.core.learned import Restore, Save
from gemmaspec.core.observation import Foreign, Observation, Resource
from gemmaspec.core.problem import Problem
from gemmaspec.core.reconcile import (
    Action,
    Apply,
    Create,
    Decision,
    Delete,
    Event,
    Probe,
    Reset,
    Settings,
    Steer,
    Teach,
    reconcile,
)
from gemmaspec.runtime import metrics
from gemmaspec.runtime.board import Board
from gemmaspec.runtime.cache import Cache, controller_of
from gemmaspec.runtime.knowledge import Knowledge
from gemmaspec.runtime.queue import Key, WakeQueue
from gemmaspec.runtime.scraper import Scraper

log = logging.getLogger("gemmaspec.worker")

# An agent that did not take its settings is told again after this long.
STEER_RETRY_SECONDS = 5.0
# Somebody else's object under our name is asked for again this often.
PAUSE_SECONDS = 0.5
# A status that the definition does not take is tried again this often: only an administrator can change the answer.
DEFINITION_RETRY_SECONDS = 30.0


class Worker:
    """Takes keys from the queue and runs passes."""

    def __init__(
        self,
        queue: WakeQueue,
        cache: Cache,
        cluster: Cluster,
        scraper: Scraper,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._queue = queue
        self._cache = cache
        self._cluster = cluster
        self._scraper = scraper
        self._settings = settings
        self.board = Board(scraper, clock)
        self._knowledge = Knowledge(cluster, cache, scraper)
        self._foreign: dict[Key, dict[tuple[str, str], Foreign]] = {}

    async def run(self) -> None:
        """Run passes for ever."""
        while True:
            key = await self._queue.take()
            with metrics.PASS_SECONDS.time():
                await self._guarded(key)

    async def _guarded(self, key: Key) -> None:
        """A pass, and what follows when it fails: stale data at once, API trouble later, bugs loudly."""
        try:
            await self.once(key)
        except (Stale, Missing) as failure:
            self._later(key, "stale", failure)
        except Undeclared as failure:
            metrics.API_ERRORS.labels(str(failure.status)).inc()
            metrics.PASSES.labels("outdated").inc()
            wait = self._queue.failed(key, DEFINITION_RETRY_SECONDS, rest=True)
            log.error("%s/%s: %s; again in %.0f s", *key, outdated_message(failure), wait)
        except ApiFailure as failure:
            metrics.API_ERRORS.labels(str(failure.status)).inc()
            self._later(key, "api", failure, failure.retry_after or 0.0)
            log.warning("%s/%s: the API server answered %s", *key, failure)
        except Exception:
            metrics.PASSES.labels("bug").inc()
            wait = self._queue.failed(key, at_least=5.0)
            log.exception("%s/%s: the pass failed; again in %.0f s", *key, wait)
        else:
            metrics.PASSES.labels("done").inc()
            self._queue.done(key)

    def _later(self, key: Key, result: str, failure: ApiFailure, at_least: float = 0.0) -> None:
        metrics.PASSES.labels(result).inc()
        wait = self._queue.failed(key, at_least)
        log.debug("%s/%s: %s; again in %.1f s", *key, failure, wait)

    async def once(self, key: Key) -> None:
        """One pass. Raises ApiFailure where the cluster did not do what was decided."""
        resource = self._cache.resource(*key)
        if resource is None:
            self._forget(key)
            return
        observation = await self._observe(key, resource)
        decision = reconcile(observation, self._settings)
        if resource.status and any(isinstance(action, Create) for action in decision.actions):
            await self._confirm(resource)
        try:
            for action in decision.actions:
                await self._perform(key, action)
        except Rejected as failure:
            await self._report(resource, status.stalled(observation, [_rejected(failure)]))
            raise
        try:
            await self._finish(key, resource, decision)
        except Undeclared as failure:
            await self._report(resource, status.outdated(observation, outdated_message(failure)))
            raise
        if decision.status is not None:
            self.board.put(key, decision.status, observation.pods, decision.reading)

    async def _confirm(self, resource: Resource) -> None:
        """Before children are made anew, and where the status is refused: a watch that lost the resource's deletion
        would have them made for ever, and collected each time.
        """
        owner = resource.owner
        await self._check(identity.KIND, owner.namespace, owner.name, owner.uid)

    async def _check(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Raise Missing where the object that the watch shows is gone, and remember it."""
        try:
            body = await self._cluster.read(kind, namespace, name)
        except Rejected as refused:  # an administrator's own, narrower role: go by the watch
            log.debug("%s/%s: can't read %s: %s", namespace, name, kind, refused)
            return
        if body is None or body["metadata"]["uid"] != uid:
            self._cache.gone(uid)
            raise Missing(404, f"{kind} {name} is gone, or another")

    async def _observe(self, key: Key, resource: Resource) -> Observation:
        pods = self._cache.pods(*key)
        return Observation(
            resource=resource,
            now=self._clock(),
            children=self._cache.children(*key),
            pods=pods,
            samples=self._scraper.samples(pods),
            agents=self._scraper.reports(pods),
            downloads=self._scraper.downloads(pods),
            waits=self._scraper.waits(pods),
            warmups=self._scraper.warmups(pods),
            silent=self._scraper.silent(pods),
            foreign=await self._still_foreign(key, resource),
            benchmarks=self._scraper.wishes(self._cache.pods(key[0], names.benchmark_pods(key[1]))),
        )

    async def _still_foreign(self, key: Key, resource: Resource) -> tuple[Foreign, ...]:
        """Names that were somebody else's: ask again, by reading only."""
        known = self._foreign.get(key, {})
        for kind, name in list(known):
            body = await self._cluster.read(kind, resource.owner.namespace, name)
            if body is None or _owned_by(body, resource):
                del known[kind, name]
        return tuple(known[entry] for entry in sorted(known))

    async def _perform(self, key: Key, action: Action) -> None:
        """Act; where the child was another one by now, find out whether the watch lost its deletion."""
        try:
            await self._act(key, action)
        except (Stale, Missing):
            if isinstance(action, Apply | Reset | Delete):
                await self._check(action.child.kind, key[0], action.child.name, action.child.uid)
            raise

    async def _act(self, key: Key, action: Action) -> None:
        match action:
            case Create(body):
                metrics.WRITES.labels(body["kind"]).inc()
                await self._create(key, body)
            case Apply(body, child):
                metrics.WRITES.labels(child.kind).inc()
                answer = await self._cluster.apply(body, child.uid, child.resource_version)
                self._wrote(key, child.kind, answer)
            case Reset(patch, child):
                metrics.WRITES.labels(child.kind).inc()
                body = {"kind": child.kind, "metadata": child.body["metadata"]}
                answer = await self._cluster.patch(body, patch, child.uid, child.resource_version)
                self._wrote(key, child.kind, answer)
                if answer["metadata"]["resourceVersion"] == child.resource_version:
                    self._cache.settle(child.uid, child.resource_version)
            case Steer(pod, wanted, seconds):
                try:
                    await self._scraper.steer(key, pod, wanted, seconds)
                except ScrapeError as failure:
                    metrics.SCRAPE_ERRORS.inc()
                    log.warning("%s/%s: the agent of %s does not take its settings: %s", *key, pod.name, failure)
                    self._queue.wake_after(key, STEER_RETRY_SECONDS)
            case Probe(pod, body):
                self._scraper.warm(key, pod, body)
            case Save() | Teach() | Restore():
                await self._inform(key, action)
            case Delete(child):
                metrics.WRITES.labels(child.kind).inc()
                await self._cluster.delete(child.kind, key[0], child.name, child.uid)
                self._cache.deleted(child.uid)

    def _wrote(self, key: Key, kind: str, answer: Mapping[str, Any]) -> None:
        """Keep what a write was answered with. One more pass looks at the outcome; the watch's echo asks for none."""
        if self._cache.wrote(kind, answer):
            self._queue.wake(key)

    async def _inform(self, key: Key, action: Save | Teach | Restore) -> None:
        match action:
            case Save():
                if await self._knowledge.save(key, action):
                    self._queue.wake(key)
            case Teach():
                await self._teach(key, action)
            case Restore():
                await self._knowledge.restore(key, action)

    async def _teach(self, key: Key, action: Teach) -> None:
        try:
            await self._scraper.teach(key, action.pod, action.state)
        except ScrapeError as failure:  # it learns by itself
            log.warning("%s/%s: the agent of %s takes no figures of a benchmark: %s", *key, action.pod.name, failure)

    async def _create(self, key: Key, body: Mapping[str, Any]) -> None:
        kind, metadata = body["kind"], body["metadata"]
        try:
            self._wrote(key, kind, await self._cluster.create(body))
            return
        except Taken as taken:
            found = await self._cluster.read(kind, metadata["namespace"], metadata["name"])
            if found is None:
                raise Stale(taken.status, taken.message) from taken
        owner = controller_of(found)
        if owner is not None and owner["uid"] == metadata["ownerReferences"][0]["uid"]:
            self._cache.wrote(kind, found)  # ours: the watch had not told yet
            raise Stale(409, f"{kind} {metadata['name']} exists already")
        if "deletionTimestamp" in found["metadata"] or _predecessor(owner, key):
            raise ApiFailure(409, f"{kind} {metadata['name']} of a deleted resource is still there", PAUSE_SECONDS)
        self._foreign.setdefault(key, {})[kind, metadata["name"]] = Foreign(
            kind, metadata["name"], f"{owner['kind']} {owner['name']}" if owner else "no controller"
        )
        self._queue.wake(key)
        raise Stale(409, f"{kind} {metadata['name']} is somebody else's")

    async def _finish(self, key: Key, resource: Resource, decision: Decision) -> None:
        if decision.status is not None:
            await self._report(resource, decision.status)
        for event in decision.events:
            log.info("%s/%s: %s: %s", *key, event.reason, event.message)
            metrics.WRITES.labels("Event").inc()
            await self._cluster.write_event(event_body(resource, event, self._clock()))
        if decision.wake_after == 0:  # what was decided is done before others are looked at
            self._queue.wake(key, first=True)
        elif decision.wake_after is not None:
            self._queue.wake_after(key, decision.wake_after)

    async def _report(self, resource: Resource, body: Mapping[str, Any]) -> None:
        if body == resource.status:
            return
        metrics.WRITES.labels(identity.KIND).inc()
        owner = resource.owner
        try:
            answer = await self._cluster.write_status(owner.namespace, owner.name, owner.uid, body)
        except (Stale, Missing):
            await self._confirm(resource)
            raise
        self._wrote((owner.namespace, owner.name), identity.KIND, answer)

    def _forget(self, key: Key) -> None:
        self._foreign.pop(key, None)
        self._knowledge.forget(key)
        self._queue.forget(key)
        self.board.drop(key)


def _owned_by(body: Mapping[str, Any], resource: Resource) -> bool:
    owner = controller_of(body)
    return owner is not None and owner["uid"] == resource.owner.uid


def _predecessor(owner: Mapping[str, Any] | None, key: Key) -> bool:
    """Whether the owner is an earlier resource of the same name, whose children are being collected."""
    return owner is not None and owner["kind"] == identity.KIND and owner["name"] == key[1]


def outdated_message(failure: Undeclared) -> str:
    """What to do about a definition that is older than this operator. Deterministic: it becomes a condition."""
    return (
        f"the definition {identity.PLURAL}.{identity.GROUP} in this cluster is older than the operator, and refuses "
        f"its status ({failure.message[:512]}): upgrade it, by `helm upgrade` with crds.enabled or by "
        "`kubectl apply --server-side -f` on this release's crds/; until then what runs is left as it is"
    )


def _rejected(failure: Rejected) -> Problem:
    return Problem("ApiRejected", "", f"the API server refuses an object of this resource: {failure.message}")


def event_body(resource: Resource, event: Event, now: float) -> dict[str, Any]:
    """A core/v1 Event about the resource; its name is made of what it says, so that a repeat is no second one."""
    owner = resource.owner
    mark = hashlib.sha256(f"{owner.uid}{event.reason}{event.message}{int(now)}".encode()).hexdigest()[:12]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{owner.name}.{mark}", "namespace": owner.namespace},
        "involvedObject": {
            "apiVersion": identity.API_VERSION,
            "kind": identity.KIND,
            "name": owner.name,
            "namespace": owner.namespace,
            "uid": owner.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1024],
        "firstTimestamp": moment.text(now),
        "lastTimestamp": moment.text(now),
        "count": 1,
        "source": {"component": "gemmaspec"},
        "reportingComponent": "gemmaspec.io/operator",
        "reportingInstance": "operator",
    }
