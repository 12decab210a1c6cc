"""What the operator's own port tells of a resource that comes, serves and goes."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.scene import NAME, Scene

pytestmark = pytest.mark.control_plane


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


PORT = _free_port()


def _told(namespace: str) -> dict[str, list[dict[str, str]]]:
    """Labels of the series of the namespace's resources, by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("namespace") == namespace:
                found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.operator_options(GEMMASPEC_METRICS_PORT=str(PORT))
def test_series_come_and_go_with_the_resource(scene: Scene) -> None:
    scene.operator.start()
    scene.apply()
    scene.wait_converged()
    scene.until(lambda: "gemmaspec_conditional_acceptance_ratio" in _told(scene.namespace), "measured acceptance", 60)
    told = _told(scene.namespace)
    assert [labels["name"] for labels in told["gemmaspec_k_effective"]] == [NAME]
    assert [labels["position"] for labels in told["gemmaspec_conditional_acceptance_ratio"]] == ["0", "1", "2", "3"]
    ready = {"condition": "Ready", "status": "True", "reason": "Serving", "name": NAME, "namespace": scene.namespace}
    assert ready in told["gemmaspec_status_condition"]
    scene.send("DELETE", scene.path("gemmaspecdeploys", NAME))
    scene.until(lambda: _told(scene.namespace) == {}, "the end of its series", 60)
