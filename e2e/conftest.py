"""What the end-to-end tests share: a real cluster, the project's own or one of the user's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed import Cluster
from testbed.usercluster import UserCluster

NAME = "e2e"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the end-to-end tests."""
    group = parser.getgroup("cluster")
    group.addoption("--context", help="use the cluster behind this context of your kubeconfig instead of the testbed")
    group.addoption("--image", action="append", default=[], metavar="NAME=REF", help="with --context: where it pulls")
    group.addoption("--keep-cluster", action="store_true", help="leave the testbed's cluster running at the end")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster | UserCluster]:
    """A running cluster with the operator's and the engine's image.

    The testbed installs and builds what the machine lacks (minutes, once), or fails and says what to do.
    """
    if context := pytestconfig.getoption("--context"):
        yield UserCluster(context, dict(pair.split("=", 1) for pair in pytestconfig.getoption("--image")))
        return
    running = Cluster.up(NAME)
    yield running
    if not pytestconfig.getoption("--keep-cluster"):
        running.down()


@pytest.fixture(scope="session")
def own_cluster(cluster: Cluster | UserCluster) -> Cluster:
    """The cluster, for tests that reach behind the API: machines, audit log, node loss."""
    if isinstance(cluster, UserCluster):
        pytest.fail("this test needs the testbed's own cluster: run it without --context")
    return cluster
