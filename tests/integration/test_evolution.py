"""Definitions of two releases on a real API server: what each takes of the other, and an operator that is newer."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed import ControlPlane
from testbed.deadline import wait_for
from tests.integration.scene import Scene
from tests.integration.stage import ROOT, Stage

pytestmark = pytest.mark.control_plane

FROZEN = ROOT / "tests" / "data" / "crd-0.1.0.yaml"
WRITTEN = ROOT / "tests" / "data" / "resource-0.1.0.yaml"
FULL = Path(__file__).with_name("full_spec.yaml")
NAME = "gemmaspecdeploys.gemmaspec.io"


def install(plane: ControlPlane, body: dict[str, Any]) -> None:
    """Apply a definition, and wait until the API server serves this very schema."""
    plane.kubectl.apply(json.dumps(body), "--server-side", "--force-conflicts")
    wanted = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]

    def served() -> bool:
        published = json.loads(plane.kubectl("get", "--raw", "/openapi/v3/apis/gemmaspec.io/v1alpha1"))
        schema = published["components"]["schemas"]["io.gemmaspec.v1alpha1.GemmaSpecDeploy"]["properties"]
        return all(fields(schema[part]) == fields(wanted[part]) for part in ("spec", "status"))

    wait_for(served, "the schema to be served", 60)


def fields(schema: dict[str, Any]) -> set[str]:
    """Paths of all fields below a schema."""
    found: set[str] = set()
    for name, child in schema.get("properties", {}).items():
        found |= {name} | {f"{name}.{inside}" for inside in fields(child)}
    return found | (fields(schema["items"]) if isinstance(schema.get("items"), dict) else set())


@pytest.fixture
def today(stage: Stage, crd_file: Path) -> Iterator[dict[str, Any]]:
    """Today's definition, which is served again at the end whatever the test installs."""
    body: dict[str, Any] = yaml.safe_load(crd_file.read_text(encoding="utf-8"))
    yield body
    install(stage.plane, body)


def test_todays_definition_takes_and_keeps_what_the_last_release_wrote(scene: Scene, today: dict[str, Any]) -> None:
    written = yaml.safe_load(WRITTEN.read_text(encoding="utf-8"))
    install(scene.plane, yaml.safe_load(FROZEN.read_text(encoding="utf-8")))
    scene.kubectl("apply", "-f", "-", stdin=json.dumps(written))
    path = scene.path("gemmaspecdeploys", written["metadata"]["name"]) + "/status?fieldManager=gemmaspec&force=true"
    scene.send("PATCH", path, written, "application/apply-patch+yaml")
    stored = scene.resource(written["metadata"]["name"])
    assert (stored["spec"], stored["status"]) == (written["spec"], written["status"])
    install(scene.plane, today)
    after = scene.resource(written["metadata"]["name"])
    assert (after["spec"], after["status"]) == (written["spec"], written["status"])
    scene.kubectl("apply", "-f", "-", stdin=json.dumps(written))
    scene.send("PATCH", path, written, "application/apply-patch+yaml")


def test_the_last_releases_definition_takes_what_is_written_today(scene: Scene, today: dict[str, Any]) -> None:
    """Fields that it does not know are dropped with a warning, as for any API; nothing else is refused."""
    install(scene.plane, yaml.safe_load(FROZEN.read_text(encoding="utf-8")))
    body = {
        "apiVersion": "gemmaspec.io/v1alpha1",
        "kind": "GemmaSpecDeploy",
        "metadata": {"name": "tried"},
        "spec": yaml.safe_load(FULL.read_text(encoding="utf-8")),
    }
    scene.kubectl("apply", "--validate=warn", "-f", "-", stdin=json.dumps(body))
    stored = scene.resource()["spec"]
    assert set(stored) <= set(body["spec"])
    assert stored["model"] == body["spec"]["model"]


@pytest.mark.campaign
def test_an_operator_newer_than_the_definition_says_so_and_waits(scene: Scene, today: dict[str, Any]) -> None:
    older = copy.deepcopy(today)
    status = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    del status["properties"]["k"]
    scene.operator.start()
    scene.apply()
    scene.wait_converged(60)
    install(scene.plane, older)
    mark = scene.plane.audit.mark()
    began = time.monotonic()
    scene.apply(replicas=2)
    scene.until(lambda: scene.is_condition("Stalled", "True", "DefinitionOutdated"), "the condition", 60)
    assert scene.is_condition("Ready", "True"), "what runs is not touched, nor called broken"
    assert "helm upgrade" in scene.condition("Stalled")["message"]
    assert "field not declared in schema" in scene.condition("Stalled")["message"]
    with pytest.raises(TimeoutError):  # the engines are scraped each second: none of that may bring a pass forward
        wait_for(lambda: len(refused(scene, mark)) > 2 + (time.monotonic() - began) / 30, "more tries", 10)
    scene.operator.wait_for_log("is older than the operator")
    install(scene.plane, today)
    scene.operator.restart()  # else it tries again within 30 seconds
    scene.wait_converged(60)


def refused(scene: Scene, mark: int) -> list[int]:
    """Answers of 400 and more to what the operator wrote."""
    events = scene.plane.audit.mutations(mark, user=scene.operator.user)
    return [event.code for event in events if event.code >= 400]
