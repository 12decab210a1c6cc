"""What the integration tests share: a real kube-apiserver with etcd, started by the project's own testbed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane with controllers (garbage collection, ServiceAccounts) and without nodes.

    The first use on a machine builds Kubernetes' programs with Go, which takes minutes and is then cached.
    """
    with ControlPlane(controllers=True) as plane:
        yield plane
