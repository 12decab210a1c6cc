"""What a failure leaves for the person who looks for its cause: logs, events and objects in one folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from demo.resource import PLURAL
from testbed import Cluster
from testbed.kubectl import Kubectl, KubectlError
from testbed.usercluster import UserCluster

_SECONDS = 20.0
_KINDS = f"{PLURAL},deployments,replicasets,pods,services,configmaps,poddisruptionbudgets"


def collect(cluster: Cluster | UserCluster, folder: Path, namespaces: Iterable[str]) -> Path:
    """Write what the cluster knows about these namespaces; what cannot be had is left out. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in dict.fromkeys(namespaces):
        _namespace(cluster.kubectl, folder, namespace)
    _write(folder / "nodes.txt", cluster.kubectl, "describe", "nodes")
    if isinstance(cluster, Cluster):
        _machines(cluster, folder / "machines")
    return folder


def _namespace(kubectl: Kubectl, folder: Path, namespace: str) -> None:
    where = ("-n", namespace)
    _write(folder / f"{namespace}.yaml", kubectl, *where, "get", _KINDS, "-o", "yaml")
    _write(folder / f"{namespace}-events.txt", kubectl, *where, "get", "events", "--sort-by=.lastTimestamp")
    _write(folder / f"{namespace}-pods.txt", kubectl, *where, "describe", "pods")
    with suppress(KubectlError, subprocess.TimeoutExpired):
        for pod in kubectl.json(*where, "get", "pods", timeout=_SECONDS)["items"]:
            for container in _containers(pod):
                name = f"{namespace}-{pod['metadata']['name']}-{container}"
                log = (*where, "logs", pod["metadata"]["name"], "-c", container)
                _write(folder / f"{name}.log", kubectl, *log)
                _write(folder / f"{name}-previous.log", kubectl, *log, "--previous")


def _containers(pod: dict[str, Any]) -> list[str]:
    spec = pod["spec"]
    return [entry["name"] for entry in [*spec.get("initContainers", ()), *spec["containers"]]]


def _write(file: Path, kubectl: Kubectl, *arguments: str) -> None:
    with suppress(KubectlError, subprocess.TimeoutExpired):
        if said := kubectl(*arguments, timeout=_SECONDS):
            file.write_text(said)


def _machines(cluster: Cluster, folder: Path) -> None:
    """The logs of kubelet, containerd and the control plane: the cluster may be gone when somebody looks."""
    for machine in [cluster.control, *cluster.nodes()]:
        with suppress(OSError):
            shutil.copytree(machine.logs, folder / machine.name, dirs_exist_ok=True)
