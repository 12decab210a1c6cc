"""``gemmaspec set-k`` against a running operator: K for a while, by agents and by restart, and never by the spec."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gemmaspec.cli.main import app
from gemmaspec.core.hold import ANNOTATION
from testbed.pki import ADMINISTRATORS
from tests.integration.scene import NAME, Scene
from tests.integration.test_live import ENGINE, adaptive

pytestmark = pytest.mark.control_plane


def set_k(scene: Scene, *words: str) -> Result:
    file = str(scene.plane.kubeconfig_for("holder", [ADMINISTRATORS]))
    return CliRunner().invoke(app, ["set-k", NAME, *words, "-n", scene.namespace, "--kubeconfig", file])


def held(scene: Scene) -> dict[str, Any]:
    return dict(scene.status()["k"].get("held") or {})


def by_spec(scene: Scene) -> tuple[Any, Any]:
    resource = scene.resource()
    return resource["spec"], resource["metadata"]["generation"]


def test_agents_hold_k_and_let_go(running: Scene) -> None:
    running.apply(engine=ENGINE, speculative=adaptive(), replicas=2)
    running.wait_converged()
    running.until(lambda: modes(running) == {"Adaptive"}, "agents that follow the spec", 30)
    spec, pods = by_spec(running), {pod["metadata"]["uid"] for pod in running.all("pods")}
    done = set_k(running, "1", "--for", "1h", "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["k"] == 1
    running.until(lambda: modes(running) == {"Fixed"}, "agents that hold it", 30)
    assert {agent.agent.controller.settings.k for agent in running.agents()} == {1}
    running.until(lambda: held(running).get("k") == 1, "the status tells", 30)
    assert held(running)["until"] == json.loads(done.stdout)["until"]
    assert set_k(running, "--clear").exit_code == 0
    running.until(lambda: modes(running) == {"Adaptive"}, "the spec's settings", 30)
    running.until(lambda: not held(running), "the status tells no more", 30)
    assert by_spec(running) == spec
    assert {pod["metadata"]["uid"] for pod in running.all("pods")} == pods
    owners = [e["manager"] for e in running.resource()["metadata"]["managedFields"] if ANNOTATION in json.dumps(e)]
    assert owners == ["gemmaspec-cli"], "what kubectl sets, Flux takes back"


def modes(scene: Scene) -> set[str]:
    return {agent.agent.controller.settings.mode for agent in scene.agents()}


def test_by_restart_it_is_asked_first_and_ends_by_itself(running: Scene) -> None:
    running.apply()
    first = running.wait_converged()["revision"]
    spec = by_spec(running)
    refused = set_k(running, "1", "--for", "30s")
    assert refused.exit_code == 1
    assert "Error: --yes: " in refused.stderr
    assert "boot" in refused.stderr
    assert ANNOTATION not in running.resource()["metadata"].get("annotations", {})
    done = set_k(running, "1", "--for", "30s", "--yes")
    assert done.exit_code == 0, done.stderr
    running.until(lambda: running.status()["k"]["effective"] == 1, "the K that is held", 25)
    running.until(lambda: running.status().get("readyReplicas") == 1, "an engine that has it", 25)
    status = running.status()
    assert (status["k"]["desired"], status["k"]["held"]["k"]) == (4, 1)
    assert status["revision"] != first
    assert running.is_condition("SpeculationHealthy", "Unknown", "KHeld")
    running.until(lambda: running.status()["k"]["effective"] == 4, "the end", 60)
    running.wait_converged(30)
    assert running.status()["revision"] == first
    assert by_spec(running) == spec
    assert not held(running)


def test_an_annotation_that_nobody_understands_is_told_and_holds_nothing(running: Scene) -> None:
    running.apply()
    first = running.wait_converged()["revision"]
    running.merge("gemmaspecdeploys", NAME, {"metadata": {"annotations": {ANNOTATION: "2 until Friday"}}})
    running.until(lambda: "2 until Friday" in held(running).get("message", ""), "the status tells", 30)
    assert "--clear" in held(running)["message"]
    assert running.status()["revision"] == first
    assert set_k(running, "--clear").exit_code == 0
    running.until(lambda: not held(running), "removed", 30)
