"""Boxes that are emptied and boxes that are lost: the engine goes where there is room, and is never there twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from demo.resource import Resource, pod_ready
from stories import BOOT_SECONDS, Site, two_boxes
from testbed.deadline import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1800)]

_GONE_SECONDS = 180.0
# The API server gives every pod this long on a node that is lost; its default is 300.
_TOLERATED = ("--default-unreachable-toleration-seconds=5", "--default-not-ready-toleration-seconds=5")


@pytest.fixture(scope="module")
def boxes(site: Site) -> Iterator[Site]:
    """A cluster of two boxes; the operator's pod keeps to neither."""
    with two_boxes(f"{site.own.name}-lost", _TOLERATED) as found:
        yield found


def _living(resource: Resource) -> list[dict[str, Any]]:
    return [pod for pod in resource.pods() if "deletionTimestamp" not in pod["metadata"]]


def _node(pod: dict[str, Any]) -> str:
    return str(pod["spec"].get("nodeName", ""))


def _drain(boxes: Site, node: str) -> None:
    """As an administrator does, and open again."""
    flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=170s")
    boxes.kubectl("drain", node, *flags, timeout=180)
    boxes.kubectl("uncordon", node)


def _elsewhere(resource: Resource, node: str) -> dict[str, Any]:
    """The one pod, on another box."""

    def moved() -> dict[str, Any] | None:
        found = _living(resource)
        return found[0] if len(found) == 1 and _node(found[0]) not in ("", node) else None

    return dict(
        wait_for(moved, f"its pod on another box than {node}", _GONE_SECONDS, fail=lambda: str(_where(resource)))
    )


def _where(resource: Resource) -> list[tuple[str, str, str]]:
    """Name, box and phase of its pods."""
    return [(pod["metadata"]["name"], _node(pod), pod["status"].get("phase", "")) for pod in resource.pods()]


def test_a_box_is_emptied_while_its_engine_boots_and_while_it_serves(boxes: Site) -> None:
    """One replica and a disruption budget: neither holds a drain up."""
    resource = boxes.apply("moved", rollout={"drainSeconds": 5})
    wait_for(lambda: [pod for pod in _living(resource) if _node(pod)], "its pod on a box", 60)
    booting = _node(_living(resource)[0])
    _drain(boxes, booting)
    second = _node(_elsewhere(resource, booting))
    resource.wait(lambda body: body.get("status", {}).get("readyReplicas") == 1, "serving", BOOT_SECONDS)
    _drain(boxes, second)
    _elsewhere(resource, second)
    resource.wait(lambda body: body.get("status", {}).get("readyReplicas") == 1, "serving again", BOOT_SECONDS)
    resource.delete()


def test_the_engine_of_a_lost_box_moves_and_is_gone_when_the_box_comes_back(boxes: Site) -> None:
    resource = boxes.apply("lost")
    resource.wait(lambda body: body.get("status", {}).get("readyReplicas") == 1, "serving", BOOT_SECONDS)
    (before,) = _living(resource)
    node = _node(before)
    if _operators_node(boxes) == node:
        boxes.kubectl("delete", "pod", "-n", boxes.operator.namespace, "-l", boxes.operator.selector, "--wait=false")
    boxes.own.stop_node(node)
    try:
        _elsewhere(resource, node)
        resource.wait(lambda body: body.get("status", {}).get("readyReplicas") == 1, "serving elsewhere", BOOT_SECONDS)
    finally:
        boxes.own.start_node(node)
    uid = before["metadata"]["uid"]
    wait_for(lambda: uid not in {pod["metadata"]["uid"] for pod in resource.pods()}, "the old pod gone", _GONE_SECONDS)
    (after,) = _living(resource)
    assert pod_ready(after)
    assert _node(after) != node
    left = boxes.own.run_on_node(node, ["sh", "-c", "pgrep -f '[v]llm.entrypoints' || true"])
    assert left.strip() == "", "an engine still runs on the box that came back"


def _operators_node(boxes: Site) -> str:
    pods = boxes.kubectl.json("get", "pods", "-n", boxes.operator.namespace, "-l", boxes.operator.selector)["items"]
    return _node(pods[0]) if pods else ""
