"""What the end-to-end tests share: a real cluster, the project's own or one of the user's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed import Cluster
from testbed.cache import cache_root, first_free
from testbed.usercluster import UserCluster

_NAMES = [f"e2e-{number}" for number in range(1, 9)]  # so many sessions may run at the same time


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the end-to-end tests."""
    group = parser.getgroup("cluster")
    group.addoption("--context", help="use the cluster behind this context of your kubeconfig instead of the testbed")
    group.addoption("--image", action="append", default=[], metavar="NAME=REF", help="with --context: where it pulls")
    group.addoption("--keep-cluster", action="store_true", help="leave the testbed's cluster running, and use it again")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster | UserCluster]:
    """A running cluster with the operator's and the engine's image.

    The testbed installs and builds what the machine lacks (minutes, once), or fails and says what to do.
    """
    if context := pytestconfig.getoption("--context"):
        yield UserCluster(context, dict(pair.split("=", 1) for pair in pytestconfig.getoption("--image")))
        return
    keep = pytestconfig.getoption("--keep-cluster")
    with first_free(cache_root() / "clusters", _NAMES) as name:
        if not keep:
            Cluster(name).down()  # what a killed session left would be found half used
        running = Cluster.up(name)
        yield running
        if not keep:
            running.down()


@pytest.fixture(scope="session")
def own_cluster(cluster: Cluster | UserCluster) -> Cluster:
    """The cluster, for tests that reach behind the API: machines, audit log, node loss."""
    if isinstance(cluster, UserCluster):
        pytest.fail("this test needs the testbed's own cluster: run it without --context")
    return cluster
