"""A cluster of the user's own, behind the interface of `Cluster`, for tests that any cluster can serve."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from testbed.cluster import ClusterError
from testbed.golang import KUBERNETES, programs
from testbed.kubectl import Kubectl, KubectlError

_FORWARD_SECONDS = 20.0


class UserCluster:
    """The cluster behind a context of the user's kubeconfig. It is used, never started or stopped.

    images: what the user has put where the cluster can pull it; there is no way to load any from here.
    """

    def __init__(self, context: str, images: dict[str, str] | None = None) -> None:
        self.name = context
        self.images = dict(images or {})
        self.kubectl = Kubectl(shutil.which("kubectl") or str(programs(KUBERNETES) / "kubectl"), context=context)
        try:
            self.kubectl("version", timeout=20)
        except (KubectlError, subprocess.TimeoutExpired) as error:
            raise ClusterError(f"context {context!r} of your kubeconfig does not answer: {error}") from error

    def kubectl_as(self, kubeconfig: Path) -> Kubectl:
        """kubectl with another kubeconfig."""
        return Kubectl(self.kubectl.command[0], kubeconfig)

    def healthy(self) -> bool:
        """Whether the control plane answers."""
        with suppress(KubectlError, subprocess.TimeoutExpired):
            return self.kubectl("get", "--raw", "/readyz", timeout=10).strip() == "ok"
        return False

    @contextmanager
    def forward(self, target: str, port: int, namespace: str = "default") -> Iterator[int]:
        """A local port that leads to `svc/NAME`, `pod/NAME` or `deployment/NAME`, by `kubectl port-forward`.

        Unlike the testbed's, it holds on to one pod, and ends with it.
        """
        command = [*self.kubectl.command, "port-forward", "-n", namespace, target, f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as carrier:
            try:
                yield _announced_port(carrier, target)
            finally:
                carrier.kill()

    def load(self, *names: str) -> dict[str, str]:
        """The references of images that the user named. Raises ClusterError for others."""
        missing = [name for name in names if name not in self.images]
        if missing:
            raise ClusterError(
                f"push {', '.join(missing)} where {self.name} can pull it, and name it by --image NAME=REF"
            )
        return {name: self.images[name] for name in names}

    def run_on_node(self, name: str, argv: Sequence[str], timeout: float = 60.0) -> str:
        """Refused: the nodes are not ours."""
        self._refuse(f"run {argv[0]} on node {name}, {timeout:g} s")

    def stop_node(self, name: str) -> None:
        """Refused: the nodes are not ours."""
        self._refuse(f"stop node {name}")

    def start_node(self, name: str) -> None:
        """Refused: the nodes are not ours."""
        self._refuse(f"start node {name}")

    def _refuse(self, what: str) -> NoReturn:
        raise ClusterError(f"will not {what}: {self.name} is your own cluster; run this test without --context")


def _announced_port(carrier: subprocess.Popen[str], target: str) -> int:
    end = time.monotonic() + _FORWARD_SECONDS
    said = ""
    assert carrier.stdout is not None
    while time.monotonic() < end and (line := carrier.stdout.readline()):
        said += line
        if found := re.search(r"Forwarding from 127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise ClusterError(f"no port-forward to {target}: {said.strip() or 'no output'}")
