"""What a live engine survives: an exception in the agent, a process that hangs, the loss of its pod, and that neither
idleness nor the longest prompts are taken for a hang. Minutes.
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from demo.door import door
from demo.installation import exists
from demo.resource import condition, pod_ready
from gemmaspec.core.live import AGENT_PORT
from stories import BOOT_SECONDS, NAMESPACE, PORT, Site, status_of_agent
from testbed.deadline import wait_for
from testbed.engine import ensure_engine
from traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1800)]

NAME = "wedged"
# kubelet's patience with a live engine: failureThreshold times periodSeconds of its liveness probe.
PROBE_SECONDS = 60.0
IDLE_SECONDS = 1.5 * PROBE_SECONDS
# After the last missed answer: preStop, the launcher's linger, and what a busy machine adds.
KILL_SECONDS = 60.0

# The module that is patched into the engine: vLLM's own, read where the tests run, and these lines.
MODULE = "vllm.v1.core.sched.async_scheduler"
FAULT = """

def _fault_on_demand():
    import os

    from gemmaspec_engine.policy.adaptive import Adaptive

    original = Adaptive.choose

    def choose(self, *args, **kwargs):
        if os.path.exists("/tmp/fault"):
            raise ArithmeticError("injected")
        return original(self, *args, **kwargs)

    Adaptive.choose = choose


_fault_on_demand()
"""


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

    def python(self, code: str) -> None:
        """Run it in the engine's container."""
        name = self.pod()["metadata"]["name"]
        self.site.kubectl("-n", NAMESPACE, "exec", name, "-c", "engine", "--", "python3", "-c", code)

    def spoken(self) -> str:
        """Why SpeculationHealthy is what it is."""
        return str(condition(self.resource.read(), "SpeculationHealthy").get("reason"))

    def restarts(self) -> int:
        return sum(
            int(entry["restartCount"]) for pod in self.resource.pods() for entry in pod["status"]["containerStatuses"]
        )

    def traffic(self, **more: Any) -> Traffic:
        options: dict[str, Any] = {"code_share": 1.0, "streams": 4, "max_tokens": 96} | more
        return Traffic(f"{self.base_url}/v1", model="tiny", call_seconds=300.0, **options)


def fault(site: Site) -> dict[str, Any]:
    """The patch that makes the agent's policy raise while a file is there."""
    (module,) = ensure_engine().glob(f"lib/python3*/site-packages/{MODULE.replace('.', '/')}.py")
    text = module.read_text() + FAULT
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fault"}, "data": {"it": text}}
    site.kubectl.apply(json.dumps(body), "-n", NAMESPACE)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"module": MODULE, "sha256": digest, "source": {"configMap": {"name": "fault", "key": "it"}}}


@pytest.fixture(scope="module")
def wedged(site: Site) -> Iterator[Wedged]:
    processes = [{"name": "VLLM_ENABLE_V1_MULTIPROCESSING", "value": "1"}]
    control = {"actuator": "Live", "mode": "Adaptive", "kMax": 4}
    resource = site.apply(NAME, engine={"env": processes, "patches": [fault(site)]}, speculative={"control": control})
    try:
        resource.wait_settled(BOOT_SECONDS)
        with door(site.cluster, NAME, PORT, NAMESPACE) as base_url:
            yield Wedged(site, base_url)
    finally:
        resource.delete(90)


def test_an_exception_in_the_agent_is_told_and_harms_no_request(wedged: Wedged) -> None:
    load = wedged.traffic()
    operator = wedged.site.operator
    with load.background():
        wait_for(lambda: load.rate() > 0, "tokens", 60)
        wedged.python("open('/tmp/fault', 'w').close()")
        wait_for(lambda: wedged.spoken() == "AgentFailed", "the condition", 60)
        assert "choose: ArithmeticError: injected" in condition(wedged.resource.read(), "SpeculationHealthy")["message"]
        told = wedged.agent()
        assert told["exceptions"] == {"choose": 1}
        assert told["k"]["now"] == told["k"]["static"] == 4
        with wedged.site.cluster.forward(f"deployment/{operator.deployment}", 8080, operator.namespace) as port:
            url = f"http://127.0.0.1:{port}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        (shown,) = [line for line in lines if line.startswith("gemmaspec_agents_fallen_back{") and NAME in line]
        assert shown.endswith(" 1.0")
        wedged.python("import os; os.remove('/tmp/fault')")
        patch = json.dumps({"spec": {"speculative": {"k": 3}}})
        wedged.site.kubectl("-n", NAMESPACE, "patch", "gsd", NAME, "--type=merge", "-p", patch)
        wait_for(lambda: wedged.spoken() != "AgentFailed", "the end of it", 60)
        again = wedged.agent()
        assert again["k"]["fallback"] is None
        assert again["k"]["k"] == 3
        wait_for(lambda: load.summary().ok > 10, "requests answered under all of it", 120)
    assert load.summary().failed == 0
    assert wedged.restarts() == 0


def test_a_stopped_engine_is_restarted_by_its_probe(wedged: Wedged) -> None:
    load = wedged.traffic()
    with load.background():
        wait_for(wedged.learned, "what it has learnt is saved", 180)
        wait_for(lambda: wedged.agent()["progress"]["unfinished"], "requests under way", 60)
        process, pod = wedged.agent()["engine"]["process"], wedged.pod()["metadata"]["name"]
        time.sleep(35)  # on its volume the agent saves every 30 s
        wait_for(lambda: load.under_way == load.streams, "every stream's request under way", 60)
        asked = time.time()
        wedged.python(f"import os, signal; os.kill({process}, signal.SIGSTOP)")
        stopped, waiting = time.time(), load.under_way
        load.stop()
        found = wedged.resource.wait_condition("EngineHealthy", "False", PROBE_SECONDS + KILL_SECONDS)
        told = time.time() - stopped
    print(f"{told:.0f} s from the stop to the condition: {found['reason']}: {found['message']}")
    assert found["reason"] == "EngineStalled"
    assert "has not answered its liveness probe" in found["message"]
    assert "restart 1 of" in found["message"]
    last = [(round(c.start - stopped, 1), round(c.duration, 1), c.error) for c in load.calls if c.start > asked - 20]
    print(f"{waiting} requests under way {stopped - asked:.1f} s after it was asked for; start, seconds, end: {last}")
    # Whoever was under way when the process stopped waits until it is killed.
    hanging = [call for call in load.calls if call.start + call.duration > stopped + 5]
    assert len(hanging) == waiting == load.streams, last
    assert all(call.error and call.duration < PROBE_SECONDS + KILL_SECONDS for call in hanging), last
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


def test_neither_idleness_nor_the_longest_prompts_restart_it(wedged: Wedged) -> None:
    before, restarts = wedged.pod()["metadata"]["uid"], wedged.restarts()
    time.sleep(IDLE_SECONDS)  # nothing to poll for: the point is that time passes
    load = wedged.traffic(prompt_chars=1800, max_tokens=8)
    with load.background():
        time.sleep(PROBE_SECONDS)
        wait_for(lambda: load.summary().ok > 10, "answers", 120)
    assert load.summary().failed == 0
    assert wedged.pod()["metadata"]["uid"] == before
    assert wedged.restarts() == restarts
