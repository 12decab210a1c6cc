"""Engines that cannot start: what the conditions say, and that everything goes on when the cause is gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.fake_kubelet import Report, Script, always_ready
from tests.integration.scene import NAME, Scene

pytestmark = pytest.mark.control_plane


def checks_references(scene: Scene) -> Script:
    """A kubelet that looks for the Secrets and ConfigMaps of a pod's environment, as the real one does."""

    def look(pod: Mapping[str, Any]) -> Report:
        for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
            for kind, plural in (("secret", "secrets"), ("configMap", "configmaps")):
                refs = [v["valueFrom"].get(f"{kind}KeyRef") for v in container["env"] if "valueFrom" in v]
                for ref in filter(None, refs):
                    if scene.read(plural, ref["name"]) is None:
                        text = f'{kind.lower()} "{ref["name"]}" not found'
                        return Report(container=container["name"], waiting=("CreateContainerConfigError", text))
        return Report(ready=True)

    return look


MISSING: dict[str, tuple[str, dict[str, Any]]] = {
    "secret": ("hub", {"cache": {"download": {"tokenSecretRef": {"name": "hub", "key": "token"}}}}),
    "api key": ("keys", {"service": {"apiKeySecretRef": {"name": "keys", "key": "api"}}}),
    "config map": (
        "flags",
        {"engine": {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "flags", "key": "a"}}}]}},
    ),
}


@pytest.mark.parametrize("what", MISSING)
def test_missing_reference_is_named_and_waited_for(running: Scene, what: str) -> None:
    name, change = MISSING[what]
    running.kubelet.script = checks_references(running)
    base = running.spec()
    running.apply(**{field: base.get(field, {}) | value for field, value in change.items()})
    running.until(lambda: running.is_condition("EngineHealthy", "False", "WaitingForReference"), "the reason", 10)
    assert f'"{name}" not found' in running.condition("EngineHealthy")["message"]
    assert running.is_condition("Ready", "False", "WaitingForReference")
    assert running.is_condition("Stalled", "False")
    running.quiet(1.0)
    kind = "configmap" if what == "config map" else "secret"
    generic = [] if kind == "configmap" else ["generic"]
    running.kubectl(
        "create", kind, *generic, name, "--from-literal=token=x", "--from-literal=api=x", "--from-literal=a=x"
    )
    running.wait_converged()
    assert running.is_condition("EngineHealthy", "True")


def test_an_engine_that_starts_slowly_is_waited_for_and_judged_by_nothing(running: Scene) -> None:
    running.kubelet.script = lambda _: Report()
    running.apply()
    running.until(lambda: running.is_condition("Ready", "False", "Starting"), "starting", 10)
    pods = running.until(lambda: {pod["metadata"]["uid"] for pod in running.all("pods")}, "pods", 10)
    running.quiet(2.0)
    assert running.is_condition("Stalled", "False")
    assert running.is_condition("Reconciling", "True")
    assert running.status()["k"]["effective"] == 4
    assert "history" not in running.status()
    running.kubelet.script = always_ready
    running.wait_converged()
    assert {pod["metadata"]["uid"] for pod in running.all("pods")} == pods
    assert running.status()["k"]["effective"] == 4


def last_words(boots: int, reason: str = "EngineFailed") -> dict[str, Any]:
    """The terminated state that the launcher leaves."""
    message = "ValueError: Free memory on device (9.1/119.7 GiB) is less than desired GPU memory utilization (0.9)"
    told = {"stage": "launch", "reason": reason, "message": message, "exitCode": 1, "boots": boots}
    when = "2026-11-22T10:00:00Z"
    return {"exitCode": 1, "reason": "Error", "message": json.dumps(told), "startedAt": when, "finishedAt": when}


def test_failing_engine_speaks_through_the_conditions(running: Scene) -> None:
    """A crash loop, counted; then the launcher parks the engine; then a new spec starts afresh."""
    running.kubelet.script = lambda _: Report(
        waiting=("CrashLoopBackOff", "back-off 10s restarting failed container=engine pod=tried_x"),
        ended=last_words(1),
        restarts=1,
    )
    running.apply()
    running.until(lambda: running.is_condition("EngineHealthy", "False", "EngineFailed"), "the failure", 10)
    message = running.condition("EngineHealthy")["message"]
    assert "ValueError: Free memory on device (9.1/119.7 GiB)" in message
    assert "restart 1 of 3" in message
    assert running.condition("Ready")["message"] == message
    assert running.is_condition("Stalled", "False")
    assert running.is_condition("Reconciling", "True")

    running.kubelet.script = lambda _: Report(ended=last_words(4), restarts=4)
    running.until(lambda: running.is_condition("Stalled", "True", "EngineFailed"), "parked", 10)
    assert "parked" in running.condition("Stalled")["message"]
    assert "ValueError" in running.condition("Stalled")["message"]
    assert running.is_condition("Reconciling", "False")
    running.quiet(1.0)

    running.kubelet.script = always_ready
    running.apply(memory={"kvCacheBytes": 1_000_000_000})
    running.wait_converged()
    assert running.is_condition("Stalled", "False")
    assert running.is_condition("EngineHealthy", "True")


KUBELET: dict[str, tuple[Report, str, str]] = {
    "image": (
        Report(waiting=("ImagePullBackOff", 'Back-off pulling image "example.org/vllm:1"')),
        "ImagePullFailed",
        "vllm:1",
    ),
    "command": (
        Report(waiting=("RunContainerError", "exec: python3: not found")),
        "ContainerFailed",
        "python3: not found",
    ),
    "memory": (
        Report(ended={"exitCode": 137, "reason": "OOMKilled"}, restarts=1, waiting=("CrashLoopBackOff", "back-off")),
        "OOMKilled",
        "restart 1 of 3",
    ),
    "log": (
        Report(
            ended={"exitCode": 2, "reason": "Error", "message": "usage: x\nerror: bad flag\n"},
            restarts=2,
            waiting=("CrashLoopBackOff", ""),
        ),
        "EngineFailed",
        "error: bad flag (exit code 2)",
    ),
}


def test_what_the_kubelet_says_is_passed_on(running: Scene) -> None:
    running.kubelet.script = lambda _: KUBELET["image"][0]
    running.apply()
    for report, reason, words in KUBELET.values():
        running.kubelet.script = lambda _: report  # noqa: B023 (until the next turn)
        running.until(lambda: running.is_condition("EngineHealthy", "False", reason), reason, 10)  # noqa: B023
        running.until(lambda: words in running.condition("EngineHealthy")["message"], words, 5)  # noqa: B023


def test_ready_engine_that_dies_is_seen_and_its_return_too(running: Scene) -> None:
    running.apply(replicas=2)
    running.wait_converged()
    victim = running.all("pods")[0]["metadata"]["name"]

    def one_dies(pod: Mapping[str, Any]) -> Report:
        if pod["metadata"]["name"] != victim:
            return Report(ready=True)
        return Report(ended=last_words(1), restarts=1, waiting=("CrashLoopBackOff", ""))

    running.kubelet.script = one_dies
    running.until(lambda: running.is_condition("EngineHealthy", "False", "EngineFailed"), "the failure", 10)
    assert running.status()["readyReplicas"] == 1
    assert running.is_condition("Ready", "False")
    running.kubelet.script = always_ready
    running.wait_converged()
    assert running.deployments() == {running.current(): 2}


def test_pods_that_the_api_server_refuses_are_explained(running: Scene) -> None:
    """A quota without room: the Deployment's controller can make no pod, and says why in its status."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    running.send("POST", running.path("resourcequotas"), quota)
    running.until(lambda: "hard" in (running.read("resourcequotas", "none").get("status") or {}), "the quota", 20)
    running.apply()
    running.until(lambda: running.is_condition("EngineHealthy", "False", "PodsRefused"), "the refusal", 20)
    assert "quota" in running.condition("EngineHealthy")["message"]
    assert NAME in running.current()
    running.send("DELETE", running.path("resourcequotas", "none"))
    running.until(running.converged, "pods", 60)
