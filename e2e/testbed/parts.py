"""The machines of a cluster and what each of them runs: the control plane on one, pods on the others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed import components, node
from testbed.components import Secrets
from testbed.deadline import wait_for
from testbed.enginespec import engine_spec
from testbed.golang import COREDNS, ETCD, KUBERNETES, programs
from testbed.install import system_program
from testbed.machine import Machine, MachineError, detached
from testbed.node import CONTROL_ADDRESS, SERVICE_RANGE, NodePlace, NodeSpec
from testbed.oci import Image

API_PORT = 6443
_ETCD_PORT = 2379
_BRIDGE = "lan"
_RELAY = Path(__file__).with_name("relay.py")
_IMPORT_SECONDS = 300.0
_CONTAINERD_SECONDS = 30.0


def listener() -> socket.socket:
    """A listening loopback socket of the host, on a port of the kernel's choice."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.bind(("127.0.0.1", 0))
    made.listen(128)
    return made


def relay(machine: Machine, door: socket.socket, host: str, port: int, tied: bool) -> int:
    """Carry what arrives at a listening socket of the host to an address that the machine can reach.

    tied: the relay ends with this process; else with the machine. Returns its process id.
    """
    if (pid := machine.pid) is None:
        raise MachineError(f"machine {machine.name} is not running")
    door.set_inheritable(True)
    python = [sys.executable, "-I", "-S", str(_RELAY), str(door.fileno()), host, str(port)]
    enter = ["nsenter", "-t", str(pid), "-n", *([] if tied else ["-p"]), "--"]
    return detached([*enter, *python, *(["tied"] if tied else [])], machine.logs / "relay.log", os.environ)


class ControlMachine(Machine):
    """etcd, kube-apiserver, controllers, scheduler and DNS, and the cable that every node is plugged into."""

    @property
    def audit_log(self) -> Path:
        """The API server's audit log."""
        return self.folder / "audit.log"

    def wire(self, nodes: int) -> None:
        """Make the common network, and routes to the pods of each node: the API server calls webhooks."""
        script = f"ip link add {_BRIDGE} type bridge; ip addr add {CONTROL_ADDRESS}/24 dev {_BRIDGE}; "
        script += f"ip link set {_BRIDGE} up"
        for place in map(NodePlace, range(1, nodes + 1)):
            script += f"; ip route add {place.pods} via {place.address}"
        self.run(["sh", "-ec", script])

    def start_api(self, secrets: Secrets, flags: Sequence[str]) -> None:
        """Start etcd and the API server."""
        etcd = components.etcd(programs(ETCD), self.folder / "etcd", _ETCD_PORT)
        self.program("etcd", etcd)
        self.start_api_alone(secrets, flags)

    def start_api_alone(self, secrets: Secrets, flags: Sequence[str] = ()) -> None:
        """Start the API server beside the etcd that runs."""
        folder = programs(KUBERNETES)
        command = components.apiserver(
            folder, secrets, _ETCD_PORT, CONTROL_ADDRESS, API_PORT, SERVICE_RANGE, self.audit_log
        )
        to_nodes = [
            "--enable-admission-plugins=NodeRestriction",
            "--enable-aggregator-routing=true",  # no kube-proxy here: call pods, not Services
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={secrets.path('ca.crt')}",
            f"--kubelet-client-certificate={secrets.path('apiserver-kubelet.crt')}",
            f"--kubelet-client-key={secrets.path('apiserver-kubelet.key')}",
        ]
        self.program("apiserver", [*command, *to_nodes, *flags])

    def start_rest(self, secrets: Secrets, controller_flags: Sequence[str]) -> None:
        """Start controllers, scheduler and DNS, once the API server answers."""
        folder = programs(KUBERNETES)
        users = {
            "controllers": "system:kube-controller-manager",
            "scheduler": "system:kube-scheduler",
            "coredns": "system:coredns",
        }
        configs = {name: self.folder / f"{name}.kubeconfig" for name in users}
        for name, user in users.items():
            configs[name].write_text(secrets.kubeconfig(api_server(), user))
        controllers = components.controller_manager(folder, secrets, configs["controllers"], *controller_flags)
        self.program("controllers", controllers)
        self.program("scheduler", components.scheduler(folder, configs["scheduler"]))
        corefile = self.folder / "Corefile"
        corefile.write_text(node.corefile(configs["coredns"]))
        self.program("coredns", [str(programs(COREDNS) / "coredns"), "-conf", str(corefile)])


def api_server() -> str:
    """The API server's address on the machines' network."""
    return f"https://{CONTROL_ADDRESS}:{API_PORT}"


class NodeMachine(Machine):
    """containerd, kubelet and kube-proxy of one node."""

    def __init__(self, folder: Path, group: str, spec: NodeSpec, place: NodePlace) -> None:
        super().__init__(folder, spec.name, group)
        self.spec = spec
        self.place = place

    def plug_in(self, control: Machine, others: Sequence[NodePlace]) -> None:
        """Lay a cable to the control machine's network, directly from namespace to namespace.

        The host gets no link of its own. The hardware address follows the number: nobody remembers a wrong one.
        """
        cable = f"to-n{self.place.number}"
        hardware = f"02:00:00:00:00:{self.place.number:02x}"
        add = ["ip", "link", "add", "eth0", "address", hardware, "netns", str(self.pid), "type", "veth"]
        subprocess.run([*add, "peer", "name", cable, "netns", str(control.pid)], check=True, timeout=10)
        control.run(["ip", "link", "set", cable, "master", _BRIDGE, "up"])
        address = self.place.address
        script = f"ip addr add {address}/24 dev eth0; ip link set eth0 up; "
        script += f"ip route add {SERVICE_RANGE} dev eth0 src {address}"  # some route, until NAT rewrites it
        for other in others:
            if other != self.place:
                script += f"; ip route add {other.pods} via {other.address}"
        self.run(["sh", "-ec", script])

    def unplug(self, control: Machine) -> None:
        """Remove the control machine's end of the cable, if the kernel has not done so yet."""
        script = f"ip link del to-n{self.place.number} 2>/dev/null || true"
        control.run(["sh", "-c", script])

    def start_containerd(self, snapshotter: str, engine: str | None) -> None:
        """Write containerd's configuration, start it and wait until it answers."""
        cni = self.folder / "cni"
        cni.mkdir(exist_ok=True)
        (cni / "10-testbed.conflist").write_text(node.cni_config(self.place))
        spec_file = None
        if engine is not None:
            spec_file = self.folder / "engine-spec.json"
            spec_file.write_text(engine_spec(Path(engine)))
        restrict = not node.may_lower_oom_score(Path("/proc/self/status").read_text())
        config = self.folder / "containerd.toml"
        config.write_text(node.containerd_config(self.folder, snapshotter, restrict, spec_file))
        self.program("containerd", [system_program("containerd") or "containerd", "--config", str(config)])

        def answers() -> bool:
            self.check()
            try:
                self.run(self._ctr("version"), timeout=5)
            except (MachineError, subprocess.TimeoutExpired):
                return False
            return True

        wait_for(answers, f"containerd on {self.name}", _CONTAINERD_SECONDS, fail=lambda: self.tail("containerd"))

    def load(self, image: Image) -> None:
        """Give the node an image, under its tag and its digest; layers it has already are not sent again."""
        known = set(self.run(self._ctr("-n", "k8s.io", "content", "list", "-q")).split())
        with subprocess.Popen(
            self.command(self._ctr("-n", "k8s.io", "images", "import", "-")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as ctr:
            assert ctr.stdin is not None
            try:
                image.write(ctr.stdin, known)
                said, _ = ctr.communicate(timeout=_IMPORT_SECONDS)
            except BrokenPipeError:
                said = ctr.stdout.read() if ctr.stdout else b""
            except subprocess.TimeoutExpired:
                ctr.kill()
                raise
        if ctr.returncode:
            raise MachineError(f"import of {image.by_tag} on {self.name}: {said.decode(errors='replace')}")

    def images(self) -> set[str]:
        """The references the node's containerd knows."""
        return set(self.run(self._ctr("-n", "k8s.io", "images", "list", "-q")).split())

    def start_kubelet(self, secrets: Secrets) -> None:
        """Start kubelet and kube-proxy, once the API server answers."""
        folder = programs(KUBERNETES)
        (self.folder / "resolv.conf").write_text(f"nameserver {CONTROL_ADDRESS}\n")
        (self.folder / "volume-plugins").mkdir(exist_ok=True)
        secrets.issue(self.name, hosts=[self.place.address, self.name]).write(secrets.folder, self.name)
        kubelet, proxy = self.folder / "kubelet.kubeconfig", self.folder / "proxy.kubeconfig"
        kubelet.write_text(secrets.kubeconfig(api_server(), f"system:node:{self.name}", ["system:nodes"]))
        proxy.write_text(secrets.kubeconfig(api_server(), "system:kube-proxy"))
        (self.folder / "kubelet.yaml").write_text(
            node.kubelet_config(self.folder, secrets.folder, self.spec, self.place)
        )
        (self.folder / "proxy.yaml").write_text(node.proxy_config(proxy, self.spec, self.place))
        self.program("kubelet", node.kubelet_command(folder, self.folder, kubelet, self.spec, self.place))
        self.program("kube-proxy", [str(folder / "kube-proxy"), f"--config={self.folder / 'proxy.yaml'}"])

    def _ctr(self, *arguments: str) -> list[str]:
        return [system_program("ctr") or "ctr", "-a", node.CONTAINERD_SOCKET, *arguments]
