"""Engines land on GB10 boxes and on nothing else: real scheduler, real admission, nodes that KWOK plays."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import ControlPlane
from testbed.api import Api
from testbed.deadline import wait_for
from testbed.kwok import GPU_PRODUCT, Box, Kwok, gb10
from testbed.pki import ADMINISTRATORS
from tests.integration.boxes import NO_RUNTIME_CLASS, Boxes
from tests.integration.operator_process import OperatorProcess

# A first run builds Kubernetes and KWOK.
pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(1800)]

PRODUCT = {GPU_PRODUCT: "NVIDIA-GB10"}
SERVED = "/apis/gemmaspec.io/v1alpha1/gemmaspecdeploys"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def fleet(crd_file: Path) -> Iterator[ControlPlane]:
    """A control plane with a scheduler."""
    with ControlPlane(controllers=True, scheduler=True) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(crd_file))
        wait_for(lambda: Api(plane.kubeconfig).ready(SERVED), "the served definition", 30)
        yield plane


@pytest.fixture(scope="module")
def kwok(fleet: ControlPlane) -> Kwok:
    return Kwok(fleet)


@pytest.fixture(scope="module")
def operator(fleet: ControlPlane, operator_sources: Path) -> Iterator[OperatorProcess]:
    kubeconfig = fleet.kubeconfig_for("operator", [ADMINISTRATORS])
    process = OperatorProcess(fleet, operator_sources, "operator", kubeconfig, {})
    process.start()
    yield process
    process.kill()


@pytest.fixture
def boxes(fleet: ControlPlane, kwok: Kwok, operator: OperatorProcess) -> Iterator[Boxes]:
    found = Boxes(fleet, kwok, operator, f"boxes-{next(_numbers)}")
    yield found
    found.clear()


def wrong_boxes() -> list[Box]:
    """Nodes that each lack one thing of a GB10 box."""
    return [
        gb10("other-arch", arch="amd64"),
        gb10("other-gpu", labels={GPU_PRODUCT: "NVIDIA-GH200-480GB"}),
        gb10("no-plug-in", gpus=0),
        gb10("small", memory_gib=96),
        Box("no-gpu", gpus=0),
        Box("no-label"),
        gb10("tainted", taints=[{"key": "site", "value": "closed", "effect": "NoSchedule"}]),
    ]


def test_engines_take_gb10_boxes_and_no_others(boxes: Boxes) -> None:
    boxes.add(*wrong_boxes(), gb10("spark-a"), gb10("spark-b", shared=2), gb10("busy"))
    boxes.occupy("busy", "30Gi")
    boxes.apply("first")
    boxes.apply("second")
    boxes.wait_placed("first")
    boxes.wait_placed("second")
    assert boxes.places() == ["spark-a", "spark-b"]
    boxes.apply("third")
    said = boxes.wait_reason("third", "Unschedulable", "0/10 nodes are available")
    assert "Insufficient memory" in said
    assert "lower it, or make room" in said
    assert boxes.condition("third", "Ready")["reason"] == "Unschedulable"
    assert boxes.places("third") == []


@pytest.mark.parametrize("box", wrong_boxes(), ids=lambda box: box.name)
def test_wrong_box_alone_is_not_taken(boxes: Boxes, box: Box) -> None:
    boxes.add(box)
    boxes.apply("engine")
    unlabelled = box.name in ("other-arch", "other-gpu", "no-gpu", "no-label")
    said = boxes.wait_reason("engine", "NodesUnlabelled" if unlabelled else "Unschedulable", "0/1 nodes")
    remedies = {
        "no-plug-in": "device plug-in must offer",
        "small": "lower it, or make room",
        "tainted": "spec.nodes.tolerations",
    }
    assert remedies.get(box.name, "spec.nodes.selector") in said
    assert boxes.places() == []


def test_memory_decides_what_shares_a_box(boxes: Boxes) -> None:
    """Time-slicing would let both in; what they plan to take of the one memory does not fit together."""
    boxes.add(gb10("spark", shared=2))
    boxes.apply("large", utilization=0.85)
    boxes.wait_placed("large")
    boxes.apply("medium", utilization=0.55)
    boxes.wait_reason("medium", "Unschedulable", "Insufficient memory")
    boxes.apply("large", utilization=0.4)
    boxes.apply("medium", utilization=0.4)
    both = [("large", "49848Mi", "spark"), ("medium", "49848Mi", "spark")]  # 0.4 of 121.7 GiB each
    wait_for(lambda: sorted(request_of(pod) for pod in boxes.pods()) == both, "two engines on the box", 20)


def request_of(pod: dict[str, Any]) -> tuple[str, str, str]:
    """Resource, memory request and node of an engine pod."""
    memory = pod["spec"]["containers"][0]["resources"]["requests"]["memory"]
    return pod["metadata"]["labels"]["gemmaspec.io/deploy"], memory, pod["spec"].get("nodeName", "")


def test_unlabelled_boxes_are_told_apart_and_the_told_command_cures_them(boxes: Boxes) -> None:
    boxes.add(Box("bare-a"), Box("bare-b"))
    boxes.apply("engine")
    said = boxes.wait_reason("engine", "NodesUnlabelled")
    assert "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector" in said
    assert boxes.condition("engine", "Ready")["message"] == said
    commands = [part for part in said.split("`") if part.startswith("kubectl ")]
    assert [command.split()[1] for command in commands] == ["get", "label"]
    for command in commands:
        boxes.plane.kubectl(*shlex.split(command.replace("NODE", "bare-b"))[1:])
    assert boxes.wait_placed("engine") == ["bare-b"]
    wait_for(lambda: boxes.condition("engine", "EngineHealthy")["reason"] == "Starting", "the cure's effect", 10)


def test_selector_replaces_the_affinity(boxes: Boxes) -> None:
    boxes.add(gb10("spark"), Box("bare", labels={"site": "lab"}), gb10("labelled", labels={"site": "desk"}))
    boxes.apply("engine", NO_RUNTIME_CLASS | {"selector": {"site": "lab"}})
    assert boxes.wait_placed("engine") == ["bare"]
    (pod,) = boxes.pods("engine")
    assert "nodeAffinity" not in pod["spec"].get("affinity", {})
    boxes.apply("nowhere", NO_RUNTIME_CLASS | {"selector": {"site": "attic"}})
    said = boxes.wait_reason("nowhere", "Unschedulable", "didn't match Pod's node affinity/selector")
    assert "nvidia.com/gpu.product" not in said


def test_toleration_opens_a_tainted_box(boxes: Boxes) -> None:
    boxes.add(gb10("spark", taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]))
    boxes.apply("engine")
    boxes.wait_reason("engine", "Unschedulable", "spec.nodes.tolerations")
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    boxes.apply("engine", NO_RUNTIME_CLASS | {"tolerations": [toleration]})
    assert boxes.wait_placed("engine") == ["spark"]


def test_runtime_class_must_exist_and_acts(boxes: Boxes) -> None:
    """Its scheduling rules show that it reached the API server's admission; `nvidia` is the default on GB10."""
    boxes.add(gb10("spark-a"), gb10("spark-b", labels={"runtime": "here"}))
    boxes.apply("engine", {"runtimeClassName": "careful"})
    said = boxes.wait_reason("engine", "PodsRefused")
    assert said.startswith('the API server takes no pod: pod rejected: RuntimeClass "careful" not found; ')
    assert "spec.nodes.runtimeClassName" in said
    assert boxes.pods("engine") == []
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "careful"},
        "handler": "nvidia",
        "scheduling": {"nodeSelector": {"runtime": "here"}},
    }
    boxes.send("POST", "/apis/node.k8s.io/v1/runtimeclasses", runtime)
    assert boxes.wait_placed("engine") == ["spark-b"]
    (pod,) = boxes.pods("engine")
    assert pod["spec"]["runtimeClassName"] == "careful"
    wait_for(lambda: boxes.condition("engine", "EngineHealthy")["reason"] == "Starting", "the cure's effect", 10)


def test_runtime_class_nvidia_is_asked_for_by_default(boxes: Boxes) -> None:
    boxes.add(gb10("spark"))
    boxes.apply("engine", {})
    assert 'RuntimeClass "nvidia" not found' in boxes.wait_reason("engine", "PodsRefused")
