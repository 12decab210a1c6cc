"""What README tells a newcomer to type, typed: each way of installing, the samples, the first looks.

Only docker's lines are left out; in their place the nodes get the operator's image under the name of the text.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.installation import CRD_NAME, REPOSITORY, Operator, wait_ready
from demo.resource import Resource
from stories import BOOT_SECONDS
from testbed import Cluster
from testbed.deadline import wait_for
from testbed.golang import HELM, KUBERNETES, programs
from testbed.images import operator_image

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1200)]

SYSTEM = "gemmaspec-system"
OPERATOR = Operator(SYSTEM, "gemmaspec-operator", "gemmaspec-operator", "app.kubernetes.io/name=gemmaspec", "operator")
REGISTRY = "gemmaspec.local"


class Newcomer:
    """A shell in the repository, with the programs that README supposes."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster = cluster
        found = [programs(KUBERNETES), programs(HELM), Path(sys.executable).parent]
        path = os.pathsep.join([*map(str, found), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path, "KUBECONFIG": str(cluster.kubeconfig), "HOME": str(home)}

    def types(self, command: str) -> str:
        """Run a command as it stands; returns what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=REPOSITORY,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        print(f"$ {command}\n{done.stdout}{done.stderr}")
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout


def told(section: str) -> list[list[str]]:
    """Commands of a section of README, by fence, without comments and docker."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}\n(.*?)^## ", text + "\n## ", re.MULTILINE | re.DOTALL)
    found = []
    for fence in re.findall(r"^```\n(.*?)^```", body, re.MULTILINE | re.DOTALL):
        lines = re.sub(r"\s+#.*$", "", fence.replace("\\\n", " "), flags=re.MULTILINE).splitlines()
        found.append([line.replace("REGISTRY", REGISTRY) for line in lines if not line.startswith("docker ")])
    return [fence for fence in found if fence]


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    Cluster("readme").down()
    cluster = Cluster.up("readme")
    for machine in cluster.nodes():
        machine.load(operator_image("0.1.0"))
    yield Newcomer(cluster, tmp_path)
    cluster.down()


def test_it_can_be_followed(newcomer: Newcomer) -> None:
    ways, resource = told("Install")
    assert [way.split()[0] for way in ways] == ["helm", "kubectl", "sed"]
    for way in ways:
        newcomer.types(way)
        wait_ready(newcomer.cluster.kubectl, OPERATOR)
        if way is not ways[-1]:
            clear(newcomer)
    for command in resource:
        newcomer.types(command.removesuffix(" -w"))
    sample = Resource(newcomer.cluster.kubectl, "gemma4-26b")
    lacking = sample.wait(lambda now: "RuntimeClass" in told_by(now), "a word on what this cluster lacks", 60)
    assert "NAME" in newcomer.types("kubectl get gsd"), lacking
    sample.delete()

    newcomer.types("kubectl apply -f manifests/samples/gemmaspec-tiny.yaml")
    Resource(newcomer.cluster.kubectl, "tiny").wait_settled(BOOT_SECONDS)
    assert re.search(r"^tiny .* True +Serving", newcomer.types("kubectl get gsd"), re.MULTILINE)
    assert "tiny" in newcomer.types("kubectl gemmaspec status tiny")
    assert "tiny" in newcomer.types("gemmaspec top --once")
    assert "gemma4-26b-nvfp4-modern" in newcomer.types("gemmaspec recipes")
    assert "kind: Deployment" in newcomer.types("gemmaspec plan -f manifests/samples/gemmaspec-tiny.yaml")
    assert "DraftRejected" in newcomer.types("gemmaspec explain DraftRejected")


def told_by(resource: dict[str, Any]) -> str:
    """Messages of a resource's conditions."""
    return " ".join(entry["message"] for entry in resource.get("status", {}).get("conditions", ()))


def clear(newcomer: Newcomer) -> None:
    """Everything away again, whoever put it there."""
    kubectl = newcomer.cluster.kubectl
    kubectl("delete", "namespace", SYSTEM, "--timeout=90s", timeout=100)
    kubectl("delete", "crd", CRD_NAME, "--timeout=60s", timeout=70)
    kubectl("delete", "clusterrole,clusterrolebinding", "-l", "app.kubernetes.io/name=gemmaspec")
    wait_for(lambda: not kubectl("get", "crd", CRD_NAME, "--ignore-not-found").strip(), "the definition gone", 60)
