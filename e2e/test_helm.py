"""Helm takes the operator over beside running engines, upgrades it, and goes; the engines notice nothing."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.installation import (
    CRD,
    CRD_NAME,
    REPOSITORY,
    described,
    install_crd,
    install_operator,
    rendered,
    wait_ready,
)
from demo.resource import Resource
from stories import Site, Tiny
from testbed.deadline import wait_for
from testbed.helm import Helm, settings

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1800)]

CHART = REPOSITORY / "charts" / "gemmaspec"
SNAPSHOT = REPOSITORY / "tests" / "data" / "gemmaspec-0.1.0.tgz"
NOWHERE = {"nodes": {"selector": {"e2e/nowhere": "true"}}}  # its pod stays pending: children without an engine
RELEASE = "gemmaspec"


def previous(folder: Path) -> Path:
    """The chart's last snapshot as it was, but for the definition: today's, without what it has since learned.

    The operator of that snapshot is not here any more, and today's can't report under a definition that lacks fields
    of its status (tests/integration/test_evolution.py), nor without a right that it has since come to use. So the
    earlier definition lacks only a column, and the rights are today's.
    """
    with tarfile.open(SNAPSHOT) as archive:
        archive.extractall(folder, filter="data")
    definition = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    (version,) = definition["spec"]["versions"]
    version["additionalPrinterColumns"].pop()
    (folder / "gemmaspec" / "files" / "crd.yaml").write_text(yaml.safe_dump(definition))
    shutil.copy(CHART / "files" / "rules.yaml", folder / "gemmaspec" / "files" / "rules.yaml")
    return folder / "gemmaspec"


def values(site_image: str, **more: Any) -> list[str]:
    """The operator's image, and what the stories' cluster needs."""
    repository, _, rest = site_image.partition("@")
    image = {"image.repository": repository, "image.digest": rest} if rest else tagged(repository)
    return settings({**image, "key.existingSecret": "gemmaspec-operator-key", **more})


def tagged(reference: str) -> dict[str, Any]:
    """Values for repository:tag."""
    repository, _, tag = reference.rpartition(":")
    return {"image.repository": repository, "image.tag": tag}


@pytest.fixture
def unmanaged(site: Site) -> Iterator[str]:
    """The cluster without an operator, and the operator's image; at the end it is as it was found."""
    image = site.cluster.load("operator")["operator"]
    kubectl, operator = site.kubectl, site.operator
    kubectl("delete", "deployment", operator.deployment, "-n", operator.namespace, "--wait=true")
    for kind in ("clusterrolebinding", "clusterrole"):  # the operator's rights and its users'
        kubectl("delete", kind, "-l", "app.kubernetes.io/name=gemmaspec")
    kubectl("delete", "serviceaccount", operator.service_account, "-n", operator.namespace)
    yield image
    install_crd(kubectl)
    install_operator(kubectl, image)


def test_helm_comes_upgrades_and_goes_beside_running_engines(tiny: Tiny, unmanaged: str, tmp_path: Path) -> None:
    """`helm install` adopts what kustomize left; a resource made then is served; `helm upgrade` brings today's
    definition; `helm uninstall` keeps definition, resources and engines. The engine's pod is the same throughout.
    """
    site = tiny.site
    kubectl, operator = site.kubectl, described(rendered(site.kubectl, unmanaged))
    helm = Helm(tmp_path / "helm", site.own.kubeconfig)
    where = (f"--namespace={operator.namespace}",)
    before = engines(tiny.resource)
    taken = ("--take-ownership", "--force-conflicts")  # what kubectl applied is Helm's from here on
    today = columns(site)
    helm("install", RELEASE, str(previous(tmp_path)), *where, *taken, *values(unmanaged))
    wait_ready(kubectl, operator)
    assert columns(site) == today[:-1]
    helped = site.apply("helmed", **NOWHERE)
    try:
        wait_for(lambda: helped.json("get", "deployments", "-l", "gemmaspec.io/deploy=helmed")["items"], "children", 60)
        tiny.settle()

        helm("upgrade", RELEASE, str(CHART), *where, *taken, *values(unmanaged))
        wait_ready(kubectl, operator)
        assert columns(site) == today
        tiny.settle()
        assert engines(tiny.resource) == before

        helm("uninstall", RELEASE, *where)
        assert kubectl("get", "crd", CRD_NAME, "-o", "name").strip()
        assert helped.read()["spec"]["nodes"]["selector"]
        assert engines(tiny.resource) == before
        assert tiny.client().models.list().data[0].id == "tiny"
    finally:
        helped.delete(60)


def columns(site: Site) -> list[str]:
    """Columns that the installed definition has kubectl print."""
    (version,) = site.kubectl.json("get", "crd", CRD_NAME)["spec"]["versions"]
    return [column["name"] for column in version["additionalPrinterColumns"]]


def engines(resource: Resource) -> list[tuple[str, int]]:
    """Uid and restarts of each engine's pod."""
    return [
        (pod["metadata"]["uid"], sum(one["restartCount"] for one in pod["status"]["containerStatuses"]))
        for pod in resource.pods()
    ]
