"""What the operator holds after hours of scrapes, changes and vanished pods is what it held before them.

All of the operator's runtime but kopf: shelves, cache, queue, worker, scraper, board. The cluster is a fake one, and so
are the engines.
"""

from __future__ import annotations

import copy
import gc
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gemmaspec.adapters.cluster import ApiFailure, Cluster
from gemmaspec.adapters.engine import Engines, Told
from gemmaspec.api import identity
from gemmaspec.core import names
from gemmaspec.core.observation import Sample
from gemmaspec.core.reconcile import Settings
from gemmaspec.recipes import load
from gemmaspec.runtime import scraper as scraping
from gemmaspec.runtime.handlers import KINDS, Operator
from gemmaspec.runtime.options import Options
from gemmaspec.runtime.scraper import Scraper
from gemmaspec.runtime.worker import Worker
from tests.runtime.test_worker import FILES, SPEC
from tests.simulated.fake_cluster import FakeCluster

ROUND_SECONDS = 5.0
# A pod vanishes, a resource changes its engine, one is deleted and made anew, a list comes: each every so many rounds.
TURN = 12
# Some containers are shrunk late; what grew by this in a hundred rounds is no leak that anybody would see in a year.
SLACK = 60


class FakeEngines:
    """Answers of a busy engine, by the clock."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    async def scrape(self, ip: str, port: int, now: float, before: Told | None = None) -> Told:
        steps = (self._cluster.now - 1_800_000_000.0) * 10
        accepted = (steps * 0.9, steps * 0.8, steps * 0.7, steps * 0.6)
        seconds = steps / 100
        sample = Sample(now, steps, steps * 4, sum(accepted), accepted, steps * 4, steps / 50, seconds, steps, 1.0)
        return Told(sample, hash(now))


class Life:
    """One process of the operator, which hears of the cluster by events, and now and then by a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = FakeCluster()
        clock = SimpleNamespace(time=lambda: self.cluster.now, monotonic=lambda: self.cluster.now)
        monkeypatch.setattr(scraping, "time", clock)
        self.operator = Operator(Options())
        cache, queue = self.operator.cache, self.operator.queue
        cache._clock = clock.monotonic
        self.scraper = Scraper(
            cast("Engines", FakeEngines(self.cluster)), cache, queue.wake, ROUND_SECONDS, look=queue.look
        )
        cluster = cast("Cluster", self.cluster)
        self.worker = Worker(queue, cache, cluster, self.scraper, Settings(load(), FILES), clock.time)
        self.registry = CollectorRegistry()
        self.registry.register(self.worker.board)
        self.images = 0
        self._known: dict[tuple[str, str, str], dict[str, Any]] = {}

    def make(self, name: str) -> None:
        """A person applies a resource."""
        body = {
            "apiVersion": identity.API_VERSION,
            "kind": identity.KIND,
            "metadata": {"namespace": "ns", "name": name},
        }
        self.cluster.put({**body, "spec": copy.deepcopy(SPEC)})

    def tell(self, deaf: bool = False) -> None:
        """Events of all that has changed. deaf: the watch was cut off, and lists anew: no event tells what vanished."""
        now = {key: body for key, body in self.cluster.objects.items() if self._is_watched(body)}
        for key, body in now.items():
            before = self._known.get(key)
            if before and before["metadata"]["uid"] != body["metadata"]["uid"] and not deaf:
                self._event("DELETED", before)
            if deaf:
                self.operator.on_list(key[0], copy.deepcopy(body))
            elif before is None or before["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
                self._event("MODIFIED", body)
        for key in self._known.keys() - now.keys():
            if not deaf:
                self._event("DELETED", self._known[key])
        if deaf:
            for plural, kind in KINDS.items():
                uids = frozenset(body["metadata"]["uid"] for key, body in now.items() if key[0] == kind)
                self.operator.listed(plural, "", uids, str(self.cluster._version))
        self._known = {key: copy.deepcopy(body) for key, body in now.items()}

    def _event(self, kind: str, body: dict[str, Any]) -> None:
        self.operator.on_event(body["kind"], kind, copy.deepcopy(body))

    @staticmethod
    def _is_watched(body: dict[str, Any]) -> bool:
        return body["kind"] in (identity.KIND, "Pod") or names.MANAGED_BY in body["metadata"].get("labels", {})

    async def settle(self) -> None:
        """Passes over what was woken, and the controllers' work, until nothing is left to do."""
        queue = self.operator.queue
        queue.release()
        for _ in range(40):
            while len(queue):
                key = await queue.take()
                try:
                    await self.worker.once(key)
                except ApiFailure:
                    queue._again.add(key)
                queue.done(key)
            worked = self.cluster.work()
            self.tell()
            if not worked and not len(queue):
                return
        raise AssertionError(f"does not settle: {self.cluster.writes[-8:]}")

    async def rounds(self, count: int) -> None:
        """So many rounds of scrapes, with their turns."""
        for number in range(count):
            self.cluster.now += ROUND_SECONDS
            await self.scraper.round()
            await self.settle()
            generate_latest(self.registry)
            match number % TURN:
                case 2:  # a pod is lost, and its deletion told
                    self._lose_a_pod()
                    self.tell()
                case 5:  # one is lost while the watch is cut off
                    self._lose_a_pod()
                    self.tell(deaf=True)
                case 7:
                    self.images += 1
                    body = self.cluster.objects[identity.KIND, "ns", "stays"]
                    spec = copy.deepcopy(body["spec"]) | {"model": {"maxModelLen": 128 + self.images % 2}}
                    self.cluster.edit(identity.KIND, "stays", spec=spec)
                    self.tell()
                case 9:
                    self.cluster.remove(identity.KIND, "ns", "comes")
                    self.tell(deaf=number % (2 * TURN) > TURN)
                case 10:
                    self.make("comes")
                    self.tell()
            await self.settle()
            self.cluster.writes.clear()
            self.cluster.events.clear()

    def _lose_a_pod(self) -> None:
        pod = self.cluster.of_kind("Pod")[0]
        self.cluster.remove("Pod", "ns", pod["metadata"]["name"])
        self.cluster._version += 1

    def held(self) -> Counter[str]:
        """Live objects by type, once nothing is garbage."""
        for timer in self.operator.queue._timers.values():
            timer.cancel()
        self.operator.queue._timers.clear()
        gc.collect()
        return Counter(type(one).__qualname__ for one in gc.get_objects())


async def test_nothing_grows_with_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch)
    life.make("stays")
    life.make("comes")
    life.tell(deaf=True)
    await life.rounds(2 * TURN)
    before, names_before = life.held(), sizes(life)
    assert before["Pod"] >= 2, "the test sees pods, or it proves nothing"
    await life.rounds(4 * TURN)
    grown = life.held() - before
    assert sum(grown.values()) < SLACK, grown.most_common(8)
    assert sizes(life) == names_before


def sizes(life: Life) -> dict[str, int]:
    """Entries of every mapping and set that the runtime's parts keep, by name."""
    operator = life.operator
    parts = {
        "cache": operator.cache,
        "queue": operator.queue,
        "scraper": life.scraper,
        "warmups": life.scraper._warmups,
        "worker": life.worker,
        "board": life.worker.board,
        "knowledge": life.worker._knowledge,
        "resources": operator._resources,
        "children": operator._children,
        "pods": operator._pods,
    }
    return {
        f"{name}.{field}": len(value)
        for name, part in parts.items()
        for field, value in vars(part).items()
        if isinstance(value, dict | set) and field not in ("_gone", "_lost")  # bounded by number
    }
