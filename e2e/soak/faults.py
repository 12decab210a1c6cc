"""The faults of a soak, on a running site: engines and operator killed, the API server away, a box emptied."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from demo.resource import Resource, pod_ready
from soak.accounts import Kill
from stories import Site, kill_operator
from testbed.deadline import wait_for
from testbed.kubectl import KubectlError
from testbed.machine import MachineError

API_AWAY_SECONDS: Final = 12.0
_RECOVERY_SECONDS: Final = 600.0
_CALM_SECONDS: Final = 5.0


@dataclass
class Done:
    """A fault that was done. at: Unix time. recovered: seconds until everything served and stood as before."""

    kind: str
    at: float
    what: str
    recovered: float = 0.0


@dataclass
class Faults:
    """Does faults one at a time, and waits after each until everything is as before.

    kills: of engines. drained: engine pods that a drain asked to go.
    """

    site: Site
    resource: Resource
    engines: int
    done: list[Done] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    drained: int = 0

    @property
    def kinds(self) -> dict[str, Callable[[int], str]]:
        """Each takes a number that was drawn, and returns in words what it did."""
        return {
            "engine killed": self._kill_engine,
            "operator killed": self._kill_operator,
            "API server stopped": self._stop_api,
            "API server killed": self._kill_api,
            "box emptied": self._drain,
        }

    def strike(self, kind: str, number: int) -> Done:
        """Do it and wait for the recovery. Raises TimeoutError when it does not come."""
        done = Done(kind, time.time(), "")
        begun = time.monotonic()
        done.what = self.kinds[kind](number)
        self.done.append(done)
        self.recovered()
        done.recovered = time.monotonic() - begun
        return done

    def recovered(self) -> None:
        """Wait until all engines serve, the operator is ready, and the resource says so for some seconds."""
        since: list[float] = []

        def calm() -> bool:
            if not self._well():
                since.clear()
            elif not since:
                since.append(time.monotonic())
            return bool(since) and time.monotonic() - since[0] >= _CALM_SECONDS

        wait_for(calm, "everything as before the fault", _RECOVERY_SECONDS, every=1.0, fail=self._story)

    def _well(self) -> bool:
        try:
            body = self.resource.read()
            operators = self._operators()
            pods = self.resource.pods()
        except (KubectlError, subprocess.TimeoutExpired):
            return False
        conditions = {entry["type"]: entry["status"] for entry in body.get("status", {}).get("conditions", ())}
        return (
            len(pods) == self.engines
            and all(map(pod_ready, pods))
            and len(operators) == 1
            and pod_ready(operators[0])
            and body.get("status", {}).get("readyReplicas") == self.engines
            and (conditions.get("Ready"), conditions.get("Reconciling")) == ("True", "False")
        )

    def _story(self) -> str:
        with suppress(KubectlError, subprocess.TimeoutExpired):
            return self.resource.kubectl("get", "gsd,pods", "-o", "wide")
        return "the API server does not answer"

    def _operators(self) -> list[dict[str, Any]]:
        operator = self.site.operator
        return list(self.site.kubectl.json("get", "pods", "-n", operator.namespace, "-l", operator.selector)["items"])

    def _kill_engine(self, number: int) -> str:
        pods = self.resource.pods()
        pod = pods[number % len(pods)]
        (container,) = [e for e in pod["status"]["containerStatuses"] if e["name"] == "engine"]
        task = str(container["containerID"]).removeprefix("containerd://")
        node = pod["spec"]["nodeName"]
        asked = time.time()
        self.site.own.run_on_node(node, ["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", task])
        self.kills.append(Kill(asked, time.time()))
        self._until_restarted(pod, container["restartCount"])
        return f"SIGKILL to the engine on {node}"

    def _until_restarted(self, pod: dict[str, Any], before: int) -> None:
        """Until the kubelet has noticed: the status still tells of the engine that was."""

        def restarted() -> bool:
            with suppress(KubectlError, subprocess.TimeoutExpired):
                found = [one for one in self.resource.pods() if one["metadata"]["uid"] == pod["metadata"]["uid"]]
                entries = [e for one in found for e in one["status"]["containerStatuses"]]
                return any(e["restartCount"] > before or not e["ready"] for e in entries)
            return False

        wait_for(restarted, "the kubelet's word of the kill", 60, every=0.2)

    def _kill_operator(self, _: int) -> str:
        (before,) = self._operators()
        restarts = _restarts(before)
        kill_operator(self.site)

        def again() -> bool:
            with suppress(KubectlError, subprocess.TimeoutExpired):
                return any(_restarts(pod) > restarts for pod in self._operators())
            return False

        wait_for(again, "the operator's container started again", 120, every=0.5)
        return f"SIGKILL to the operator on {before['spec']['nodeName']}"

    def _stop_api(self, _: int) -> str:
        control = self.site.own.control
        control.run(["pkill", "-STOP", "-x", "kube-apiserver"])
        try:
            time.sleep(API_AWAY_SECONDS)
        finally:
            control.run(["pkill", "-CONT", "-x", "kube-apiserver"])
        return f"SIGSTOP for {API_AWAY_SECONDS:.0f} s"

    def _kill_api(self, _: int) -> str:
        cluster = self.site.own
        cluster.control.kill("apiserver")
        time.sleep(API_AWAY_SECONDS / 2)
        cluster.control.start_api_alone(cluster.secrets)
        wait_for(cluster.healthy, "the API server again", 90, every=0.5)
        return f"SIGKILL, and started again after {API_AWAY_SECONDS / 2:.0f} s"

    def _drain(self, number: int) -> str:
        """As an administrator does, and open again when the engine has left."""
        nodes = sorted({pod["spec"]["nodeName"] for pod in self.resource.pods()})
        node = nodes[number % len(nodes)]
        self.drained += sum(pod["spec"]["nodeName"] == node for pod in self.resource.pods())
        flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=300s")
        try:
            self.site.kubectl("drain", node, *flags, timeout=310)
        finally:
            self.site.kubectl("uncordon", node)
        return f"kubectl drain {node}, and uncordon"

    def operators_node(self) -> str:
        """Where the operator runs; empty when nobody knows."""
        with suppress(KubectlError, MachineError, subprocess.TimeoutExpired):
            return str(self._operators()[0]["spec"].get("nodeName", ""))
        return ""


def _restarts(pod: dict[str, Any]) -> int:
    return sum(int(entry["restartCount"]) for entry in pod["status"].get("containerStatuses", ()))
