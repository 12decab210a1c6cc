"""What the integration tests share: a real kube-apiserver with etcd, started by the project's own testbed."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import ControlPlane
from testbed.api import Api
from testbed.deadline import wait_for
from testbed.pki import ADMINISTRATORS
from tests.integration.fake_engine import GOOD, FakeEngines
from tests.integration.fake_kubelet import FakeKubelet, FakeNode
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import Scene

SERVED = "/apis/gemmaspec.io/v1alpha1/gemmaspecdeploys"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane with controllers (garbage collection, ServiceAccounts) and without nodes.

    The first use on a machine builds Kubernetes' programs with Go, which takes minutes and is then cached.
    """
    with ControlPlane(controllers=True) as plane:
        yield plane


@pytest.fixture(scope="session")
def operator_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the operator's sources: one state of them is tested, whoever edits meanwhile.

    The engine files are part of every revision, so that an edit would restart engines.
    """
    copy = tmp_path_factory.mktemp("operator") / "sources"
    shutil.copytree(ROOT / "operator", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="session")
def crd_file(operator_sources: Path) -> Path:
    """The definition that belongs to the copied sources (another test compares it with crds/)."""
    file = operator_sources / "crd.yaml"
    command = [sys.executable, "-m", "gemmaspec.api.crd", str(file)]
    subprocess.run(command, env={"PYTHONPATH": str(operator_sources)}, check=True, timeout=60)
    return file


@pytest.fixture(scope="session")
def crd(control_plane: ControlPlane, crd_file: Path) -> None:
    """The resource's definition is installed and served."""
    control_plane.kubectl("apply", "--server-side", "-f", str(crd_file))
    wait_for(lambda: Api(control_plane.kubeconfig).ready(SERVED), "the served definition", 30)


@pytest.fixture(scope="session")
def fake_engines() -> Iterator[FakeEngines]:
    """Fake engines on loopback addresses."""
    engines = FakeEngines()
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def fake_node(control_plane: ControlPlane) -> Iterator[None]:
    """A node for the controllers to see."""
    node = FakeNode(Api(control_plane.kubeconfig))
    node.start()
    yield
    node.close()


_numbers = itertools.count(1)


@pytest.fixture
def scene(
    control_plane: ControlPlane,
    crd: None,
    operator_sources: Path,
    fake_engines: FakeEngines,
    fake_node: None,
    request: pytest.FixtureRequest,
) -> Iterator[Scene]:
    """A namespace with an operator that is not started yet, a fake kubelet, and traffic of the good kind."""
    namespace = f"scene-{next(_numbers)}"
    api = Api(control_plane.kubeconfig)
    api.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    user = f"operator-{namespace}"
    marker = request.node.get_closest_marker("operator_options")
    options = {"GEMMASPEC_NAMESPACES": namespace} | (marker.kwargs if marker else {})
    kubeconfig = control_plane.kubeconfig_for(user, [ADMINISTRATORS])
    operator = OperatorProcess(control_plane, operator_sources, user, kubeconfig, options)
    kubelet = FakeKubelet(api, namespace, fake_engines, GOOD)
    kubelet.start()
    yield Scene(control_plane, api, namespace, operator, kubelet, fake_engines)
    operator.kill()
    kubelet.close()


@pytest.fixture
def running(scene: Scene) -> Scene:
    """The scene with its operator started."""
    scene.operator.start()
    return scene
