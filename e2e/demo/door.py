"""The way from this machine to the Service: one base URL that outlives the engine's pods."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from testbed import Cluster
from testbed.cluster import ClusterError
from testbed.usercluster import UserCluster

_PROXY_SECONDS = 15.0


@contextmanager
def door(cluster: Cluster | UserCluster, service: str, port: int, namespace: str) -> Iterator[str]:
    """``http://…`` of a Service, without a trailing slash or /v1, while the context lasts.

    On the testbed connections are made from a node to the Service's cluster address, so that kube-proxy carries
    them as it does for any pod. On a cluster of the user's, the API server's proxy to the Service does (kubectl
    port-forward would hold on to one pod and break with it); it takes no API keys.
    """
    if isinstance(cluster, Cluster):
        with cluster.forward(f"svc/{service}", port, namespace) as local:
            yield f"http://127.0.0.1:{local}"
        return
    with _api_proxy(cluster) as local:
        yield f"http://127.0.0.1:{local}/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy"


@contextmanager
def _api_proxy(cluster: UserCluster) -> Iterator[int]:
    command = [*cluster.kubectl.command, "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as proxy:
        try:
            yield _port(proxy)
        finally:
            proxy.kill()


def _port(proxy: subprocess.Popen[str]) -> int:
    assert proxy.stdout is not None
    end = time.monotonic() + _PROXY_SECONDS
    said = ""
    while time.monotonic() < end and (line := proxy.stdout.readline()):
        said += line
        if found := re.search(r"127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise ClusterError(f"kubectl proxy did not start: {said.strip() or 'no output'}")
