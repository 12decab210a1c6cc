"""What the integration tests share: a real kube-apiserver with etcd, started by the project's own testbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import ControlPlane
from testbed.pki import ADMINISTRATORS
from tests.integration.fake_engine import FakeEngines
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import Scene
from tests.integration.stage import Stage, copied_sources, definition


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
    return copied_sources(tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="session")
def crd_file(operator_sources: Path) -> Path:
    """The definition that belongs to the copied sources (another test compares it with crds/)."""
    return definition(operator_sources)


@pytest.fixture(scope="session")
def key_options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The operator's option that names the key for the agents' tokens."""
    file = tmp_path_factory.mktemp("key") / "key"
    file.write_text("of-these-tests-only-0123456789")
    return {"GEMMASPEC_KEY_FILE": str(file)}


@pytest.fixture(scope="session")
def fake_engines() -> Iterator[FakeEngines]:
    """Fake engines on loopback addresses."""
    engines = FakeEngines()
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def stage(control_plane: ControlPlane, crd_file: Path) -> Iterator[Stage]:
    """The stage of tests that treat an operator of their own."""
    stage = Stage(control_plane, crd_file)
    yield stage
    stage.close()


@pytest.fixture
def crd(stage: Stage) -> None:
    """The resource's definition is installed and served."""


@pytest.fixture(scope="session")
def shared_stage(stage: Stage, crd_file: Path) -> Iterator[Stage]:
    """The stage of tests that share one operator: its start takes seconds.

    The other stage is asked for so that it begins early: a garbage collector learns of new kinds after 30 seconds.
    """
    with ControlPlane(controllers=True) as plane:
        stage = Stage(plane, crd_file)
        yield stage
        stage.close()


@pytest.fixture(scope="session")
def shared_operator(
    shared_stage: Stage, operator_sources: Path, key_options: dict[str, str]
) -> Iterator[OperatorProcess]:
    """One operator for the whole of the shared stage."""
    plane = shared_stage.plane
    kubeconfig = plane.kubeconfig_for("operator", [ADMINISTRATORS])
    operator = OperatorProcess(plane, operator_sources, "operator", kubeconfig, key_options)
    operator.start()
    yield operator
    operator.kill()


@pytest.fixture
def scene(
    stage: Stage, operator_sources: Path, fake_engines: FakeEngines, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    """A namespace with an operator of its own that is not started yet, a fake kubelet, traffic of the good kind."""
    marker = request.node.get_closest_marker("operator_options")

    def operator(namespace: str) -> OperatorProcess:
        user = f"operator-{namespace}"
        options = {"GEMMASPEC_NAMESPACES": namespace} | (marker.kwargs if marker else {})
        kubeconfig = stage.plane.kubeconfig_for(user, [ADMINISTRATORS])
        return OperatorProcess(stage.plane, operator_sources, user, kubeconfig, options)

    found = stage.scene(operator, fake_engines)
    yield found
    found.operator.kill()
    found.kubelet.close()


@pytest.fixture
def running(shared_stage: Stage, shared_operator: OperatorProcess, fake_engines: FakeEngines) -> Iterator[Scene]:
    """A namespace under the shared operator, which runs: not for tests that kill it."""
    found = shared_stage.scene(lambda _: shared_operator, fake_engines)
    yield found
    found.clear()
    found.kubelet.close()
