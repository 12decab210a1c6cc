"""Which events ask for a pass, and when."""

from __future__ import annotations

import asyncio
from typing import Any

from gemmaspec.api import identity
from gemmaspec.core import names
from gemmaspec.runtime import handlers
from gemmaspec.runtime.handlers import Operator
from gemmaspec.runtime.options import Options
from gemmaspec.runtime.queue import WakeQueue

KEY = ("llm", "one")
OWNER = {"apiVersion": identity.API_VERSION, "kind": identity.KIND, "name": "one", "uid": "owner", "controller": True}


def body(kind: str, version: int, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "llm", "name": "one", "uid": kind, "resourceVersion": str(version)}
    metadata["labels"] = {names.OWNER_LABEL: "one", names.MANAGED_BY: names.FIELD_MANAGER}
    return {"apiVersion": "v1", "kind": kind, "metadata": {**metadata, "ownerReferences": [OWNER]}, **fields}


def pod(version: int, phase: str, *conditions: tuple[str, str]) -> dict[str, Any]:
    told = [{"type": kind, "status": status, "message": "why"} for kind, status in conditions]
    return body("Pod", version, spec={"nodeName": "box"}, status={"phase": phase, "conditions": told})


async def taken(queue: WakeQueue) -> list[tuple[str, str]]:
    """Keys that want a pass now."""
    found = []
    while len(queue):
        found.append(await queue.take())
        queue.done(found[-1])
    return found


def operator() -> Operator:
    made = Operator(Options())
    made.queue.release()
    return made


async def test_the_echo_of_a_write_asks_for_no_pass_and_a_change_does() -> None:
    made = operator()
    for kind, fields in (("Service", {"spec": {"type": "ClusterIP"}}), ("ConfigMap", {"data": {"a": "b"}})):
        written = body(kind, 5, **fields)
        assert made.cache.wrote(kind, written)
        assert not made.cache.wrote(kind, written), "a write that changes nothing is followed by none"
        shown = {"kind": "PartialObjectMetadata", "metadata": written["metadata"]} if kind == "ConfigMap" else written
        made.on_event(kind, "ADDED", shown)
        assert await taken(made.queue) == []
        edited = body(kind, 6, **fields)
        edited["metadata"]["labels"]["edited"] = "yes"
        made.on_event(kind, "MODIFIED", edited)
        assert await taken(made.queue) == [KEY]
        made.on_event(kind, "DELETED", edited)
        assert await taken(made.queue) == [KEY]
        assert made.cache.children(*KEY) == ()


async def test_a_pod_that_has_only_begun_is_looked_at_later(monkeypatch: Any) -> None:
    monkeypatch.setattr(handlers, "STARTING_SECONDS", 0.05)
    made = operator()
    made.on_event("Pod", "ADDED", pod(1, "Pending"))
    made.on_event("Pod", "MODIFIED", pod(2, "Pending", ("PodScheduled", "True")))
    assert await taken(made.queue) == []
    await asyncio.sleep(0.2)
    assert await taken(made.queue) == [KEY], "one pass for both, and never none"
    for version, told in enumerate((("PodScheduled", "False"), ("Ready", "True")), start=3):
        made.on_event("Pod", "MODIFIED", pod(version, "Pending" if told[1] == "False" else "Running", told))
        assert await taken(made.queue) == [KEY]
    made.on_event("Pod", "DELETED", pod(5, "Running"))
    assert await taken(made.queue) == [KEY]
    assert made.cache.pods(*KEY) == ()


async def test_that_an_engine_serves_is_looked_at_before_others_are_made() -> None:
    made = operator()
    for number in range(3):
        other = body(identity.KIND, 1)
        other["metadata"] |= {"name": f"other-{number}", "uid": str(number)}
        made.on_event(identity.KIND, "ADDED", other)
    made.on_event("Pod", "MODIFIED", pod(2, "Running", ("Ready", "True")))
    assert await taken(made.queue) == [KEY, *(("llm", f"other-{number}") for number in range(3))]


async def test_an_edit_comes_before_others_are_looked_at() -> None:
    made = operator()
    wanted = body(identity.KIND, 1, spec={"a": 1}, status={})
    wanted["metadata"] |= {"generation": 1}
    made.on_event(identity.KIND, "ADDED", wanted)
    assert await taken(made.queue) == [KEY]
    looks = [("llm", f"other-{number}") for number in range(3)]
    told = wanted | {"metadata": {**wanted["metadata"], "resourceVersion": "2"}, "status": {"by": "another"}}
    held = {**wanted["metadata"], "resourceVersion": "3", "annotations": {"hold": "4"}}
    edited = {**held, "resourceVersion": "4", "generation": 2}
    cases = [(told, False), (told | {"metadata": held}, True), (told | {"metadata": edited, "spec": {"a": 2}}, True)]
    for shown, first in cases:
        for key in looks:
            made.queue.wake(key)
        made.on_event(identity.KIND, "MODIFIED", shown)
        assert await taken(made.queue) == ([KEY, *looks] if first else [*looks, KEY]), shown["metadata"]
