"""What the agents say of themselves that somebody must hear of: an exception of theirs, an engine that they may not
steer, or missing CUDA graphs. And that they say nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gemmaspec.api.spec import Accelerator
from gemmaspec.core.agent import Report
from gemmaspec.core.live import AGENT_PORT
from gemmaspec.core.observation import Pod
from gemmaspec.core.resolve import Resolved

FULL = "FULL"
# Fewer decode steps than this say nothing: the first ones follow a start.
LEAST_STEPS = 500
# Share of decode steps without a full graph that is a fault of the start, and not a batch above the captured sizes:
# engines that lost their graphs had none at all (the loss was 35 % of the tokens).
MISSING_SHARE = 0.5
# Once told, it is told until the share is well below.
MENDED_SHARE = 0.4


def fallen_back(pods: Sequence[Pod], agents: Mapping[str, Sequence[Report]]) -> str:
    """Whose agent keeps K static after an exception of its own, in one sentence; empty for nobody's."""
    told = [(pod.name, report) for pod, report in _newest(pods, agents) if report.fallback]
    if not told:
        return ""
    name, report = told[0]
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return (
        f"the agent in {name}{more} keeps K static after an exception of its own, in {report.fallback}. The engine "
        "serves on; any edit of spec.speculative has it try again"
    )


def only_watching(pods: Sequence[Pod], agents: Mapping[str, Sequence[Report]]) -> str:
    """Whose agent found an engine in which it may not move K, in one sentence; empty for nobody's."""
    for pod, report in _newest(pods, agents):
        if not report.live:
            return f"the agent in {pod.name} only watches: {report.reason}"
    return ""


def silent(pods: Sequence[Pod], unheard: Collection[str], agents: Mapping[str, Sequence[Report]], told: bool) -> str:
    """Whose agent does not answer the operator, in one sentence; empty for nobody's.

    unheard: uids of pods whose agents have not answered for long. told: whether the status says so already; an operator
    that has just started takes its predecessor's word until it has asked itself.
    """
    serving = sorted((pod for pod in pods if pod.live and pod.ready), key=lambda pod: pod.name)
    for pod in serving:
        if pod.uid in unheard or (told and not agents.get(pod.uid)):
            return (
                f"the agent in {pod.name} does not answer the operator on port {AGENT_PORT}: look for a NetworkPolicy, "
                "another key of the operator than at the pod's start, and the agent's words in the engine's log. The "
                "engine serves on with the K that it has, and edits of K do not reach it; a new pod has a new agent"
            )
    return ""


def graphs_missing(resolved: Resolved, pods: Sequence[Pod], agents: Mapping[str, Sequence[Report]], told: bool) -> str:
    """Whose decode steps run without full CUDA graphs though they should, in one sentence; empty for nobody's.

    told: whether the status says so already.
    """
    scheduling = resolved.spec.engine.scheduling if resolved.spec.engine else None
    if resolved.accelerator is Accelerator.CPU or (scheduling and scheduling.enforce_eager):
        return ""
    for pod, report in _newest(pods, agents):
        steps = sum(report.graphs.values())
        lost = {mode: count for mode, count in report.graphs.items() if mode != FULL}
        if steps >= LEAST_STEPS and sum(lost.values()) > (MENDED_SHARE if told else MISSING_SHARE) * steps:
            mode = max(sorted(lost), key=lambda mode: lost[mode])
            return (
                f"most decode steps of {pod.name} run in CUDA graph mode {mode} instead of {FULL}, which costs up to a "
                "third of the tokens: look for the reason in the engine's log (compilation, attention backend, "
                "VLLM_USE_V2_MODEL_RUNNER), or set spec.engine.scheduling.enforceEager if it is meant"
            )
    return ""


def _newest(pods: Sequence[Pod], agents: Mapping[str, Sequence[Report]]) -> list[tuple[Pod, Report]]:
    serving = sorted((pod for pod in pods if pod.live and pod.ready), key=lambda pod: pod.name)
    return [(pod, agents[pod.uid][-1]) for pod in serving if agents.get(pod.uid)]
