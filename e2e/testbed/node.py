"""What a node's programs are told: containerd, CNI, kubelet and kube-proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "gemmaspec.local/pause:1"
ENGINE_HANDLER = "host-vllm"
CLUSTER_DOMAIN = "cluster.local"
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
CONTROL_ADDRESS = "10.99.0.1"
_CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")  # Debian's, upstream's
_SYS_RESOURCE_BIT = 24  # CAP_SYS_RESOURCE, linux/capability.h


@dataclass(frozen=True)
class NodeSpec:
    """A node as asked for.

    labels, taints: set at registration (a taint is "key=value:Effect"). resources: extended resources to
    advertise, such as {"nvidia.com/gpu": "1"}. reserved: what the kubelet keeps from pods, such as
    {"memory": "8Gi"}; every node sees the whole machine, so this is how a node is made smaller.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[str] = ()
    resources: Mapping[str, str] = field(default_factory=dict)
    reserved: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> NodeSpec:
        """The opposite of `dataclasses.asdict`."""
        return cls(**{**stored, "taints": tuple(stored["taints"])})


@dataclass(frozen=True)
class NodePlace:
    """A node's number (from 1), and the addresses that follow from it."""

    number: int

    @property
    def address(self) -> str:
        """The node's own address on the machines' common network."""
        return f"10.99.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The range its pods get addresses from."""
        return f"10.244.{self.number}.0/24"


def cni_folder() -> Path:
    """Where the machine's CNI plug-ins lie. Raises FileNotFoundError when there are none."""
    for candidate in map(Path, _CNI_FOLDERS):
        if (candidate / "ptp").exists():
            return candidate
    raise FileNotFoundError(f"no CNI plug-ins in {' or '.join(_CNI_FOLDERS)}: run `python -m testbed install`")


def may_lower_oom_score(status: str) -> bool:
    """Whether a process with this /proc/self/status may spare another from the out-of-memory killer."""
    bits = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(bits, 16) >> _SYS_RESOURCE_BIT & 1)


def cni_config(place: NodePlace) -> str:
    """Pods hang on routed point-to-point links, not on a bridge: every packet between two pods of a node
    passes the node's IP layer, so the answers of a Service's pod are always translated back."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni-addresses",
        "ranges": [[{"subnet": place.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "0.4.0", "name": "testbed", "plugins": plugins}, indent=1)


def containerd_config(folder: Path, snapshotter: str, restrict_oom: bool, engine_spec: Path | None) -> str:
    """containerd's TOML (version 2, which containerd 1.x reads and 2.x converts).

    restrict_oom: without CAP_SYS_RESOURCE no process can get the negative score that pause asks for, and
    every pod would fail with a message about a pipe. engine_spec: the base of containers whose runtime
    class is the engine's; None leaves that handler out.
    """
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    runc = f"{cri}.containerd.runtimes"
    lines = [
        "version = 2",
        f'root = "{folder}/containerd"',
        'state = "/run/containerd"',
        "[grpc]",
        f'  address = "{CONTAINERD_SOCKET}"',
        '[plugins."io.containerd.internal.v1.opt"]',
        f'  path = "{folder}/opt"',
        f"[{cri}]",
        f'  sandbox_image = "{PAUSE_IMAGE}"',
        f"  restrict_oom_score_adj = {str(restrict_oom).lower()}",
        f"[{cri}.cni]",
        f'  bin_dir = "{cni_folder()}"',
        f'  conf_dir = "{folder}/cni"',
        f"[{cri}.containerd]",
        f'  snapshotter = "{snapshotter}"',
        '  default_runtime_name = "runc"',
    ]
    for handler, spec in (("runc", None), (ENGINE_HANDLER, engine_spec)):
        if handler == "runc" or spec is not None:
            lines += [f"[{runc}.{handler}]", '  runtime_type = "io.containerd.runc.v2"']
            lines += [f'  base_runtime_spec = "{spec}"'] if spec is not None else []
            lines += [f"[{runc}.{handler}.options]", "  SystemdCgroup = false"]
    return "\n".join(lines) + "\n"


def kubelet_config(folder: Path, pki: Path, spec: NodeSpec, place: NodePlace) -> str:
    """The KubeletConfiguration of a node."""
    resolv = folder / "resolv.conf"
    taints = [_taint(text) for text in spec.taints]
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,  # from v1.35 on the kubelet refuses control groups version 1 unless told
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "address": place.address,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{spec.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{spec.name}.key"),
        "resolvConf": str(resolv),
        "clusterDomain": CLUSTER_DOMAIN,
        "clusterDNS": [CONTROL_ADDRESS],
        "volumePluginDir": str(folder / "volume-plugins"),
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "registerWithTaints": taints,
        "serializeImagePulls": False,
        "imageGCHighThresholdPercent": 100,  # nothing could pull a collected image again
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
        "nodeStatusUpdateFrequency": "5s",
        "nodeStatusReportFrequency": "1m",
        "syncFrequency": "20s",
        "systemReserved": dict(spec.reserved),
        "shutdownGracePeriod": "0s",
    }
    return yaml.safe_dump(config, sort_keys=False)


def _taint(text: str) -> dict[str, str]:
    """Read "key=value:Effect" or "key:Effect". Raises ValueError for anything else."""
    pair, colon, effect = text.rpartition(":")
    if not colon or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ValueError(f"taint {text!r} is not key=value:Effect")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}


def kubelet_command(programs: Path, folder: Path, kubeconfig: Path, spec: NodeSpec, place: NodePlace) -> list[str]:
    """The kubelet's command line."""
    command = [
        str(programs / "kubelet"),
        f"--config={folder / 'kubelet.yaml'}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={spec.name}",
        f"--node-ip={place.address}",
        f"--root-dir={folder / 'kubelet'}",
    ]
    if spec.labels:
        command.append("--node-labels=" + ",".join(f"{key}={value}" for key, value in spec.labels.items()))
    return command


def proxy_config(kubeconfig: Path, spec: NodeSpec, place: NodePlace) -> str:
    """kube-proxy's configuration. Limits of connection tracking belong to the host: they are left alone."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": spec.name,
        "bindAddress": place.address,
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    return yaml.safe_dump(config, sort_keys=False)


def corefile(kubeconfig: Path) -> str:
    """CoreDNS for the cluster's names; names outside it do not exist here, and are said not to at once."""
    zones = f"{CLUSTER_DOMAIN} in-addr.arpa"
    inside = f"  kubernetes {zones} {{\n    kubeconfig {kubeconfig}\n    pods insecure\n  }}\n"
    common = f"  bind {CONTROL_ADDRESS}\n  errors\n"
    outside = "  template ANY ANY {\n    rcode NXDOMAIN\n  }\n"
    ready = f"  ready {CONTROL_ADDRESS}:8181\n"
    return f"{zones} {{\n{common}{ready}  cache 5\n{inside}}}\n. {{\n{common}{outside}}}\n"
