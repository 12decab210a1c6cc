"""What the end-to-end tests share: a real cluster, the project's own or one of the user's."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from demo.evidence import collect
from demo.installation import described, install_crd, install_operator, remove_operator, rendered
from mirror import Mirror, mirror_on
from mirror.contents import TOKEN, repositories
from monitoring import Prometheus, prometheus_on
from stories import NAMESPACE, Site, Tiny, give_key, namespace, tiny_on
from testbed import Cluster
from testbed.cache import cache_root, first_free
from testbed.usercluster import UserCluster

_OUT = Path(__file__).resolve().parents[1] / "out" / "e2e"
_EVIDENCE = pytest.StashKey[tuple[Cluster | UserCluster, list[str]]]()
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


@pytest.fixture(scope="session")
def site(cluster: Cluster | UserCluster, pytestconfig: pytest.Config) -> Iterator[Site]:
    """The operator as a pod from its own image under its own RBAC, and a namespace for the stories."""
    image = cluster.load("operator")["operator"]
    pytestconfig.stash[_EVIDENCE] = cluster, [NAMESPACE, described(rendered(cluster.kubectl, image)).namespace]
    before = install_crd(cluster.kubectl)
    give_key(cluster.kubectl, described(rendered(cluster.kubectl, image)).namespace)
    namespace(cluster.kubectl)
    yield Site(cluster, install_operator(cluster.kubectl, image))
    if isinstance(cluster, UserCluster):
        cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", timeout=100)
        remove_operator(cluster.kubectl, image, keep_crd=before)


@pytest.fixture(scope="session")
def tiny(site: Site) -> Iterator[Tiny]:
    """The tiny pair, Ready: one engine for all stories that need one that serves."""
    with tiny_on(site) as serving:
        yield serving


@pytest.fixture(scope="session")
def prometheus(site: Site) -> Iterator[Prometheus]:
    """Prometheus as a pod, scraping what the monitors of manifests/monitoring select."""
    with prometheus_on(site.cluster) as running:
        yield running


@pytest.fixture(scope="session")
def mirror(site: Site) -> Iterator[Mirror]:
    """A model hub and a package index that pods can reach."""
    with mirror_on(site.cluster, NAMESPACE, TOKEN, repositories()) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A story that failed leaves what the cluster knew, and says where."""
    report = yield
    if report.failed and (known := item.config.stash.get(_EVIDENCE, None)):
        folder = collect(known[0], _OUT / re.sub(r"[^\w.-]+", "-", f"{item.name}-{report.when}"), known[1])
        report.sections.append(("where logs are", f"pods, operator, events, machines: {folder}"))
    return report
