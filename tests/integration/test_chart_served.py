"""The chart and the kustomizations before a real API server, which knows no Prometheus operator and has no nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests import assemble
from testbed import ControlPlane
from testbed.api import Api
from testbed.helm import Helm
from testbed.schemas import kubeconform, write_schemas
from tests.integration.stage import ROOT
from tests.integration.test_chart import CHART, SHAPES, kustomized

# A first run builds Helm.
# A campaign until all of it has passed.
pytestmark = [pytest.mark.control_plane, pytest.mark.campaign, pytest.mark.timeout(1800)]

KUSTOMIZATIONS = sorted(path.parent for path in (ROOT / "manifests").glob("*/[Kk]ustomization*"))
GROUPS = (
    "api/v1",
    "apis/apps/v1",
    "apis/rbac.authorization.k8s.io/v1",
    "apis/networking.k8s.io/v1",
    "apis/apiextensions.k8s.io/v1",
)


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def schemas(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    assert write_schemas(Api(control_plane.kubeconfig), folder, GROUPS) > len(GROUPS)
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_kubeconform_passes_strictly(helm: Helm, schemas: Path, shape: str) -> None:
    told = [one for one in kubeconform(helm.template(CHART, SHAPES[shape]), schemas) if one["kind"]]
    assert len(told) == len(helm.objects(CHART, SHAPES[shape]))
    assert [f"{one['kind']}: {one['msg']}" for one in told if one["status"] != "statusValid"] == []


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_kustomizations_are_taken(control_plane: ControlPlane, crd: None, folder: Path) -> None:
    """`kubectl apply -k`, as the API server would answer; Prometheus' kinds are not known to it."""
    documents = [one for one in kustomized(folder) if "monitoring.coreos.com" not in one["apiVersion"]]
    give_namespaces(control_plane, documents)
    control_plane.kubectl.apply(yaml.safe_dump_all(documents), "--dry-run=server", "--server-side")


def test_the_single_file_is_taken(control_plane: ControlPlane, crd: None) -> None:
    """`kubectl apply -f`."""
    give_namespaces(control_plane, kustomized(ROOT / "manifests" / "install"))
    said = control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", str(assemble.SINGLE)
    )
    assert "deployment.apps/gemmaspec-operator" in said


def test_a_release_comes_is_upgraded_and_goes(control_plane: ControlPlane, crd: None, tmp_path: Path) -> None:
    """The operator's pods have no node here (e2e/test_helm.py has one): objects, ownership, and what stays."""
    helm = Helm(tmp_path, control_plane.kubeconfig)
    kubectl = control_plane.kubectl
    where = ("-n", "chart-tried")
    fixed = ("gemmaspec", str(CHART), "--namespace=chart-tried", "--take-ownership", "--set=crds.enabled=false")
    helm("install", "--create-namespace", *fixed)
    key = kubectl.json("get", "secret", "gemmaspec-operator-key", *where)["data"]["key"]
    helm("upgrade", *fixed, "--set=operator.logLevel=DEBUG")
    assert kubectl.json("get", "secret", "gemmaspec-operator-key", *where)["data"]["key"] == key, (
        "engines would restart"
    )
    deployment = kubectl.json("get", "deployment", "gemmaspec-operator", *where)
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "GEMMASPEC_LOG_LEVEL", "value": "DEBUG"} in env
    helm("uninstall", "gemmaspec", "--namespace=chart-tried")
    left = kubectl("get", "deployment,serviceaccount,service", *where, "-o", "name").split()
    assert [one for one in left if "gemmaspec" in one] == []
    assert kubectl("get", "secret", "gemmaspec-operator-key", *where, "-o", "name").strip(), (
        "a new key restarts engines"
    )


def give_namespaces(plane: ControlPlane, documents: list[dict[str, Any]]) -> None:
    """A dry run makes no namespace for the objects that follow."""
    for name in sorted({one["metadata"]["namespace"] for one in documents if "namespace" in one["metadata"]}):
        plane.kubectl.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
