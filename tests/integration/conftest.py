"""What the integration tests share: a real kube-apiserver with etcd, started by the project's own testbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import ControlPlane

CRDS = Path(__file__).resolve().parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane with controllers (garbage collection, ServiceAccounts) and without nodes.

    The first use on a machine builds Kubernetes' programs with Go, which takes minutes and is then cached.
    """
    with ControlPlane(controllers=True) as plane:
        yield plane


@pytest.fixture(scope="session")
def crd(control_plane: ControlPlane) -> None:
    """The resource's definition is installed and served."""
    control_plane.kubectl("apply", "--server-side", "-f", str(CRDS))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS))
