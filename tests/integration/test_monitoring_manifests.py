"""manifests/monitoring against the Prometheus operator's own definitions, on a real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from demo.installation import established
from gemmaspec.core import names
from monitoring.manifests import FOLDER
from testbed import ControlPlane
from testbed.deadline import wait_for
from testbed.golang import sources
from testbed.kubectl import Kubectl, KubectlError

pytestmark = pytest.mark.control_plane

DEFINITIONS = ("podmonitors", "prometheusrules")
OPERATOR = (
    "github.com/prometheus-operator/prometheus-operator",
    "v0.93.0",
    "h1:AohlYJT+En8TmNpAcEUJ3GsaJTAqfEBwHmGTVpRm/Io=",
)


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl, with the definitions of PodMonitor and PrometheusRule installed."""
    run = control_plane.kubectl
    folder = sources(*OPERATOR) / "example" / "prometheus-operator-crd"
    for name in DEFINITIONS:
        run("apply", "--server-side", "-f", str(folder / f"monitoring.coreos.com_{name}.yaml"))
        wait_for(lambda name=name: established(run, f"{name}.monitoring.coreos.com"), f"{name} established", 60)
    run.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gemmaspec-system"}}))
    return run


def test_the_api_server_takes_all_of_it(kubectl: Kubectl) -> None:
    def taken() -> str:
        return kubectl("apply", "--dry-run=server", "--validate=strict", "-k", str(FOLDER))

    said = wait_for(lambda: _tried(taken), "the new kinds served", 60)
    assert said.count("created (server dry run)") == 4


def _tried(ask: object) -> str:
    assert callable(ask)
    try:
        return str(ask())
    except KubectlError as error:
        if "no matches for kind" in str(error):  # discovery of a new kind takes a moment
            return ""
        raise


def test_the_operator_s_monitor_selects_the_operator(kubectl: Kubectl) -> None:
    (monitor,) = (body for body in _rendered(kubectl, "monitoring") if body["metadata"]["name"] == "gemmaspec-operator")
    (deployment,) = (body for body in _rendered(kubectl, "install") if body["kind"] == "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_the_engines_monitor_selects_engines(kubectl: Kubectl) -> None:
    (monitor,) = (body for body in _rendered(kubectl, "monitoring") if body["metadata"]["name"] == "gemmaspec-engines")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= names.labels("any").items()
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    assert ports == {"http", "agent"}


def _rendered(kubectl: Kubectl, folder: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kubectl("kustomize", str(FOLDER.parent / folder))))
