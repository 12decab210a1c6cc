"""Why an engine has no place, read from what others say of it: the operator itself may not list nodes."""

from __future__ import annotations

import re

# The scheduler's words (kubernetes pkg/scheduler/framework/plugins, NodeAffinity, TaintToleration,
# NodeUnschedulable; NodeResourcesFit writes `Insufficient <resource>`).
_NOT_SELECTED = "didn't match Pod's node affinity/selector"
_TAINTED = "untolerated taint"
_CORDONED = "were unschedulable"
# Kubernetes' own taint of control planes, which schedulers before 1.35 name: such a node is no box.
_CONTROL_PLANE = "{node-role.kubernetes.io/"

_REMEDIES = {
    _TAINTED: "a tainted node is used with spec.nodes.tolerations",
    "Insufficient memory": "the request is memory.utilization of a box's memory; lower it, or make room",
    "Insufficient nvidia.com/gpu": "every engine takes one nvidia.com/gpu, which the device plug-in must offer",
    _NOT_SELECTED: "GB10 boxes are known by their label nvidia.com/gpu.product, see "
    "`kubectl get nodes -L nvidia.com/gpu.product`, or by spec.nodes.selector",
}
_UNLABELLED = (
    "`kubectl get nodes -L nvidia.com/gpu.product` shows the label. Without GPU feature discovery set it: "
    "`kubectl label node NODE nvidia.com/gpu.product=NVIDIA-GB10`; or name labels of your boxes in spec.nodes.selector"
)


def explain(said: str, by_label: bool) -> tuple[str, str]:
    """Reason and message for a pod of which the scheduler has ``said`` that no node takes it.

    by_label: whether the GB10 affinity is in force. `NodesUnlabelled` is said only where nothing but that label
    can be missing; a tainted node might be a labelled box, so both ways out are told then.
    """
    words = " ".join(said.split())
    # Behind the first sentence come remarks about preemption and resource claims, which repeat the counts.
    told = re.sub(r"(?<=: )(.+?)\. .*$", r"\1", words).rstrip(".")
    reasons = re.findall(r"\d+ (.+?)(?=, \d+ |$)", told.partition(": ")[2])
    if by_label and _only_the_label(reasons):
        return "NodesUnlabelled", f"no node is labelled as a GB10 box: {told}. {_UNLABELLED}"
    ways = [way for mark, way in _REMEDIES.items() if any(mark in reason for reason in reasons)]
    if not by_label and _REMEDIES[_NOT_SELECTED] in ways:
        ways.remove(_REMEDIES[_NOT_SELECTED])
    return "Unschedulable", "; ".join([f"no node takes the engine: {told}", *ways])


def explain_refusal(said: str) -> str:
    """Message where the API server ``said`` why it takes no pod: an admission plug-in, a quota."""
    missing = said.startswith("pod rejected: RuntimeClass") and said.endswith("not found")
    remedy = "; install it, or name another in spec.nodes.runtimeClassName ('' for none)" if missing else ""
    return f"the API server takes no pod: {said}{remedy}"


def _only_the_label(reasons: list[str]) -> bool:
    others = [reason for reason in reasons if _NOT_SELECTED not in reason]
    return len(others) < len(reasons) and all(_CORDONED in other or _CONTROL_PLANE in other for other in others)
