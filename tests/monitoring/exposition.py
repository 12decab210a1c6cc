"""What operator, agent and engine tell Prometheus, with every family filled: for promtool and for the dashboard."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.observation import Proof
from gemmaspec.core.reconcile import Reading
from gemmaspec.runtime import metrics
from gemmaspec_engine.agent.host import Agent, Engine
from gemmaspec_engine.agent.settings import Config
from tests.runtime.test_board import KEY, NOW, board, entry, pod, sample, status

VLLM = Path(__file__).parents[1] / "data" / "metrics-vllm-0.32.txt"


def of_operator() -> str:
    """A resource with traffic, and the operator's own."""
    registry = CollectorRegistry()
    said = Report(NOW, True, "", 2, Wanted("Adaptive", 2, 0, 2), (), 0, {})
    shown = board([sample(-20, 100, 50, 20), sample(-10, 200, 130, 60)], reports=[said])
    body = status(history=[entry(1, 4, 2)]) | {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving"}],
        "lastGoodRevision": "r1",
    }
    proof = Proof(True, "Proved", "")
    shown.put(KEY, body, [pod(proof=proof)], Reading("Rollback", 1, {0: 50.0, 1: 60.0, 2: 70.0}))
    metrics.show(shown, registry)
    for collector in metrics.OWN:
        metrics.show(collector, registry)
    return generate_latest(registry).decode()


def of_agent() -> str:
    """An agent after some steps."""
    engine = Engine("0.32.0", (0, 1, 2, 4), 4, 8, 2048, asynchronous=True, runner="V2")
    agent = Agent(engine, Config(port=None))
    for k in (1, 4):
        agent.tally.step(2, k, 4, 12.0)
        agent.tally.drafts_of(k, [1, 1], ("a", "b"))
    agent.tally.graph("FULL")
    agent.controller.choose(1, ("a",))
    agent.overhead.add(1000, 2000)
    return agent.metrics()


def of_vllm() -> str:
    """Recorded from vLLM 0.32."""
    return VLLM.read_text()
