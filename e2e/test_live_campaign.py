"""What a live engine survives: idleness, the longest prompt, a process that hangs, and the loss of its pod. Minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from demo.door import door
from demo.installation import exists
from demo.resource import condition, pod_ready
from gemmaspec.core.live import AGENT_PORT
from stories import BOOT_SECONDS, NAMESPACE, PORT, Site, status_of_agent
from testbed.deadline import wait_for
from traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1800)]

NAME = "wedged"
# kubelet's patience with a live engine: failureThreshold times periodSeconds of its liveness probe.
PROBE_SECONDS = 60.0
IDLE_SECONDS = 1.5 * PROBE_SECONDS
# After the last missed answer: preStop, the launcher's linger, and what a busy machine adds.
KILL_SECONDS = 60.0


class Wedged:
    """A live engine whose core is a process of its own, as on a GPU: its API server goes on answering /health."""

    def __init__(self, site: Site, base_url: str) -> None:
        self.site, self.base_url = site, base_url
        self.resource = site.resource(NAME)
        self.uid = self.resource.read()["metadata"]["uid"]

    def pod(self) -> dict[str, Any]:
        found = wait_for(lambda: [pod for pod in self.resource.pods() if pod_ready(pod)], "a serving pod", 60)
        return dict(found[0])

    def agent(self) -> dict[str, Any]:
        with self.site.cluster.forward(f"pod/{self.pod()['metadata']['name']}", AGENT_PORT, NAMESPACE) as port:
            return status_of_agent(port, self.uid)

    def learned(self) -> bool:
        return exists(self.site.kubectl, "-n", NAMESPACE, "configmap", f"{NAME}-learned")

    def restarts(self) -> int:
        return sum(
            int(entry["restartCount"]) for pod in self.resource.pods() for entry in pod["status"]["containerStatuses"]
        )

    def traffic(self, **more: Any) -> Traffic:
        options: dict[str, Any] = {"code_share": 1.0, "streams": 4, "max_tokens": 96} | more
        return Traffic(f"{self.base_url}/v1", model="tiny", call_seconds=300.0, **options)


@pytest.fixture(scope="module")
def wedged(site: Site) -> Iterator[Wedged]:
    processes = [{"name": "VLLM_ENABLE_V1_MULTIPROCESSING", "value": "1"}]
    control = {"actuator": "Live", "mode": "Adaptive", "kMax": 4}
    resource = site.apply(NAME, engine={"env": processes}, speculative={"control": control})
    try:
        resource.wait_settled(BOOT_SECONDS)
        with door(site.cluster, NAME, PORT, NAMESPACE) as base_url:
            yield Wedged(site, base_url)
    finally:
        resource.delete(90)


def test_neither_idleness_nor_the_longest_prompts_restart_it(wedged: Wedged) -> None:
    before = wedged.pod()["metadata"]["uid"]
    time.sleep(IDLE_SECONDS)  # nothing to poll for: the point is that time passes
    load = wedged.traffic(prompt_chars=1800, max_tokens=8)
    with load.background():
        time.sleep(PROBE_SECONDS)
    assert load.summary().ok > 10
    assert load.summary().failed == 0
    assert wedged.pod()["metadata"]["uid"] == before
    assert wedged.restarts() == 0


def test_a_stopped_engine_is_restarted_by_its_probe(wedged: Wedged) -> None:
    load = wedged.traffic()
    with load.background():
        wait_for(wedged.learned, "what it has learnt is saved", 180)
        wait_for(lambda: wedged.agent()["progress"]["unfinished"], "requests under way", 60)
        process, pod = wedged.agent()["engine"]["process"], wedged.pod()["metadata"]["name"]
        time.sleep(35)  # on its volume the agent saves every 30 s
        stop = f"import os, signal; os.kill({process}, signal.SIGSTOP)"
        stopped = time.time()
        wedged.site.kubectl("-n", NAMESPACE, "exec", pod, "-c", "engine", "--", "python3", "-c", stop)
        load.stop()
        found = wedged.resource.wait_condition("EngineHealthy", "False", PROBE_SECONDS + KILL_SECONDS)
        told = time.time() - stopped
    print(f"{told:.0f} s from the stop to the condition: {found['reason']}: {found['message']}")
    assert found["reason"] == "EngineStalled"
    assert "has not answered its liveness probe" in found["message"]
    assert "restart 1 of" in found["message"]
    hanging = [call for call in load.calls if call.start < stopped < call.start + call.duration]
    print(f"requests under way: {[(round(call.duration, 1), call.error) for call in hanging]}")
    assert hanging, "no request was under way"
    assert all(call.error and call.duration < PROBE_SECONDS + KILL_SECONDS for call in hanging)
    wedged.resource.wait_settled(BOOT_SECONDS)
    assert wedged.restarts() == 1
    assert wedged.pod()["metadata"]["name"] == pod
    assert condition(wedged.resource.read(), "EngineHealthy")["status"] == "True"
    assert wedged.agent()["state"]["restored"] == "volume"
    print(f"{time.time() - stopped:.0f} s from the stop to service")


def test_the_next_pod_goes_on_with_what_was_learnt(wedged: Wedged) -> None:
    old = wedged.pod()["metadata"]["name"]
    wedged.site.kubectl("-n", NAMESPACE, "delete", "pod", old, "--wait=false")
    wait_for(lambda: old not in {pod["metadata"]["name"] for pod in wedged.resource.pods()}, "the old pod gone", 120)
    wedged.resource.wait_settled(BOOT_SECONDS)
    wait_for(lambda: wedged.agent()["state"]["restored"] == "port", "the operator gave it what was saved", 60)
