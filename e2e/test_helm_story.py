"""The whole life of a release on a cluster of its own: installed, used, upgraded, uninstalled in both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.installation import CRD_NAME, Operator, wait_ready
from demo.resource import Resource
from stories import BOOT_SECONDS, tiny_manifest
from test_helm import CHART, RELEASE, engines, previous, values
from testbed import Cluster
from testbed.deadline import wait_for
from testbed.helm import Helm

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1800)]

SYSTEM, NAMESPACE = "gemmaspec-system", "llm"
OPERATOR = Operator(SYSTEM, "gemmaspec-operator", "gemmaspec-operator", "app.kubernetes.io/name=gemmaspec", "operator")
# Named: `all` would still hold our own kind, which kubectl remembers.
LEFT = "deployments,services,serviceaccounts,secrets,clusterroles,clusterrolebindings"
WHERE = f"--namespace={SYSTEM}"


@pytest.fixture
def fresh() -> Iterator[Cluster]:
    """A cluster that has never heard of us."""
    Cluster("helm-story").down()
    cluster = Cluster.up("helm-story")
    yield cluster
    cluster.down()


def test_a_release_from_its_first_to_its_last_day(fresh: Cluster, tmp_path: Path) -> None:
    kubectl, helm = fresh.kubectl, Helm(tmp_path / "helm", fresh.kubeconfig)
    own = [*values(fresh.load("operator")["operator"]), "--set=key.existingSecret=", "--wait", "--timeout=120s"]
    resource = Resource(kubectl, "tiny", NAMESPACE)
    kubectl("create", "namespace", NAMESPACE)
    wait_for(lambda: kubectl("get", "sa", "default", "-n", NAMESPACE, "--ignore-not-found"), "its account", 30)

    said = helm("install", RELEASE, str(previous(tmp_path)), WHERE, "--create-namespace", *own)
    assert "kubectl apply" in said, "the notes tell the next command"
    resource.apply(tiny_manifest(fresh))
    resource.wait_settled(BOOT_SECONDS)
    before = engines(resource)
    assert len(before) == 1

    helm("upgrade", RELEASE, str(CHART), WHERE, *own)
    resource.wait_settled(60)
    assert engines(resource) == before, "an upgrade restarts no engine"

    helm("uninstall", RELEASE, WHERE, "--wait")
    assert resource.read()["status"]["readyReplicas"] == 1
    assert engines(resource) == before, "definition, resource and engine stay"

    helm("install", RELEASE, str(CHART), WHERE, *own, "--set=crds.keep=false")
    wait_ready(kubectl, OPERATOR)
    resource.wait_settled(60)
    assert engines(resource) == before, "a release that comes back finds its key, and the engines as they were"

    helm("uninstall", RELEASE, WHERE, "--wait", "--timeout=120s")
    assert not kubectl("get", "crd", CRD_NAME, "--ignore-not-found", "-o", "name").strip(), "no finalizer hangs"
    wait_for(lambda: not resource.pods(), "the engine's pod gone", 180)
    owned = kubectl("get", "deploy,svc,cm,pdb,sa", "-n", NAMESPACE, "-l", "gemmaspec.io/deploy", "-o", "name")
    assert owned.strip() == ""
    left = kubectl("get", LEFT, "-A", "-o", "name").split()
    assert [one for one in left if "gemmaspec" in one] == []
