"""What agents have learnt: saved seldom, and given to engines that came up without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gemmaspec.core import learned, names
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.learned import Gist, Restore, Save
from gemmaspec.core.observation import Child, Observation, Pod, Resource
from gemmaspec.core.owner import Owner
from gemmaspec.core.plan import learned_config_map

OWNER = Owner("llm", "tiny", "uid-1")
NOW = 1_800_000_000.0
POD = Pod("tiny-1", "pod-1", "r", 4, "10.0.0.1", "n1", "Running", True, False, True, 0, live=True)
TAUGHT = Report(
    time=NOW,
    live=True,
    reason="",
    k=4,
    settings=Wanted("Adaptive", 4, 0, 4),
    positions=((9000, 8000),),
    requests=99,
    steps={4: 50_000},
    started_at=NOW - 9999,
    recent=(0.9, 0.8, None),
    step_ms={0: 10.0, 4: 14.0},
)


def saved(age: float, engine: str = "e", **changes: Any) -> Child:
    gist = Gist(engine, NOW - age, TAUGHT.recent, TAUGHT.step_ms)
    body = learned_config_map(OWNER, replace(gist, **changes).text())
    return Child("ConfigMap", body["metadata"]["name"], "c", "7", OWNER.uid, body)


def steps(
    report: Report, child: Child | None = None, pod: Pod = POD, more: Mapping[str, Report] | None = None
) -> list[Save | Restore]:
    reports = {pod.uid: (report,)} | {uid: (other,) for uid, other in (more or {}).items()}
    pods = (pod, *(replace(POD, name=uid, uid=uid) for uid in more or ()))
    resource = Resource(OWNER, 1, False, {}, {})
    children = (child,) if child else ()
    return list(learned.steps(Observation(resource, NOW, children, pods, agents=reports), "e", "r"))


def test_the_first_knowledge_is_saved_once_there_is_some() -> None:
    assert steps(replace(TAUGHT, steps={4: 900})) == []
    (found,) = steps(TAUGHT)
    assert isinstance(found, Save)
    assert (found.pod, found.child) == (POD, None)
    assert found.body["metadata"]["name"] == "tiny-learned"
    assert found.body["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    again = Child("ConfigMap", "tiny-learned", "c", "1", OWNER.uid, found.body)
    assert steps(TAUGHT, again) == [], "what was just saved is known"


def test_steady_traffic_is_never_saved_again() -> None:
    for age in (10.0, 4000.0, 1e7):
        assert steps(TAUGHT, saved(age)) == []
    wobble = replace(TAUGHT, recent=(0.8, 0.9, None), step_ms={0: 11.0, 4: 12.5}, steps={4: 10**7})
    assert steps(wobble, saved(1e7)) == []


@pytest.mark.parametrize(
    "change",
    [{"recent": (0.5, 0.8, None)}, {"recent": (0.9, 0.8, 0.7)}, {"step_ms": {4: 20.0}}, {"step_ms": {2: 12.0}}],
)
def test_what_could_move_k_is_saved_at_most_hourly(change: dict[str, Any]) -> None:
    other = replace(TAUGHT, **change)
    assert steps(other, saved(3599.0)) == []
    (found,) = steps(other, saved(3601.0))
    assert isinstance(found, Save)
    assert found.child == saved(3601.0)


def test_a_leaving_engine_is_asked_at_once() -> None:
    other = replace(TAUGHT, recent=(0.2,))
    leaving = replace(POD, ready=False, terminating=True)
    assert steps(other, saved(59.0), leaving) == []
    assert [type(step) for step in steps(other, saved(61.0), leaving)] == [Save]
    assert steps(TAUGHT, saved(61.0), leaving) == []
    assert steps(other, saved(61.0), replace(leaving, running=False)) == [], "nobody answers there any more"


def test_the_most_experienced_engine_speaks() -> None:
    (found,) = steps(TAUGHT, more={"pod-2": replace(TAUGHT, steps={4: 60_000})})
    assert found.pod.uid == "pod-2"


@pytest.mark.parametrize(
    "change", [{"fallback": "choose: ValueError"}, {"live": False}, {"settings": Wanted("Fixed", 4, 0, 4)}]
)
def test_an_agent_that_does_not_learn_is_not_asked(change: dict[str, Any]) -> None:
    assert steps(replace(TAUGHT, **change)) == []


FRESH = replace(TAUGHT, steps={4: 12}, started_at=NOW - 30, recent=(), step_ms={})


def test_an_engine_that_came_up_without_knowledge_is_given_some() -> None:
    (found,) = steps(FRESH, saved(100.0))
    assert isinstance(found, Restore)
    assert (found.pod, found.child.name) == (POD, names.learned_object("tiny"))


@pytest.mark.parametrize(
    ("change", "child"),
    [
        ({"restored": "volume"}, saved(100.0)),
        ({"restored": "port"}, saved(100.0)),
        ({"steps": {4: 5000}}, saved(100.0)),
        ({"started_at": NOW - 200}, saved(100.0)),
        ({"live": False}, saved(100.0)),
        ({}, saved(100.0, engine="another image")),
        ({}, replace(saved(100.0), body={"metadata": {"annotations": {}}})),
        ({}, replace(saved(100.0), body={"metadata": {"annotations": {names.LEARNED_ANNOTATION: "[]"}}})),
        ({}, replace(saved(100.0), owner_uid="somebody")),
        ({}, None),
    ],
)
def test_nobody_else_is(change: dict[str, Any], child: Child | None) -> None:
    assert steps(replace(FRESH, **change), child) == []


def test_knowledge_of_another_engine_is_replaced() -> None:
    (found,) = steps(TAUGHT, saved(10.0, engine="another image"))
    assert isinstance(found, Save)
    assert found.child is not None


def test_pods_of_another_revision_may_be_another_engine() -> None:
    assert steps(TAUGHT, pod=replace(POD, revision="older")) == []
    assert steps(FRESH, saved(100.0), replace(POD, revision="older")) == []
