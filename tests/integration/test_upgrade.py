"""From the version before to this one: its chart, its definition and its operator, then ours. Engines are fake.

Nothing was released yet. What came before is therefore a commit: the newest tag where there is one, else the one that
is named here. Its operator is its code, taken out of the repository's history, and no image.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import ControlPlane
from testbed.api import Api
from testbed.deadline import wait_for
from testbed.helm import Helm, settings
from tests.integration.fake_engine import GOOD, FakeEngines
from tests.integration.fake_kubelet import FakeKubelet, FakeNode
from tests.integration.operator_process import LISTED, OperatorProcess
from tests.integration.scene import Scene
from tests.integration.stage import ROOT, SERVED

# A first run builds Helm.
pytestmark = [pytest.mark.control_plane, pytest.mark.campaign, pytest.mark.timeout(1200)]

# The last one before revisions were numbered and engines warmed up.
BEFORE = "7899d7fbb1bf5327711b49330ec5997afb7bdeec"
SYSTEM, ACCOUNT, TENANT = "gemmaspec-system", "gemmaspec-operator", "tenant"
VALUES = settings({"watchNamespaces": [TENANT]})


def git(*arguments: str) -> bytes:
    """What git says about this repository. Fails where it has no history."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=60, check=False)
    if done.returncode:
        said = done.stderr.decode().strip()
        pytest.fail(f"git {arguments[0]}: {said}: this test needs the history (git fetch --unshallow)")
    return done.stdout


def previous() -> str:
    """The version before this one."""
    tags = git("tag", "--list", "v*", "--sort=-v:refname", "--merged", "HEAD").decode().split()
    return tags[0] if tags else BEFORE


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Operator and chart of the version before."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(git("archive", previous(), "operator", "charts"))) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def scene(tmp_path: Path, before: Path, fake_engines: FakeEngines) -> Iterator[Scene]:
    """A cluster of its own with the earlier release; its operator is not started yet."""
    with ControlPlane(controllers=True) as plane:
        helm = Helm(tmp_path / "helm", plane.kubeconfig)
        plane.kubectl("create", "namespace", TENANT)
        chart = str(before / "charts" / "gemmaspec")
        helm("install", "gemmaspec", chart, f"--namespace={SYSTEM}", "--create-namespace", *VALUES)
        wait_for(lambda: Api(plane.kubeconfig).ready(SERVED), "the served definition", 60)
        api = Api(plane.kubeconfig)
        node, kubelet = FakeNode(api), FakeKubelet(api, TENANT, fake_engines, GOOD)
        node.start()
        kubelet.start()
        user = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
        kubeconfig = plane.kubeconfig_for_service_account(SYSTEM, ACCOUNT)
        operator = OperatorProcess(plane, before / "operator", user, kubeconfig, {"GEMMASPEC_NAMESPACES": TENANT})
        operator.listed = LISTED - {"jobs"}  # benchmarks came later
        yield Scene(plane, api, TENANT, operator, kubelet, fake_engines)
        operator.kill()
        kubelet.close()
        node.close()


def upgrade(scene: Scene, folder: Path, sources: Path) -> int:
    """`helm upgrade` to today's chart, then today's operator, as its Deployment would start it; the audit's mark."""
    helm = Helm(folder / "helm", scene.plane.kubeconfig)
    mark = scene.plane.audit.mark()
    helm("upgrade", "gemmaspec", str(ROOT / "charts" / "gemmaspec"), f"--namespace={SYSTEM}", *VALUES)
    scene.operator.kill()
    scene.operator._environment["PYTHONPATH"] = str(sources)
    scene.operator.listed = LISTED
    scene.operator.start()
    return mark


def engines(scene: Scene) -> set[str]:
    return {pod["metadata"]["uid"] for pod in scene.all("pods")}


def settled(scene: Scene) -> None:
    """Two engines serve, and what they earn is known."""
    scene.apply(replicas=2)
    scene.wait_converged(60)
    scene.until(lambda: scene.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    scene.until(lambda: {"acceptance", "throughput"} <= scene.status().keys(), "figures", 60)
    scene.quiet()


def test_an_upgrade_restarts_no_engine_whose_revision_is_the_same(
    scene: Scene, before: Path, operator_sources: Path, tmp_path: Path
) -> None:
    """The operator of then with the engine files of now: both render one revision, and nothing is written for it."""
    mixed = tmp_path / "mixed"
    shutil.copytree(before / "operator", mixed)
    shutil.rmtree(mixed / "gemmaspec_engine")
    shutil.copytree(operator_sources / "gemmaspec_engine", mixed / "gemmaspec_engine")
    scene.operator._environment["PYTHONPATH"] = str(mixed)
    scene.operator.start()
    settled(scene)
    pods, revision, deployments = engines(scene), scene.status()["revision"], scene.deployments()
    mark = upgrade(scene, tmp_path, operator_sources)
    scene.never(lambda: [w for w in scene.writes(mark) if w.resource == "deployments"], "a write to a Deployment", 5)
    assert (engines(scene), scene.deployments()) == (pods, deployments)
    assert scene.status()["revision"] == revision
    scene.kubelet.overlap = 0
    scene.apply(replicas=2, model={"target": "/models/other"})
    scene.until(lambda: scene.status().get("lastGoodRevision") not in (None, revision), "a rollout by today's", 90)
    scene.wait_converged(90)
    assert scene.kubelet.overlap <= 2


def test_an_upgrade_with_other_engine_files_rolls_them_as_any_revision(
    scene: Scene, operator_sources: Path, tmp_path: Path
) -> None:
    """The whole of the version before, then the whole of this one: judged on one box, then the other."""
    scene.operator.start()
    settled(scene)
    pods, revision = engines(scene), scene.status()["revision"]
    scene.kubelet.overlap = 0
    upgrade(scene, tmp_path, operator_sources)
    scene.until(lambda: scene.status()["lastGoodRevision"] != revision, "another good revision", 120)
    scene.wait_converged(90)
    assert not pods & engines(scene)
    assert scene.kubelet.overlap <= 2
    assert "RevisionPromoted" in [entry["reason"] for entry in scene.status()["history"]]
