"""The chart and the kustomizations before a real API server, which knows no Prometheus operator and has no nodes."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests import assemble
from testbed import ControlPlane
from testbed.api import Api
from testbed.deadline import wait_for
from testbed.helm import Helm
from testbed.schemas import kubeconform, write_schemas
from tests.integration.stage import ROOT, Stage
from tests.integration.test_chart import CHART, SHAPES, kustomized

# A first run builds Helm and kubeconform.
pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(1800)]

KUSTOMIZATIONS = sorted(path.parent for path in (ROOT / "manifests").rglob("[Kk]ustomization*"))
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
GROUPS = (
    "api/v1",
    "apis/apps/v1",
    "apis/rbac.authorization.k8s.io/v1",
    "apis/networking.k8s.io/v1",
    "apis/apiextensions.k8s.io/v1",
    "apis/policy/v1",
    "apis/gemmaspec.io/v1alpha1",
)
# Kinds of other people, which no API server of ours knows; their own definitions judge them elsewhere:
# test_monitoring_manifests.py, test_gitops_served.py.
FOREIGN = ("monitoring.coreos.com", "argoproj.io", "fluxcd.io")


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def schemas(control_plane: ControlPlane, stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    api = Api(control_plane.kubeconfig)
    assert stage.plane is control_plane, "the definition is served"
    wait_for(lambda: api.get("/openapi/v3/apis/gemmaspec.io/v1alpha1")[0] == 200, "the definition's schema", 60)
    assert write_schemas(api, folder, GROUPS) > len(GROUPS)
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_kubeconform_passes_strictly(helm: Helm, schemas: Path, shape: str) -> None:
    told = [one for one in kubeconform(helm.template(CHART, SHAPES[shape]), schemas) if one["kind"]]
    assert len(told) == len(helm.objects(CHART, SHAPES[shape]))
    assert [f"{one['kind']}: {one['msg']}" for one in told if one["status"] != "statusValid"] == []


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_kubeconform_passes_kustomizations_strictly(schemas: Path, folder: Path) -> None:
    documents = known(kustomized(folder))
    told = [one for one in kubeconform(yaml.safe_dump_all(documents), schemas) if one["kind"]]
    assert len(told) == len(documents)
    assert [f"{one['kind']}: {one['msg']}" for one in told if one["status"] != "statusValid"] == []


def test_kubeconform_sees_what_is_wrong(schemas: Path) -> None:
    wrong = {"apiVersion": "gemmaspec.io/v1alpha1", "kind": "GemmaSpecDeploy", "metadata": {"name": "a"}}
    (told,) = kubeconform(yaml.safe_dump(wrong | {"spec": {"replica": 1}}), schemas)
    assert told["status"] == "statusInvalid"
    assert "replica" in told["msg"]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_taken(control_plane: ControlPlane, crd: None, sample: Path) -> None:
    """`kubectl apply -f manifests/samples/…`: those that wait for a digest of yours have one that is in order."""
    control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(sample))


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_kustomizations_are_taken(control_plane: ControlPlane, crd: None, folder: Path) -> None:
    """`kubectl apply -k`, as the API server would answer."""
    documents = known(kustomized(folder))
    give_namespaces(control_plane, documents)
    control_plane.kubectl.apply(yaml.safe_dump_all(documents), "--dry-run=server", "--server-side")


def test_the_single_file_is_taken(control_plane: ControlPlane, crd: None) -> None:
    """`kubectl apply -f`."""
    give_namespaces(control_plane, kustomized(ROOT / "manifests" / "install"))
    said = control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", str(assemble.SINGLE)
    )
    assert "deployment.apps/gemmaspec-operator" in said


def test_the_resource_of_the_notes_is_taken(helm: Helm, control_plane: ControlPlane, crd: None) -> None:
    """What `helm install` tells to apply next, once a digest stands in it."""
    said = helm("install", "gemmaspec", str(CHART), "--namespace=gemmaspec-system", "--dry-run=client")
    (told,) = re.findall(r"<<EOF\n(.*?)\n *EOF\n", said, re.DOTALL)
    resource = textwrap.dedent(told).replace("sha256:...", "sha256:" + "0" * 64)
    control_plane.kubectl.apply(resource, "--dry-run=server", "--validate=strict")
    assert re.search(r"kubectl -n gemmaspec-system rollout status deployment/gemmaspec-operator\n", said)


def test_examples_for_artifact_hub_are_taken(control_plane: ControlPlane, crd: None) -> None:
    """The annotations of the chart: what it installs, and an example of each kind."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["annotations"]
    (kind,) = yaml.safe_load(about["artifacthub.io/crds"])
    assert kind["name"] in control_plane.kubectl("get", "crd", kind["name"], "-o", "name")
    examples = yaml.safe_load(about["artifacthub.io/crdsExamples"])
    assert {example["kind"] for example in examples} == {kind["kind"]}
    control_plane.kubectl.apply(yaml.safe_dump_all(examples), "--dry-run=server", "--validate=strict")


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


def known(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the kinds that only other people's definitions know."""
    return [one for one in documents if not one["apiVersion"].partition("/")[0].endswith(FOREIGN)]


def give_namespaces(plane: ControlPlane, documents: list[dict[str, Any]]) -> None:
    """A dry run makes no namespace for the objects that follow."""
    for name in sorted({one["metadata"]["namespace"] for one in documents if "namespace" in one["metadata"]}):
        plane.kubectl.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
