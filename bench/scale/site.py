"""The stage of the benchmark: a real control plane, boxes that KWOK plays, and what its processes use."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import aiohttp
import orjson

from testbed import ControlPlane
from testbed.api import Api
from testbed.controlplane import reserve_port
from testbed.kwok import Kwok, gb10
from testbed.programs import Supervised

HERE: Final = Path(__file__).parent
NAMESPACE: Final = "scale"
AT_ONCE: Final = 32
TICKS: Final = os.sysconf("SC_CLK_TCK")
# The other parts of Kubernetes shall not be what is waited for.
FAST: Final = ("--kube-api-qps=2000", "--kube-api-burst=4000")
AT_ONCE_EACH: Final = 32
CONTROLLERS: Final = ("deployment", "replicaset", "statefulset", "endpoint", "service-endpoint")
MANY: Final = tuple(f"--concurrent-{name}-syncs={AT_ONCE_EACH}" for name in CONTROLLERS)
NODE_LEASE_SECONDS: Final = 3600
# KWOK renews a lease at a quarter of its length. With the default of 50 s the controllers take all nodes for lost in
# the middle of the measurement, and every pod for not ready.
PATIENT: Final = (f"--node-monitor-grace-period={2 * NODE_LEASE_SECONDS}s",)
# Pods' addresses, all of which are this machine's for as long as the stage stands: what is set apart for benchmarks
# (RFC 2544). Endpoints may not hold addresses of the loopback, and the controllers that write them would never rest.
PODS: Final = "198.18.0.0/15"
LOCK: Final = Path(tempfile.gettempdir()) / "gemmaspec-scale.lock"
EXPOSITION: Final = HERE.parents[1] / "tests/data/metrics-vllm-0.32.txt"


@contextmanager
def site(nodes: int) -> Iterator[Site]:
    """A control plane with ``nodes`` GB10 boxes whose pods serve as soon as they are bound."""
    policy = f"--audit-policy-file={HERE / 'audit-policy.yaml'}"
    inflight = ("--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000")
    flags = {"controller_flags": (*FAST, *MANY, *PATIENT), "scheduler_flags": FAST}
    with _addresses(), ControlPlane(True, (policy, *inflight), scheduler=True, **flags) as plane:
        leases = f"--node-lease-duration-seconds={NODE_LEASE_SECONDS}"
        kwok = Kwok(plane, HERE / "stages.yaml", (f"--cidr={PODS}", leases))
        made = Site(plane)
        kwok.add(gb10("box-0"))
        asyncio.run(made.create("/api/v1/nodes", (gb10(f"box-{i}").body() for i in range(1, nodes))))
        made.send("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        made.engines.start()
        yield made


@contextmanager
def _addresses() -> Iterator[None]:
    """Answer for the pods' addresses, one stage at a time on a machine. Takes root."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another stage has the pods' addresses: it holds {LOCK}") from None
        subprocess.run(["ip", "route", "replace", "local", PODS, "dev", "lo"], check=True)
        try:
            yield
        finally:
            subprocess.run(["ip", "route", "del", "local", PODS, "dev", "lo"], check=True)


@dataclass
class Usage:
    """What a process used: processor seconds since it began; resident memory now and at its highest, in MiB."""

    cpu: float
    rss: float
    peak: float


def usage(pid: int) -> Usage:
    """What a running process used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Usage((int(fields[11]) + int(fields[12])) / TICKS, resident, peak)


class Engines:
    """The engines in the pods: see :mod:`bench.scale.engines`. ``port``: theirs."""

    def __init__(self, supervised: Supervised, folder: Path) -> None:
        self._supervised = supervised
        self._exposition = folder / "exposition.txt"
        self._held = reserve_port()
        self.port = int(self._held.getsockname()[1])

    def start(self) -> None:
        """Start them; they have nothing to do."""
        self._exposition.write_bytes(EXPOSITION.read_bytes())
        command = [sys.executable, "-m", "bench.scale.engines", str(self.port), str(self._exposition)]
        self._supervised.start("engines", command, {"PYTHONPATH": str(HERE.parents[1])})

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Every engine serves requests meanwhile."""
        busy = self._exposition.with_suffix(".busy")
        busy.touch()
        yield
        busy.unlink()

    def scrapes(self) -> int:
        """How often any of them was asked for its metrics."""
        with urlopen(f"http://127.0.0.1:{self.port}/scrapes", timeout=10) as answer:
            return int(answer.read())


class Site:
    """Requests of the benchmark itself, as the administrator: they are not in the audit log."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.engines = Engines(plane.supervised, plane.folder)
        self._api = Api(plane.kubeconfig)

    def pid(self, program: str) -> int:
        """Process id of a program of the stage."""
        return self.plane.supervised.pids[program]

    def send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        """A request that must succeed."""
        code, answer = self._api.send(method, path, body, kind, seconds=120)
        if code >= 300:
            raise RuntimeError(f"{method} {path}: {code}: {answer.decode(errors='replace')[:500]}")
        return dict(orjson.loads(answer))

    def session(self) -> aiohttp.ClientSession:
        """A session with the administrator's certificate."""
        connector = aiohttp.TCPConnector(ssl=self._api.tls, limit=AT_ONCE + 8)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        return aiohttp.ClientSession(f"https://{self._api.address}", connector=connector, timeout=timeout)

    async def create(self, path: str, bodies: Iterator[dict[str, Any]]) -> None:
        """Create objects, some at once."""
        async with self.session() as session:
            await asyncio.gather(*(self._creator(session, path, bodies) for _ in range(AT_ONCE)))

    async def _creator(self, session: aiohttp.ClientSession, path: str, bodies: Iterator[dict[str, Any]]) -> None:
        for body in bodies:
            async with session.post(
                path, data=orjson.dumps(body), headers={"Content-Type": "application/json"}
            ) as said:
                if said.status != 201:
                    raise RuntimeError(f"POST {path}: {said.status}: {await said.text()}")

    async def wait_ready(self, path: str, is_ready: Any, count: int, seconds: float) -> dict[str, float]:
        """Watch a collection until ``count`` objects are ready; monotonic time of each one's readiness."""
        ready: dict[str, float] = {}
        async with self.session() as session, asyncio.timeout(seconds):
            while len(ready) < count:  # the API server ends watches of a definition that it has just learnt
                await self._watch(session, path, is_ready, count, ready)
        return ready

    async def _watch(
        self, session: aiohttp.ClientSession, path: str, is_ready: Any, count: int, ready: dict[str, float]
    ) -> None:
        async with session.get(f"{path}?watch=1", read_bufsize=2**22) as stream:
            async for line in stream.content:
                event = orjson.loads(line)
                name = event["object"]["metadata"]["name"]
                if event["type"] == "DELETED" or not is_ready(event["object"]):
                    ready.pop(name, None)
                else:
                    ready.setdefault(name, time.monotonic())
                if len(ready) >= count:
                    return

    def serves(self, path: str) -> bool:
        """Whether the API server serves this collection."""
        return self._api.ready(path)

    def count(self, path: str) -> int:
        """How many objects a collection holds."""
        found = self.send("GET", f"{path}?limit=1")
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))
