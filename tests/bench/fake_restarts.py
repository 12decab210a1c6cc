"""Fakes of an engine without an agent, and of the cluster in which an operator moves its K by restart."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from gemmaspec.adapters.cluster import ApiFailure, Stale
from gemmaspec.adapters.transport import Direct, Lines
from gemmaspec.core import hold
from tests.bench.fake_station import FakeStation

SPEC = {
    "recipe": "tiny-cpu",
    "speculative": {"k": 2, "control": {"actuator": "Restart", "kMax": 2}},
}
_DRAFTS = """vllm:spec_decode_num_drafts_total{{engine="0"}} {steps}
vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {tokens}
vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {tokens}
"""


class PlainStation(FakeStation):
    """vLLM's own counters alone. Those of drafts are there where K is above zero."""

    async def metrics(self, request: web.Request) -> web.Response:
        text = str((await super().metrics(request)).text)
        if self.now:
            text += _DRAFTS.format(
                steps=sum(n for k, n in self.steps.items() if k), tokens=sum(k * n for k, n in self.steps.items())
            )
            for position in range(max(self.ks)):
                accepted = sum(n for k, n in self.steps.items() if k > position)
                text += f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{position}"}} {accepted}\n'
        return web.Response(text=text)


class FakeCluster:
    """One resource, its operator, and the API server's proxy to its engine.

    looks: reads of the resource that a boot takes. heard: whether the operator reads annotations. boots: K of each
    start. never: K with which no engine serves. failing: what a request meets, by its number of its kind ("read",
    "patch"). clock: the operator's.
    """

    def __init__(self, station: FakeStation, looks: int = 2) -> None:
        self.station, self.looks, self.heard = station, looks, True
        self.boots: list[int] = []
        self.patches: list[dict[str, Any]] = []
        self.failing: Callable[[str, int], ApiFailure | None] = lambda kind, number: None
        self.never: set[int] = set()
        self.stalled = ""
        self.version = 1
        self.boot_seconds: int | None = 300
        self.clock = time.time
        self._left = self._reads = 0
        self.annotations: dict[str, str] = {}
        self.engine = Direct(station.url)

    @property
    def spec_k(self) -> int:
        """K of the spec."""
        return 2

    async def connected(self, *_: Any) -> tuple[FakeCluster, str]:
        """As Cluster.connect_as_user."""
        self.engine = Direct(self.station.url)
        return self, "llm"

    async def close(self) -> None:
        await self.engine.close()

    def _act(self) -> hold.Hold | None:
        """A pass of the operator."""
        now = self.clock()
        held = hold.read(self.annotations, now) if self.heard else None
        held = held if held is not None and held.active(now) else None
        k = held.k if held else self.spec_k
        if k != self.station.k:
            self.boots.append(k)
            self.station.k, self._left = k, self.looks
        elif self._left and k not in self.never:
            self._left -= 1
        return held

    def resource(self) -> dict[str, Any]:
        """As it stands after a pass."""
        held = self._act()
        ready, words = not self._left, "0 of 1 engines of this revision serve"
        known: dict[str, Any] = {"desired": self.spec_k, "effective": self.station.k, "actuator": "Restart"}
        if held:
            known["held"] = {"k": held.k, "message": "held by restart, now and at its end"}
        conditions = [
            {"type": "Ready", "status": str(ready), "message": words},
            {"type": "Reconciling", "status": str(not ready), "message": "driving to another revision"},
            {"type": "Stalled", "status": str(bool(self.stalled)), "message": self.stalled},
        ]
        status = {"k": known, "conditions": conditions, "control": {"bootSeconds": self.boot_seconds}}
        metadata = {
            "name": "gemma",
            "namespace": "llm",
            "annotations": dict(self.annotations),
            "resourceVersion": str(self.version),
        }
        return {"metadata": metadata, "spec": SPEC, "status": status}

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        if path.endswith("/pods"):
            pod = {
                "metadata": {"name": "gemma-1"},
                "spec": {"containers": []},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }
            return {"items": [pod]}
        self._reads += 1
        if failure := self.failing("read", self._reads):
            raise failure
        return self.resource()

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        assert (kind, namespace, name) == ("GemmaSpecDeploy", "llm", "gemma")
        self.patches.append(dict(patch))
        if failure := self.failing("patch", len(self.patches)):
            raise failure
        if patch["metadata"]["resourceVersion"] != str(self.version):
            raise Stale(409, "the object has been modified")
        self.version += 1
        for key, value in patch["metadata"]["annotations"].items():
            if value is None:
                self.annotations.pop(key, None)
            else:
                self.annotations[key] = value
        return {}

    async def get_text(self, path: str) -> str:
        return await self.engine.get(path.partition("/proxy")[2])

    @asynccontextmanager
    async def opened(self, method: str, path: str, body: Mapping[str, Any], seconds: float) -> AsyncIterator[Lines]:
        assert method == "POST"
        async with self.engine.post(path.partition("/proxy")[2], body, seconds) as lines:
            yield lines
