"""A pod of the API, reduced to what decisions need; and the words an engine leaves behind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemmaspec.core import moment
from gemmaspec.core.observation import Ended, Pod, ended_from, pod_from

CREATED, STARTED, READY = "2026-11-22T09:00:00Z", "2026-11-22T09:01:00Z", "2026-11-22T09:06:00Z"


def pod(status: dict[str, Any] | None = None, **metadata: Any) -> Pod:
    named = {"name": "p", "uid": "u", "creationTimestamp": CREATED}
    named["labels"] = {"gemmaspec.io/revision": "abc"}  # type: ignore[assignment]
    named["annotations"] = {"gemmaspec.io/k": "4"}  # type: ignore[assignment]
    return pod_from({"metadata": named | metadata, "spec": {"nodeName": "n"}, "status": status or {}}, moment.seconds)


def engine(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "sidecar"}, {"name": "engine", "restartCount": 0, "state": state} | more]}


def test_a_pod_that_was_just_made() -> None:
    found = pod()
    assert (found.revision, found.k, found.node, found.phase) == ("abc", 4, "n", "Pending")
    assert (found.ready, found.terminating, found.running, found.occupies) == (False, False, False, True)
    assert found.created_at == moment.seconds(CREATED)


def test_a_serving_pod() -> None:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": READY}]
    status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions}
    running = {"running": {"startedAt": STARTED}}
    found = pod(status | engine(running, imageID="docker.io/x@sha256:abc"))
    assert (found.ready, found.running, found.ip, found.image_digest) == (True, True, "10.0.0.1", "sha256:abc")
    assert (found.started_at, found.ready_at) == (moment.seconds(STARTED), moment.seconds(READY))
    leaving = pod(status | engine(running), deletionTimestamp=READY)
    assert (leaving.ready, leaving.terminating, leaving.occupies) == (False, True, True)


@pytest.mark.parametrize(("phase", "occupies"), [("Running", True), ("Failed", False), ("Succeeded", False)])
def test_what_holds_a_box(phase: str, occupies: bool) -> None:
    assert pod({"phase": phase}).occupies is occupies
    assert pod({"phase": phase}, deletionTimestamp=READY).occupies is True


@pytest.mark.parametrize("labels", [{}, {"gemmaspec.io/revision": ""}])
def test_labels_and_annotations_that_were_edited_away(labels: dict[str, str]) -> None:
    found = pod(labels=labels, annotations={})
    assert (found.revision, found.k) == ("", 0)
    assert pod(annotations={"gemmaspec.io/k": "many"}).k == 0


def test_why_a_pod_waits() -> None:
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": "secret not found"}}
    assert pod(engine(waiting)).waiting == ("CreateContainerConfigError", "secret not found")
    initial = {"initContainerStatuses": [{"name": "preflight", "state": waiting}]}
    assert pod(initial | engine({"waiting": {"reason": "PodInitializing"}})).waiting == (
        "CreateContainerConfigError",
        "secret not found",
    )
    assert pod(engine({"waiting": {"reason": "PodInitializing"}})).waiting is None
    unscheduled = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}
    assert pod(unscheduled).unschedulable == "0/1 nodes"
    assert pod({"conditions": [{"type": "PodScheduled", "status": "True"}]}).unschedulable is None


@pytest.mark.parametrize(
    ("terminated", "ended"),
    [
        (
            {
                "reason": "Error",
                "exitCode": 1,
                "message": json.dumps({"reason": "EngineFailed", "message": "no\nmodel"}),
            },
            Ended("EngineFailed", "no model", 1),
        ),
        (
            {"reason": "Error", "exitCode": 1, "message": "line 1\n\nValueError: x\n"},
            Ended("Error", "ValueError: x", 1),
        ),
        ({"reason": "OOMKilled", "exitCode": 137}, Ended("OOMKilled", "", 137)),
        ({"exitCode": 2, "message": "[1, 2]"}, Ended("Error", "[1, 2]", 2)),
        ({"exitCode": 2, "message": '{"reason": "x"}'}, Ended("Error", '{"reason": "x"}', 2)),
        ({"exitCode": 2, "message": "null"}, Ended("Error", "null", 2)),
        ({"exitCode": 2, "message": "y" * 9999}, Ended("Error", "y" * 512, 2)),
    ],
)
def test_last_words(terminated: dict[str, Any], ended: Ended) -> None:
    assert ended_from(terminated) == ended
    assert pod(engine({"terminated": terminated})).ended == ended
    assert pod(engine({"running": {}}, lastState={"terminated": terminated}, restartCount=3)).ended == ended


def told(**verdict: Any) -> dict[str, Any]:
    terminated = {"exitCode": 0, "message": json.dumps(verdict)}
    return {"initContainerStatuses": [{"name": "preflight", "state": {"terminated": terminated}}]}


def test_what_preflight_says() -> None:
    assert pod().proof is None
    proof = pod(told(ok=True, reason="Proved", message="m", vllm="0.32.0", patches={"b": "2", "a": "1"})).proof
    assert proof is not None
    assert (proof.ok, proof.reason, proof.vllm, proof.patches) == (True, "Proved", "0.32.0", (("a", "1"), ("b", "2")))
    summed = pod(told(ok=True, reason="Proved", memory="9 GiB = weights 8 GiB\n + overhead 1 GiB")).proof
    assert summed is not None
    assert summed.memory == "9 GiB = weights 8 GiB + overhead 1 GiB"
    refused = pod(told(ok=False, reason="FilesChanged", message="m", remedy="r", deterministic=True)).proof
    assert refused is not None
    assert (refused.ok, refused.deterministic, refused.remedy) == (False, True, "r")


@pytest.mark.parametrize("message", ["", "Traceback\nMemoryError", "{}", "[]", "null", '{"ok": 1}'])
def test_a_preflight_that_died_without_a_verdict_is_no_proof(message: str) -> None:
    terminated = {"exitCode": 1, "message": message}
    proof = pod({"initContainerStatuses": [{"name": "preflight", "state": {"terminated": terminated}}]}).proof
    assert proof is not None
    assert proof.ok is False
    assert proof.message
