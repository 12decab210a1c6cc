"""The agent's figures in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gemmaspec_engine import memory

if TYPE_CHECKING:
    from gemmaspec_engine.agent.host import Agent

__all__ = ["render"]

_PREFIX = "gemmaspec_agent_"
_Samples = Iterable[tuple[str, float]]


class _Text:
    """Collects metric families."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, kind: str, meaning: str, samples: _Samples) -> None:
        """One family; a sample is its labels (`k="2"`, or nothing) and its value."""
        full = _PREFIX + name
        self.lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}"]
        self.lines += [
            f"{full}{{{labels}}} {value:.10g}" if labels else f"{full} {value:.10g}" for labels, value in samples
        ]


def render(agent: Agent) -> str:
    """Everything, as one exposition."""
    text = _Text()
    _decisions(text, agent)
    _acceptance(text, agent)
    _steps(text, agent)
    _health(text, agent)
    _memory(text)
    return "\n".join(text.lines) + "\n"


def _decisions(text: _Text, agent: Agent) -> None:
    controller = agent.controller
    mode = controller.settings_json()["mode"]
    text.family("live", "gauge", "1 when the agent moves K, 0 when it only watches", [("", not agent.engine.refusal)])
    text.family("k", "gauge", "K of the last scheduled step", [(f'mode="{mode}"', controller.k)])
    held = controller.settings_json()
    holds = [("", float(held["static"]))] if held["untilSeconds"] else []
    text.family("held_k", "gauge", "K of settings that end by themselves; absent while none do", holds)
    text.family("k_changed_timestamp_seconds", "gauge", "When K last changed, Unix time", [("", controller.since)])
    decided = [(f'k="{k}"', float(n)) for k, n in sorted(controller.decisions.items())]
    text.family("decisions_total", "counter", "Steps scheduled at each K", decided)
    text.family("k_changes_total", "counter", "Changes of K", [("", controller.changes)])
    text.family("fallback", "gauge", "1 when an exception made K static", [("", controller.fault is not None)])
    faults = [(f'where="{where}"', float(n)) for where, n in sorted(controller.exceptions.items())]
    text.family("exceptions_total", "counter", "Exceptions in the agent's own code", faults or [("", 0.0)])


def _acceptance(text: _Text, agent: Agent) -> None:
    tally = agent.tally
    for name, meaning, counts in (
        ("drafted_total", "Drafts whose predecessor was accepted", tally.drafted),
        ("accepted_total", "Drafts accepted", tally.accepted),
    ):
        samples = [(f'position="{i}"', float(n)) for i, n in enumerate(counts)]
        text.family(name, "counter", f"{meaning}, by position", samples)
    recent = [(f'position="{i}"', rate) for i, rate in enumerate(tally.acceptance()) if rate is not None]
    meaning = "Recent conditional acceptance P(accepted | predecessor accepted), by position"
    text.family("acceptance_ratio", "gauge", meaning, recent)


def _steps(text: _Text, agent: Agent) -> None:
    per_k = sorted(agent.tally.per_k.items())
    goodput = [(f'k="{k}"', steps.goodput()) for k, steps in per_k if steps.timed]
    text.family("goodput_tokens_per_second", "gauge", "Recent tokens per second of decode steps at each K", goodput)
    totals = [(f'k="{k}"', float(steps.steps)) for k, steps in per_k]
    text.family("decode_steps_total", "counter", "Decode steps that verified each K", totals)
    requests = [(f'k="{k}"', float(steps.requests)) for k, steps in per_k]
    text.family("decode_requests_total", "counter", "Requests in those steps, summed over them", requests)
    tokens = [(f'k="{k}"', float(steps.tokens)) for k, steps in per_k]
    text.family("decode_tokens_total", "counter", "Tokens of those steps", tokens)
    name = _PREFIX + "step_seconds"
    text.lines += [f"# HELP {name} Length of timed decode steps at each K", f"# TYPE {name} summary"]
    for k, steps in per_k:
        text.lines += [f'{name}_sum{{k="{k}"}} {steps.timed_ms / 1000:.10g}', f'{name}_count{{k="{k}"}} {steps.timed}']
    graphs = [(f'mode="{mode}"', float(n)) for mode, n in sorted(agent.graphs().items())]
    text.family("cudagraph_steps_total", "counter", "Decode steps by CUDA-graph mode", graphs)


def _health(text: _Text, agent: Agent) -> None:
    _, figures = agent.livez()
    text.family("stalled_seconds", "gauge", "Since the last token", [("", figures.get("stalledSeconds", 0.0))])
    text.family("stall_limit_seconds", "gauge", "Liveness limit", [("", figures.get("limitSeconds", 0.0))])
    quantiles = agent.overhead.quantiles()
    overhead = [
        (f'quantile="{q}"', quantiles[name] / 1e6)
        for q, name in (("0.5", "wallP50Us"), ("0.99", "wallP99Us"))
        if name in quantiles
    ]
    name = _PREFIX + "overhead_seconds"
    held = [
        ('quantile="0.5"', quantiles.get("heldWallP50Us", 0.0) / 1e6),
        ('quantile="0.99"', quantiles.get("heldWallP99Us", 0.0) / 1e6),
    ]
    text.family(
        "held_seconds", "summary", "Of the overhead, between two steps: the rest is beside the device's work", held
    )
    text.family("overhead_seconds", "summary", "The agent's own time in each step", overhead)
    text.lines += [f"{name}_sum {agent.overhead.wall_ns / 1e9:.10g}", f"{name}_count {agent.overhead.count}"]


def _memory(text: _Text) -> None:
    """The box's own memory: on a GB10 it is the GPU's as well, and a box that runs out of it does not come back."""
    try:
        found = memory.read()
    except (OSError, ValueError):
        return
    text.family("memory_available_bytes", "gauge", "The node's MemAvailable", [("", float(found.available))])
    text.family("memory_total_bytes", "gauge", "The node's MemTotal", [("", float(found.total))])
