"""A release of the chart for one namespace: the operator with its rights alone, an upgrade, and an end without rest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import ControlPlane
from testbed.api import Api
from testbed.deadline import wait_for
from testbed.helm import Helm, settings
from tests.integration.fake_engine import GOOD, FakeEngines
from tests.integration.fake_kubelet import FakeKubelet, FakeNode
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import Scene
from tests.integration.stage import ROOT, SERVED

# A first run builds Helm.
# A campaign: it waits for a minute until the garbage collector knows the kind.
pytestmark = [pytest.mark.control_plane, pytest.mark.campaign, pytest.mark.timeout(1200)]

CHART = ROOT / "charts" / "gemmaspec"
SYSTEM, ACCOUNT, DEPLOYMENT = "gemmaspec-system", "gemmaspec-operator", "gemmaspec-operator"
# Named: `all` would still hold our own kind, which kubectl remembers.
LEFT = "deployments,services,serviceaccounts,secrets,roles,rolebindings"
TENANT, OTHER = "tenant", "other"
VALUES = settings({"watchNamespaces": [TENANT], "crds.keep": False})


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A cluster that has never heard of us."""
    with ControlPlane(controllers=True) as plane:
        yield plane


@pytest.fixture(scope="module")
def helm(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm, on that cluster, with a release."""
    helm = Helm(tmp_path_factory.mktemp("helm"), plane.kubeconfig)
    for name in (TENANT, OTHER):
        plane.kubectl("create", "namespace", name)
    helm("install", "gemmaspec", str(CHART), f"--namespace={SYSTEM}", "--create-namespace", *VALUES)
    wait_for(lambda: Api(plane.kubeconfig).ready(SERVED), "the served definition", 60)
    return helm


@pytest.fixture(scope="module")
def scene(plane: ControlPlane, helm: Helm, operator_sources: Path, fake_engines: FakeEngines) -> Iterator[Scene]:
    """The tenant's namespace, with the operator as the release configures it, under the release's account."""
    api = Api(plane.kubeconfig)
    node = FakeNode(api)
    node.start()
    kubelet = FakeKubelet(api, TENANT, fake_engines, GOOD)
    kubelet.start()
    user = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
    options = {"GEMMASPEC_NAMESPACES": configured(plane)["GEMMASPEC_NAMESPACES"]}
    kubeconfig = plane.kubeconfig_for_service_account(SYSTEM, ACCOUNT)
    operator = OperatorProcess(plane, operator_sources, user, kubeconfig, options)
    operator.start()
    yield Scene(plane, api, TENANT, operator, kubelet, fake_engines)
    operator.kill()
    kubelet.close()
    node.close()


def configured(plane: ControlPlane) -> dict[str, str]:
    """Environment of the operator's container."""
    deployment = plane.kubectl.json("get", "deployment", DEPLOYMENT, "-n", SYSTEM)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_rights_in_one_namespace_suffice_there_and_reach_no_further(scene: Scene) -> None:
    elsewhere = {
        "apiVersion": "gemmaspec.io/v1alpha1",
        "kind": "GemmaSpecDeploy",
        "metadata": {"name": "unseen"},
        "spec": scene.spec(),
    }
    scene.plane.kubectl.apply(json.dumps(elsewhere), "-n", OTHER)
    scene.apply()
    scene.wait_converged(60)
    events = scene.plane.audit.events(user=scene.operator.user)
    assert [(event.verb, event.uri) for event in events if event.code in (401, 403)] == []
    assert {event.namespace for event in events if event.resource} == {TENANT}
    assert "status" not in scene.plane.kubectl.json("get", "gsd", "unseen", "-n", OTHER)
    roles = scene.plane.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name").split()
    own = [name.partition("/")[2] for name in roles if "gemmaspec" in name]
    assert own == ["gemmaspec-edit", "gemmaspec-view"], "rights that users of the namespace have, bound to nobody else"


def test_an_upgrade_touches_no_engine(scene: Scene, helm: Helm) -> None:
    scene.wait_converged(60)
    before = {key: child["metadata"]["uid"] for key, child in scene.children().items()}
    generation = {one["metadata"]["name"]: one["metadata"]["generation"] for one in scene.all("deployments")}
    key = secret(scene)
    helm("upgrade", "gemmaspec", str(CHART), f"--namespace={SYSTEM}", *VALUES, "--set=operator.logLevel=DEBUG")
    assert configured(scene.plane)["GEMMASPEC_LOG_LEVEL"] == "DEBUG"
    assert secret(scene) == key, "another key is another revision"
    scene.operator.restart()  # as its Deployment does on a machine with a kubelet
    scene.wait_converged(60)
    assert {key: child["metadata"]["uid"] for key, child in scene.children().items()} == before
    assert {one["metadata"]["name"]: one["metadata"]["generation"] for one in scene.all("deployments")} == generation


def secret(scene: Scene) -> Any:
    return scene.plane.kubectl.json("get", "secret", f"{DEPLOYMENT}-key", "-n", SYSTEM)["data"]["key"]


def test_an_end_without_keep_leaves_nothing(scene: Scene, helm: Helm) -> None:
    scene.wait_converged(60)
    # The garbage collector looks for new kinds every 30 s. A kind that came and went in between is one that it can't
    # look up any more, and it keeps the children of owners that it can't look up.
    time.sleep(65)
    scene.operator.kill()  # its Deployment goes first, and nothing may wait for it
    helm("uninstall", "gemmaspec", f"--namespace={SYSTEM}", "--wait", "--timeout=60s")
    kubectl = scene.plane.kubectl
    assert not kubectl("get", "crd", "gemmaspecdeploys.gemmaspec.io", "--ignore-not-found", "-o", "name").strip()
    scene.until(lambda: not scene.children(), "children collected", 120)
    left = kubectl("get", LEFT, "-A", "-o", "name").split()
    assert [one for one in left if "gemmaspec" in one] == []
