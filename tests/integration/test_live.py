"""Live K on a real API server, with stand-ins for the agents: what is told, saved, restored and reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.scene import NAME, Scene, speculative
from tests.integration.standin_agent import StandInAgent

pytestmark = pytest.mark.control_plane

LEARNED = f"{NAME}-learned"
ENGINE = {"image": "example.org/vllm:1", "allowTag": True, "vllm": "0.32.0"}


def adaptive(k: int = 4) -> dict[str, Any]:
    return speculative(k, mode="Adaptive", actuator="Live", kMax=4)


@pytest.fixture
def taught(running: Scene) -> Scene:
    """Two live engines whose knowledge was saved."""
    running.apply(engine=ENGINE, speculative=adaptive(), replicas=2)
    running.wait_converged()
    running.until(lambda: running.read("configmaps", LEARNED), "the saved knowledge", 60)
    return running


def agents(scene: Scene) -> list[StandInAgent]:
    return [engine for engine in scene.agents() if engine.agent.controller.settings.mode == "Adaptive"]


def test_agents_are_told_and_k_is_reported_of_each(taught: Scene) -> None:
    taught.until(lambda: len(agents(taught)) == 2, "both agents follow the spec")
    taught.until(lambda: len(taught.status()["k"].get("replicas", ())) == 2, "K of both", 30)
    k = taught.status()["k"]
    assert k["actuator"] == "Live"
    assert {entry["pod"] for entry in k["replicas"]} == {pod["metadata"]["name"] for pod in taught.all("pods")}
    assert {entry["effective"] for entry in k["replicas"]} <= {0, 1, 2, 4}


def test_knowledge_is_saved_once_and_given_to_the_next_pod(taught: Scene) -> None:
    saved = taught.read("configmaps", LEARNED)
    assert saved["metadata"]["ownerReferences"][0]["uid"] == taught.resource()["metadata"]["uid"]
    state = json.loads(saved["data"]["state.json"])
    assert state["policies"]["adaptive"]
    mark = taught.plane.audit.mark()
    old = {pod["metadata"]["uid"] for pod in taught.all("pods")}
    (first, *_) = (pod["metadata"]["name"] for pod in taught.all("pods"))
    taught.send("DELETE", taught.path("pods", first))

    def given() -> bool:
        return len(taught.agents()) == 2 and any(found.agent.restored == "port" for found in taught.agents())

    taught.until(given, "the new pod's agent was given what was saved", 60)
    assert {pod["metadata"]["uid"] for pod in taught.all("pods")} != old
    (restored,) = (found.agent for found in taught.agents() if found.agent.restored)
    assert restored.controller.export_state()["policies"]["adaptive"]
    taught.wait_converged()
    assert not [event for event in taught.writes(mark) if event.resource == "configmaps"], "nothing new was learnt"


def test_knowledge_that_an_agent_refuses_is_offered_once(taught: Scene) -> None:
    damaged = {"data": {"state.json": json.dumps({"version": 99})}}
    taught.merge("configmaps", LEARNED, damaged)
    (first, *_) = (pod["metadata"]["name"] for pod in taught.all("pods"))
    taught.send("DELETE", taught.path("pods", first))
    taught.until(lambda: "learns anew" in taught.operator.whole_log(), "the refusal", 60)
    taught.wait_converged()
    words = f"{taught.namespace}/{NAME}: the agent of"
    told = [line for line in taught.operator.whole_log().splitlines() if words in line and "learns anew" in line]
    assert len(told) == 1
    assert taught.read("configmaps", LEARNED)["data"] == damaged["data"], "an object is not fought over"


def test_an_exception_in_an_agent_is_told_until_an_edit_has_it_try_again(taught: Scene) -> None:
    taught.until(lambda: len(agents(taught)) == 2, "both agents follow the spec")
    failed = agents(taught)[0].agent
    failed.failed("choose", ArithmeticError("injected"))
    taught.until(lambda: taught.is_condition("SpeculationHealthy", "False", "AgentFailed"), "the condition", 30)
    assert "choose: ArithmeticError: injected" in taught.condition("SpeculationHealthy")["message"]
    assert failed.controller.exceptions == {"choose": 1}
    assert taught.is_condition("Ready", "True"), "the engine serves on"
    taught.apply(engine=ENGINE, speculative=adaptive(2), replicas=2)
    taught.until(lambda: failed.controller.fault is None, "a new try", 30)
    taught.until(lambda: taught.condition("SpeculationHealthy")["reason"] != "AgentFailed", "the end of it", 30)
    assert failed.controller.exceptions == {"choose": 1}


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["port gone", "token wrong"])
def test_an_agent_that_does_not_answer_is_told_of_and_moves_nothing(taught: Scene, fault: str) -> None:
    """Minutes: an agent is given some time to answer."""
    taught.until(lambda: len(agents(taught)) == 2, "both agents follow the spec")
    silent, heard = agents(taught)
    pods = {pod["metadata"]["uid"] for pod in taught.all("pods")}
    if fault == "port gone":
        silent.hang_up()
    else:
        config = silent.agent.config
        silent.take_another_token()
    taught.until(lambda: taught.is_condition("SpeculationHealthy", "Unknown", "AgentSilent"), "the condition", 240)
    assert taught.is_condition("Ready", "True"), "the engine serves on"
    before = silent.agent.controller.settings
    taught.apply(engine=ENGINE, speculative=adaptive(2), replicas=2)
    taught.until(lambda: heard.agent.controller.settings.k == 2, "the other agent follows", 60)
    assert silent.agent.controller.settings == before
    taught.until(lambda: taught.is_condition("SpeculationHealthy", "Unknown", "AgentSilent"), "still told", 60)
    if fault == "port gone":
        silent.answer()
    else:
        silent.agent.config = config
    taught.until(lambda: silent.agent.controller.settings.k == 2, "it follows again", 60)
    taught.until(lambda: taught.condition("SpeculationHealthy")["reason"] != "AgentSilent", "the end of it", 60)
    assert {pod["metadata"]["uid"] for pod in taught.all("pods")} == pods, "no engine was started for it"
