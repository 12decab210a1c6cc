"""kopf's side: lists and watches fill the shelves, events wake. Nothing here decides, and nothing here writes.

Only ``on.event`` is used: measured on kopf 1.45.2 it leaves no annotation, no finalizer and no patch on the resource,
so that it stays deletable while the operator is down. It says what kopf is to discover, list and watch, and to keep
watching through disconnects; objects go to the shelves at once, and past kopf (ADR 18).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import kopf

from gemmaspec.adapters.cluster import ApiFailure, Cluster, own_image
from gemmaspec.adapters.engine import Engines
from gemmaspec.adapters.files import LIVE_ENTRIES, engine_files
from gemmaspec.adapters.trust import as_kubectl_does
from gemmaspec.api import identity
from gemmaspec.core import names
from gemmaspec.core.live import token
from gemmaspec.core.observation import Pod
from gemmaspec.core.reconcile import Settings
from gemmaspec.recipes import load
from gemmaspec.runtime import garbage, metrics, watching
from gemmaspec.runtime.cache import Cache, Stored, gist, reduce_pod, store
from gemmaspec.runtime.options import Options
from gemmaspec.runtime.queue import Key, WakeQueue
from gemmaspec.runtime.scraper import Scraper
from gemmaspec.runtime.shelf import Shelf
from gemmaspec.runtime.worker import Worker

log = logging.getLogger("gemmaspec")

CHILDREN = (
    ("", "v1", "serviceaccounts", "ServiceAccount"),
    ("", "v1", "services", "Service"),
    ("", "v1", "configmaps", "ConfigMap"),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("apps", "v1", "deployments", "Deployment"),
    ("batch", "v1", "jobs", "Job"),
)
PODS = ("", "v1", "pods")
KINDS = {identity.PLURAL: identity.KIND, "pods": "Pod"} | {plural: kind for _, _, plural, kind in CHILDREN}
ANY = "*"
DEFINITION_RETRY_SECONDS = 2.0
# A pod that has only begun is looked at so much later, unless it tells more before: one write of the status, not two.
STARTING_SECONDS = 5.0
# Less than a pod's grace of 30 seconds.
SHUTDOWN_SECONDS = 15.0


class Operator:
    """Everything that lives between start-up and shutdown."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.queue = WakeQueue()
        self.queue.hold()
        self._resources: Shelf[Stored] = Shelf()
        self._children: Shelf[Stored] = Shelf()
        self._pods: Shelf[Pod] = Shelf()
        self._unlisted = unlisted(options.namespaces)
        self.cache = Cache(self._resources, self._children, self._pods, lose=self._lose)
        self._cluster: Cluster | None = None
        self._engines = Engines()
        self._tasks: list[asyncio.Task[None]] = []
        self._scraper: Scraper | None = None

    async def start(self) -> None:
        """Connect, and start the workers; they wait until everything has been listed."""
        self._cluster = await Cluster.connect()
        await self._wait_for_definition(self._cluster)
        wake, look, seconds = self.queue.wake, self.queue.look, self._options.scrape_seconds
        scraper = Scraper(self._engines, self.cache, wake, seconds, self._token, self._window, look)
        self._scraper = scraper
        settings = Settings(
            load(),
            engine_files(),
            self._options.host_path_prefixes,
            self._options.key,
            engine_files(LIVE_ENTRIES),
            self._options.image or await own_image(self._cluster),
        )
        worker = Worker(self.queue, self.cache, self._cluster, scraper, settings)
        metrics.QUEUE.set_function(lambda: len(self.queue))
        metrics.show(worker.board)
        jobs = [worker.run() for _ in range(self._options.workers)]
        self._tasks = [asyncio.create_task(job) for job in [*jobs, scraper.run(), scraper.follow(), garbage.collect()]]

    async def _wait_for_definition(self, cluster: Cluster) -> None:
        """kopf looks once for what it shall watch: a definition that is installed later would never be served. Of an
        API server that does not answer it would wait for a minute.
        """
        told = ""
        while why := await self._missing_definition(cluster):
            if why != told:
                log.warning("%s; waiting for it", why)
                told = why
            await asyncio.sleep(DEFINITION_RETRY_SECONDS)

    @staticmethod
    async def _missing_definition(cluster: Cluster) -> str:
        """Why nothing can be watched yet; empty where it can."""
        try:
            served = await cluster.serves_resource()
        except ApiFailure as failure:
            return f"the API server does not tell what it serves ({failure.status})"
        return "" if served else f"the definition of {identity.PLURAL}.{identity.GROUP} is not installed"

    async def stop(self) -> None:
        """Stop the workers and close connections. What is half done, the next start repairs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._scraper:
            self._scraper.close()
        await self._engines.close()
        if self._cluster:
            await self._cluster.close()

    def listed(self, plural: str, namespace: str, uids: frozenset[str], version: str) -> None:
        """A whole list has come: what vanished while no watch ran is found by its absence."""
        kind = KINDS.get(plural)
        if kind is None:
            return
        for key in self.cache.listed(kind, namespace, uids, version):
            self.queue.wake(names.resource_of(key))
        self._unlisted -= {(plural, namespace), (plural, ANY)}
        if not self._unlisted:
            self.queue.release()

    def on_list(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object stands in a list. Keep it, and wake the resource where it is anything new."""
        metadata = body["metadata"]
        kept = reduce_pod(body) if kind == "Pod" else store(kind, body)
        key = _of_pod(body) if isinstance(kept, Pod) else _key(kind, kept)
        version = str(metadata.get("resourceVersion", ""))
        order = int(version) if version.isdigit() else 0
        before = next(iter(self._resources.get(key, ())), None) if kind == identity.KIND else None
        new = self._shelf(kind).put(key, metadata["uid"], order, kept) and self.cache.seen(metadata["uid"], gist(kept))
        if new and isinstance(kept, Pod) and kept.starting:
            self.queue.wake_after(names.resource_of(key), STARTING_SECONDS)
        elif new:  # an edit, and that an engine serves, come before thousands of others are made or looked at
            first = kept.ready if isinstance(kept, Pod) else before is not None and _is_edit(before, body)
            self.queue.wake(names.resource_of(key), first=first)

    def on_event(self, kind: str, event: str, body: Mapping[str, Any]) -> None:
        """A watch tells of an object; event: what became of it."""
        if event != "DELETED":
            self.on_list(kind, body)
            return
        metadata = body["metadata"]
        self._shelf(kind).remove(metadata["uid"])
        self.cache.forget(kind, metadata["namespace"], metadata["name"], metadata["uid"])
        self.queue.wake(names.resource_of(_of_pod(body) if kind == "Pod" else _key(kind, store(kind, body))))

    def _lose(self, uid: str) -> None:
        for shelf in (self._resources, self._children, self._pods):
            shelf.lose(uid)

    def _shelf(self, kind: str) -> Shelf[Any]:
        if kind == "Pod":
            return self._pods
        return self._resources if kind == identity.KIND else self._children

    def _token(self, key: Key) -> str:
        """Token of the agents of a resource; empty without an operator's key."""
        resource = self.cache.resource(*key)
        return token(self._options.key, resource.owner.uid) if resource and self._options.key else ""

    def _window(self, key: Key) -> float:
        """How far back evidence is taken from, where the spec itself says so; seconds."""
        resource = self.cache.resource(*key)
        speculative = (resource.spec.get("speculative") or {}) if resource else {}
        return float((speculative.get("control") or {}).get("windowSeconds") or 0)


def registry(operator: Operator) -> kopf.OperatorRegistry:
    """kopf's registry with our handlers bound to ``operator``."""
    found = kopf.OperatorRegistry()
    _lifecycle(found, operator)
    for where in ((identity.GROUP, identity.VERSION, identity.PLURAL), *(child[:3] for child in CHILDREN), PODS):
        kopf.on.event(*where, registry=found)(untold)
    return found


def _lifecycle(found: kopf.OperatorRegistry, operator: Operator) -> None:
    @kopf.on.startup(registry=found)
    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        await operator.start()

    @kopf.on.cleanup(registry=found)
    async def cleanup(**_: Any) -> None:
        await operator.stop()

    @kopf.on.login(registry=found)
    async def login(**arguments: Any) -> kopf.AiohttpSession | None:
        found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
        if found is None:
            return None
        return kopf.AiohttpSession(
            server=found.server,
            priority=found.priority,
            default_namespace=found.default_namespace,
            expiration=found.expiration,
            aiohttp_session=watching.session(
                as_kubectl_does(found.as_ssl_context()),
                found.as_http_headers(),
                operator.listed,
                watching.Objects(KINDS, operator.on_list, operator.on_event),
                found.proxy_url,
                found.trust_env,
            ),
        )


def configure(settings: kopf.OperatorSettings) -> None:
    """Settings of kopf: watch only what carries our label, post nothing, restart watches in good time."""
    for group, version, plural in [child[:3] for child in CHILDREN] + [PODS]:
        selector = f"{names.MANAGED_BY}={names.FIELD_MANAGER}"
        settings.watching.label_selectors[group, version, plural] = selector
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.connect_timeout = 10.0
    settings.watching.chunk_size = 200  # a list of thousands is never in memory as a whole
    settings.watching.server_timeout = 600  # an integer: the API server refuses 600.0
    settings.networking.connect_timeout = 10.0
    settings.networking.request_timeout = 60.0


async def untold(**_: Any) -> None:
    """Has kopf watch a kind. It is never called: events go past kopf."""


def unlisted(namespaces: Sequence[str]) -> set[tuple[str, str]]:
    """The lists that must come before anything is decided: plural and namespace, "" for the cluster. With patterns
    of namespaces nobody knows how many there will be: the first list of each kind must do.
    """
    patterns = any(not name.replace("-", "").isalnum() for name in namespaces)
    return {(plural, where) for plural in KINDS for where in ([ANY] if patterns else namespaces or [""])}


def _is_edit(before: Stored, body: Mapping[str, Any]) -> bool:
    """Whether somebody asks for something else than before: by the spec, or by an annotation."""
    known, told = before.body["metadata"], body["metadata"]
    return any(known.get(name) != told.get(name) for name in ("uid", "generation", "annotations"))


def _key(kind: str, stored: Stored) -> Key:
    """Key of the resource that the object is, or belongs to."""
    return stored.namespace, stored.name if kind == identity.KIND else stored.owner_name


def _of_pod(body: Mapping[str, Any]) -> Key:
    """Under which key the pod is known: its resource's, where it is an engine; benchmarks' pods have one beside it."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    benchmarked = labels.get(names.BENCHMARK_LABEL)
    return metadata["namespace"], names.benchmark_pods(benchmarked) if benchmarked else labels.get(
        names.OWNER_LABEL, ""
    )


async def run(options: Options) -> None:
    """Run until a signal. Raises what kopf raises when the API is lost for too long: the pod then restarts."""
    metrics.serve(options.metrics_port)
    operator = Operator(options)
    endpoint = f"http://0.0.0.0:{options.health_port}/healthz" if options.health_port else None
    tasks = await kopf.spawn_tasks(
        registry=registry(operator),
        standalone=True,
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
        liveness_endpoint=endpoint,
    )
    for task in tasks:
        task.add_done_callback(_end_soon)
    await kopf.run_tasks(tasks)


def _end_soon(_: object) -> None:
    """One of kopf's tasks has ended, so all shall; one that hangs must not keep a blind process alive."""
    timer = threading.Timer(SHUTDOWN_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
