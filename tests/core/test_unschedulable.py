"""What the scheduler and the API server say about a pod, and what the user is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmaspec.core.health import health
from gemmaspec.core.observation import Child, Pod
from gemmaspec.core.unschedulable import explain, explain_refusal

NOT_SELECTED = "node(s) didn't match Pod's node affinity/selector"
PREEMPTION = " no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful."
POD = Pod(
    name="a", uid="u", revision="r", k=4, ip=None, node=None, phase="Pending", ready=False, terminating=False,
    running=False, restarts=0,
)  # fmt: skip


@pytest.mark.parametrize(
    "reasons",
    [
        f"3 {NOT_SELECTED}",
        f"1 node(s) were unschedulable, 2 {NOT_SELECTED}",
        "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 " + NOT_SELECTED,
    ],
)
def test_only_the_label_is_missing(reasons: str) -> None:
    reason, message = explain(f"0/3 nodes are available: {reasons}.{PREEMPTION}", by_label=True)
    assert reason == "NodesUnlabelled"
    assert f"0/3 nodes are available: {reasons}. `kubectl" in message
    assert "preemption" not in message
    assert "kubectl label node NODE nvidia.com/gpu.product=NVIDIA-GB10" in message


@pytest.mark.parametrize(
    ("reasons", "remedies"),
    [
        (f"1 Insufficient memory, 2 {NOT_SELECTED}", ["memory.utilization", "gpu.product"]),
        ("1 Insufficient memory, 2 Insufficient nvidia.com/gpu", ["memory.utilization", "device plug-in"]),
        # The tainted node may well be a labelled box: the scheduler looks no further.
        (f"1 node(s) had untolerated taint(s), 2 {NOT_SELECTED}", ["spec.nodes.tolerations", "gpu.product"]),
        ("1 node(s) had untolerated taint {nvidia.com/gpu: present}", ["spec.nodes.tolerations"]),
        ("3 node(s) were unschedulable", []),
        ('persistentvolumeclaim "gemma4-weights" not found', []),
    ],
)
def test_something_else_is_missing(reasons: str, remedies: list[str]) -> None:
    reason, message = explain(f"0/3 nodes are available: {reasons}.{PREEMPTION}", by_label=True)
    assert reason == "Unschedulable"
    first, *rest = message.split("; ")
    assert first == f"no node takes the engine: 0/3 nodes are available: {reasons}"
    assert bool(rest) == bool(remedies)
    assert all(remedy in message for remedy in remedies)


def test_with_a_selector_labels_of_gb10_are_not_spoken_of() -> None:
    reason, message = explain(f"0/1 nodes are available: 1 {NOT_SELECTED}.", by_label=False)
    assert (reason, message) == (
        "Unschedulable",
        f"no node takes the engine: 0/1 nodes are available: 1 {NOT_SELECTED}",
    )


@pytest.mark.parametrize("said", ["", "0/0 nodes are available", "no nodes available to schedule pods", "x: y. z"])
def test_other_words_of_a_scheduler_are_passed_on(said: str) -> None:
    reason, message = explain(said, by_label=True)
    assert reason == "Unschedulable"
    assert message.startswith("no node takes the engine: " + said.partition(". ")[0])


def test_health_speaks_of_labels_only_under_the_affinity() -> None:
    pod = replace(POD, unschedulable=f"0/1 nodes are available: 1 {NOT_SELECTED}.")
    assert health([pod], 1, 3, by_label=True).reason == "NodesUnlabelled"
    assert health([pod], 1, 3).reason == "Unschedulable"


def child(message: str) -> Child:
    conditions = [{"type": "Progressing", "message": "x"}, {"type": "ReplicaFailure", "message": message}]
    return Child("Deployment", "d", "u", "1", "o", {"status": {"conditions": conditions}})


def test_refused_pod_is_told_without_the_name_that_changes_at_each_try() -> None:
    first = child('pods "a-xk2v9" is forbidden: exceeded quota: gpus').refused
    assert first == child('pods "a-77qwd" is forbidden: exceeded quota: gpus').refused == "exceeded quota: gpus"
    assert child("something else\n").refused == "something else"
    assert Child("Deployment", "d", "u", "1", "o", {}).refused == ""


def test_refusal_counts_only_while_pods_are_missing() -> None:
    said = 'pod rejected: RuntimeClass "nvidia" not found'
    told = health([], 1, 3, refused=said)
    assert (told.status, told.reason, told.parked) == ("False", "PodsRefused", False)
    assert told.message == explain_refusal(said)
    assert told.message.endswith("name another in spec.nodes.runtimeClassName ('' for none)")
    assert explain_refusal("exceeded quota: gpus") == "the API server takes no pod: exceeded quota: gpus"
    assert health([POD], 1, 3, refused=said).reason == "Starting"
    assert health([], 0, 3, refused=said).reason == "ScaledToZero"
