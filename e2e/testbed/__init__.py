"""A real Kubernetes on one Linux machine, made from its parts: no Docker, no registry, no VM.

`ControlPlane` is etcd and kube-apiserver as loopback processes, for tests of what the API server decides.
`Cluster` adds nodes: kubelet, containerd and kube-proxy in Linux namespaces, so that pods really run.
Names are imported on first use, so that a program of the testbed starts without what it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.audit import AuditLog
    from testbed.cluster import Cluster
    from testbed.controlplane import ControlPlane
    from testbed.kubectl import KubectlError

__all__ = ["AuditLog", "Cluster", "ControlPlane", "KubectlError"]

_HOMES = {
    "AuditLog": "testbed.audit",
    "Cluster": "testbed.cluster",
    "ControlPlane": "testbed.controlplane",
    "KubectlError": "testbed.kubectl",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'testbed' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
