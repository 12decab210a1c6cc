"""Nodes without machines: KWOK tells the API server what kubelets would, and the real scheduler believes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.api import Api
from testbed.controlplane import ControlPlane
from testbed.deadline import wait_for
from testbed.golang import KWOK, programs

STAGES = Path(__file__).with_name("kwok.yaml")
LEASE_SECONDS = 40
READY_SECONDS = 30.0
# What the kernel of a DGX Spark reports as total, in GiB.
GB10_MEMORY_GIB = 121.7
# The kubelet keeps this much back by default (evictionHard memory.available).
EVICTION_MIB = 100
GPU = "nvidia.com/gpu"
GPU_PRODUCT = "nvidia.com/gpu.product"


@dataclass(frozen=True)
class Box:
    """A node as a kubelet and NVIDIA's device plug-in report it. memory_gib: its capacity."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    arch: str = "arm64"
    gpus: int = 1
    memory_gib: float = GB10_MEMORY_GIB
    taints: Sequence[Mapping[str, str]] = ()

    def body(self) -> dict[str, Any]:
        """The Node object."""
        mebibytes = int(self.memory_gib * 1024)
        amounts = {"cpu": "20", "pods": "110"} | ({GPU: str(self.gpus)} if self.gpus else {})
        own = {"kubernetes.io/hostname": self.name, "kubernetes.io/arch": self.arch, "kubernetes.io/os": "linux"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": own | dict(self.labels)},
            "spec": {"taints": [dict(taint) for taint in self.taints]},
            "status": {
                "capacity": amounts | {"memory": f"{mebibytes}Mi"},
                "allocatable": amounts | {"memory": f"{mebibytes - EVICTION_MIB}Mi"},
                "nodeInfo": {
                    "architecture": self.arch,
                    "operatingSystem": "linux",
                    "osImage": "",
                    "kernelVersion": "",
                    "kubeletVersion": "",
                    "kubeProxyVersion": "",
                    "containerRuntimeVersion": "",
                    "bootID": "",
                    "machineID": "",
                    "systemUUID": "",
                },
            },
        }


def gb10(name: str, *, shared: int = 0, **over: Any) -> Box:
    """A DGX Spark as GPU feature discovery labels it. shared: engines that time-slicing lets onto it, 0 for none.

    It has no `nvidia.com/gpu.memory`: the driver reports none for unified memory.
    """
    labels = {
        GPU_PRODUCT: "NVIDIA-GB10-SHARED" if shared else "NVIDIA-GB10",
        "nvidia.com/gpu.compute.major": "12",
        "nvidia.com/gpu.compute.minor": "1",
        "nvidia.com/gpu.count": "1",
        "nvidia.com/gpu.replicas": str(shared or 1),
    }
    given = {"labels": labels | over.pop("labels", {}), "gpus": shared or 1} | over
    return Box(name, **given)


class Kwok:
    """KWOK beside a running control plane; it ends with that. Every node of that control plane is KWOK's.

    stages: what it plays. flags: more arguments; the last of two equal ones counts.
    KWOK is built on first use (64 MB, one to four minutes) and then cached.
    """

    def __init__(self, plane: ControlPlane, stages: Path = STAGES, flags: Sequence[str] = ()) -> None:
        self._api = Api(plane.kubeconfig)
        self._plane = plane
        command = [
            str(programs(KWOK) / "kwok"),
            f"--kubeconfig={plane.kubeconfig}",
            f"--config={stages}",
            "--manage-all-nodes",
            f"--node-lease-duration-seconds={LEASE_SECONDS}",
            *flags,
        ]
        plane.supervised.start("kwok", command)

    def add(self, *boxes: Box) -> None:
        """Make nodes, and return when the scheduler may use them."""
        for box in boxes:
            code, answer = self._api.send("POST", "/api/v1/nodes", box.body())
            if code != 201:
                raise RuntimeError(f"node {box.name}: {code}: {answer.decode(errors='replace')}")
        for box in boxes:
            what = f"node {box.name}"
            wait_for(lambda box=box: self._usable(box), what, READY_SECONDS, fail=self._story)  # type: ignore[misc]

    def remove(self, *names: str) -> None:
        """Delete nodes; their pods are for the caller to remove."""
        for name in names:
            self._api.send("DELETE", f"/api/v1/nodes/{name}")

    def _usable(self, box: Box) -> bool:
        self._plane.supervised.check()
        node = self._api.read(f"/api/v1/nodes/{box.name}") or {}
        conditions = node.get("status", {}).get("conditions", [])
        is_ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
        # Until the node is ready the API server's own taint keeps pods away.
        return is_ready and len(node["spec"].get("taints", ())) == len(box.taints)

    def _story(self) -> str:
        return self._plane.supervised.tail("kwok")
