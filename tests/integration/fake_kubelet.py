"""A fake kubelet: binds pods to a node that does not exist and reports what a script says of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from testbed.api import Api
from tests.integration.fake_engine import FakeEngines, Traffic

NODE = "fake-node"
LOOK_EVERY_SECONDS = 0.1
HEARTBEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Report:
    """What the kubelet says of a pod's container. ``ended`` is the terminated state of the last run."""

    container: str = "engine"
    ready: bool = False
    running: bool = True
    waiting: tuple[str, str] | None = None
    ended: Mapping[str, Any] | None = None
    restarts: int = 0


READY = Report(ready=True)
STARTING = Report()
Script = Callable[[Mapping[str, Any]], Report]


def always_ready(_: Mapping[str, Any]) -> Report:
    """The script in which every engine is ready at once."""
    return READY


class FakeKubelet:
    """Plays the kubelet for the engine pods of one namespace.

    ``script`` may be replaced at any time. ``termination_seconds``: how long a pod stays Terminating.
    ``overlap``: the largest number of engine pods that held the box at once. ``listed``: where the pods are looked up.
    """

    def __init__(self, api: Api, namespace: str, engines: FakeEngines, traffic: Traffic) -> None:
        self.script: Script = always_ready
        self.termination_seconds = 0.0
        self.traffic = traffic
        self.overlap = 0
        self._api = api
        self._pods_path = f"/api/v1/namespaces/{namespace}/pods"
        self.listed: Callable[[], list[dict[str, Any]] | None] = self._list
        self._engines = engines
        self._addresses: dict[str, str] = {}
        self._said: dict[str, Report] = {}
        self._leaving: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to look after the pods."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(10)

    def serve(self, traffic: Traffic) -> None:
        """Change the kind of traffic on all engines, and on those that come."""
        self.traffic = traffic
        for address in list(self._addresses.values()):
            with contextlib.suppress(KeyError):
                self._engines.at(address).serve(traffic)

    def engine_addresses(self) -> list[str]:
        """Addresses of the engines that run."""
        return list(self._addresses.values())

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_SECONDS):
            with contextlib.suppress(OSError):  # the API server may be away for a test
                self._look()

    def _list(self) -> list[dict[str, Any]] | None:
        found = self._api.read(self._pods_path)
        return None if found is None else list(found["items"])

    def _look(self) -> None:
        listed = self.listed()
        if listed is None:
            return
        pods = {pod["metadata"]["uid"]: pod for pod in listed}
        self.overlap = max(self.overlap, len(pods))
        for gone in set(self._addresses) - set(pods):
            self._engines.remove(self._addresses.pop(gone))
        for uid, pod in pods.items():
            if "deletionTimestamp" in pod["metadata"]:
                self._terminate(uid, pod)
            else:
                self._tend(uid, pod)

    def _terminate(self, uid: str, pod: Mapping[str, Any]) -> None:
        since = self._leaving.setdefault(uid, time.monotonic())
        if time.monotonic() - since >= self.termination_seconds:
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
            self._api.send("DELETE", f"{self._pods_path}/{pod['metadata']['name']}", options)

    def _tend(self, uid: str, pod: Mapping[str, Any]) -> None:
        name = pod["metadata"]["name"]
        if "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            self._api.send("POST", f"{self._pods_path}/{name}/binding", binding)
        report = self.script(pod)
        if self._said.get(uid) == report:
            return
        if report.ready and uid not in self._addresses:
            k = int(pod["metadata"]["annotations"]["gemmaspec.io/k"])
            self._addresses[uid] = self._engines.add(k, self.traffic, _agent(pod))
        body = {"status": status_of(pod, report, self._addresses.get(uid))}
        code, _ = self._api.send("PATCH", f"{self._pods_path}/{name}/status", body, "application/merge-patch+json")
        if code == 200:
            self._said[uid] = report


def _agent(pod: Mapping[str, Any]) -> str:
    """Configuration of the agent in the pod's engine; empty where it has none."""
    found = [v for v in pod["spec"]["containers"][0].get("env", ()) if v["name"] == "GEMMASPEC_AGENT"]
    return str(found[0]["value"]) if found else ""


def status_of(pod: Mapping[str, Any], report: Report, address: str | None) -> dict[str, Any]:
    """A pod's status as the kubelet would write it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    flags = {"PodScheduled": True, "Initialized": report.container == "engine"}
    flags |= {"ContainersReady": report.ready, "Ready": report.ready}
    status: dict[str, Any] = {
        "phase": "Running" if report.container == "engine" and not report.waiting else "Pending",
        "conditions": [
            {"type": kind, "status": str(value), "lastTransitionTime": now} for kind, value in flags.items()
        ],
        "containerStatuses": [_container(pod, "engine", report, now)],
    }
    if report.container != "engine":
        status["initContainerStatuses"] = [_container(pod, report.container, report, now)]
    if address:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    return status


def _container(pod: Mapping[str, Any], name: str, report: Report, now: str) -> dict[str, Any]:
    """Status of one container; the engine waits while the report speaks of one before it."""
    spec = pod["spec"]
    found = next(c for c in [*spec["containers"], *spec.get("initContainers", ())] if c["name"] == name)
    state: dict[str, Any] = {"running": {"startedAt": now}}
    last: dict[str, Any] = {}
    if name != report.container:
        state = {"waiting": {"reason": "PodInitializing"}}
    elif report.waiting:
        state = {"waiting": {"reason": report.waiting[0], "message": report.waiting[1]}}
    elif not report.running:
        state = {"terminated": dict(report.ended or {})}
    if name == report.container and report.ended and "terminated" not in state:
        last = {"terminated": dict(report.ended)}
    return {
        "name": name,
        "image": found["image"],
        "imageID": found["image"],
        "ready": report.ready,
        "started": report.ready,
        "restartCount": report.restarts,
        "state": state,
        "lastState": last,
    }


class FakeNode:
    """The node that pods are bound to, alive for the controllers."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Register, and go on beating."""
        self._api.send("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        self._beat()
        self._thread.start()

    def close(self) -> None:
        """Stop beating."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._beat()

    def _beat(self) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
        status = {"conditions": [ready], "capacity": {"cpu": "64", "memory": "1Ti", "pods": "1000"}}
        self._api.send("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, "application/merge-patch+json")
