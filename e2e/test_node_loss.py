"""Boxes that are emptied and boxes that are lost: the engine goes where there is room, and is never there twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from demo.resource import Resource, pod_ready
from stories import BOOT_SECONDS, Site, alone_on_its_box, two_boxes
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


class _Engines(threading.Thread):
    """Looks all the time whose engines have processes on a box: the uids of their pods."""

    def __init__(self, boxes: Site, node: str) -> None:
        super().__init__(name="engines", daemon=True)
        self.seen: list[set[str]] = []
        self._boxes, self._node, self._ending = boxes, node, threading.Event()

    def run(self) -> None:
        while not self._ending.wait(0.5):
            self.seen.append(set(self._boxes.own.run_on_node(self._node, ["sh", "-c", _ENGINES]).split()))

    def end(self) -> None:
        self._ending.set()
        self.join(30)


# One line for each pod that a process of vLLM belongs to: its API server's, or its core's.
_ENGINES = (
    "for pid in $(pgrep -f '[v]llm.entrypoints|[V]LLM::'); do"
    " sed -n 's|.*/pod\\([0-9a-f-]\\{36\\}\\).*|\\1|p' /proc/$pid/cgroup 2>/dev/null | head -n 1; done | sort -u"
)


def test_a_box_that_was_cut_off_never_runs_two_engines(boxes: Site) -> None:
    """Its kubelet falls silent while its engine goes on. The next engine waits until that one is gone; the other box's
    serves all the time.
    """
    asked = {"replicas": 2, "engine": alone_on_its_box(boxes), "rollout": {"drainSeconds": 5}}
    resource = boxes.apply("cut-off", **asked)
    resource.wait(lambda body: body.get("status", {}).get("readyReplicas") == 2, "two engines", BOOT_SECONDS)
    before = {_node(pod): pod["metadata"]["uid"] for pod in _living(resource)}
    node = next(name for name in before if name != _operators_node(boxes))
    other = next(name for name in before if name != node)
    engines = _Engines(boxes, node)
    engines.start()
    try:
        boxes.own.run_on_node(node, ["pkill", "-STOP", "-x", "kubelet"])
        try:
            wait_for(lambda: before[node] not in _uids(_living(resource)), "its pod told to leave", _GONE_SECONDS)
            wait_for(lambda: len(_living(resource)) == 2, "another pod in its place", _GONE_SECONDS)
            assert engines.seen[-1] == {before[node]}, "nobody there could tell it"
        finally:
            boxes.own.run_on_node(node, ["pkill", "-CONT", "-x", "kubelet"])
        resource.wait(lambda body: body["status"].get("readyReplicas") == 2, "both boxes again", BOOT_SECONDS)
    finally:
        engines.end()
    after = {_node(pod): pod["metadata"]["uid"] for pod in _living(resource)}
    assert after[other] == before[other], "the other box's engine never left"
    assert after[node] != before[node]
    assert engines.seen[-1] == {after[node]}
    assert max(map(len, engines.seen)) == 1, "two engines on one box"
    print(f"{len(engines.seen)} looks at {node}: {sum(not found for found in engines.seen)} without an engine")
    resource.delete()


def _uids(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def _operators_node(boxes: Site) -> str:
    pods = boxes.kubectl.json("get", "pods", "-n", boxes.operator.namespace, "-l", boxes.operator.selector)["items"]
    return _node(pods[0]) if pods else ""
