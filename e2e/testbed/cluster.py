"""A whole Kubernetes cluster on this machine: real nodes in Linux namespaces, real pods, no Docker."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from testbed import node
from testbed.api import Api
from testbed.audit import AuditLog
from testbed.cache import locked
from testbed.components import Secrets
from testbed.deadline import wait_for
from testbed.engine import ensure_engine
from testbed.golang import KUBERNETES, programs
from testbed.images import BASES, IMAGES
from testbed.imagestore import image_store, link
from testbed.install import install, require_root
from testbed.kubectl import Kubectl
from testbed.machine import Machine, MachineError
from testbed.node import NodePlace, NodeSpec
from testbed.oci import Image
from testbed.parts import API_PORT, ControlMachine, NodeMachine, listener, relay
from testbed.pki import ADMINISTRATORS
from testbed.progress import say
from testbed.state import STARTING, UP, State, home_of

DEFAULT_NAME = "gemmaspec"
DEFAULT_IMAGES = ("operator", "engine")
START_SECONDS = 90.0
_OBJECTS = Path(__file__).with_name("objects.yaml")
# A node that fell silent is noticed after 20 s instead of 40 s: tests of node loss wait for it.
_CONTROLLER_FLAGS = ["--node-monitor-grace-period=20s"]


class ClusterError(RuntimeError):
    """The cluster is not there, or not as asked for."""


class Cluster:
    """A running cluster. `Cluster.up()` starts or finds it, `Cluster.attach()` finds it, `down()` ends it.

    It outlives the process that started it; any process of the same user may attach to it or end it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = home_of(name)

    @classmethod
    def up(
        cls,
        name: str = DEFAULT_NAME,
        nodes: int | Sequence[NodeSpec] = 1,
        images: Sequence[str] = DEFAULT_IMAGES,
        api_flags: Sequence[str] = (),
        controller_flags: Sequence[str] = (),
    ) -> Cluster:
        """Start a cluster, or find the one that runs with the same nodes; remains of a broken one are removed.

        nodes: how many, or each as asked for. images: names of `testbed.images.IMAGES` that every node gets,
        besides pause. Raises NotInstallableError, MachineError or TimeoutError, and says where logs lie.
        """
        require_root()
        specs = [NodeSpec(f"n{i}") for i in range(1, nodes + 1)] if isinstance(nodes, int) else list(nodes)
        cluster = cls(name)
        install()
        with locked(cluster.home.parent / f"{name}.lock"):
            if cluster._runs_with(specs, images):
                cluster.load(*images)
                return cluster
            cluster._remove()
            try:
                cluster._start(specs, images, api_flags, controller_flags)
            except BaseException:
                cluster._pull_plugs()
                say(f"cluster {name} did not start; logs: {cluster.home}/*/logs")
                raise
        return cluster

    @classmethod
    def attach(cls, name: str = DEFAULT_NAME) -> Cluster:
        """The running cluster of that name. Raises ClusterError when there is none."""
        cluster = cls(name)
        cluster.state()
        if not cluster.healthy():
            raise ClusterError(f"cluster {name} is not running: `python -m testbed up --name {name}` restarts it")
        return cluster

    def down(self) -> None:
        """End the cluster and remove every trace of it. Does nothing when there is none."""
        with locked(self.home.parent / f"{self.name}.lock"):
            self._remove()

    def state(self) -> State:
        """The written state. Raises ClusterError when there is no cluster that is up."""
        state = State.read(self.home)
        if state is None or state.phase != UP:
            raise ClusterError(f"there is no cluster {self.name}: `python -m testbed up --name {self.name}` makes one")
        return state

    def healthy(self) -> bool:
        """Whether the control plane answers."""
        state = State.read(self.home)
        if state is None or state.phase != UP or self.control.pid is None:
            return False
        return Api(self.kubeconfig).ready()

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig whose user may do everything, for use on this machine."""
        return self.home / "kubeconfig"

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the administrator: `cluster.kubectl("get", "pods") -> str`."""
        return self.kubectl_as(self.kubeconfig)

    def kubectl_as(self, kubeconfig: Path) -> Kubectl:
        """kubectl with another kubeconfig."""
        return Kubectl(str(programs(KUBERNETES) / "kubectl"), kubeconfig)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a user with just the rights that RBAC gives to that name and those groups."""
        name = hashlib.sha256(repr((user, tuple(groups))).encode()).hexdigest()[:16]
        path = self.home / f"user-{name}.kubeconfig"
        if not path.exists():
            server = f"https://127.0.0.1:{self.state().port}"
            path.write_text(self.secrets.kubeconfig(server, user, groups))
        return path

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with the rights of a ServiceAccount, under its user name and groups."""
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
        return self.kubeconfig_for(f"system:serviceaccount:{namespace}:{name}", groups)

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: one JSON object a line, changes with their bodies."""
        return self.control.audit_log

    @property
    def audit(self) -> AuditLog:
        """The audit log, read back."""
        return AuditLog(self.audit_log)

    @property
    def images(self) -> dict[str, str]:
        """Per image name the reference that a pod should use: {"engine": "gemmaspec.local/…@sha256:…"}."""
        return dict(self.state().images)

    @property
    def secrets(self) -> Secrets:
        """The cluster's certificates and keys."""
        return Secrets(self.home / "pki")

    @property
    def control(self) -> ControlMachine:
        """The machine that the control plane runs on. It is no node."""
        return ControlMachine(self.home / "control", "control", self._group("control"))

    def node(self, name: str) -> NodeMachine:
        """The machine of a node. Raises ClusterError for a name that the cluster does not have."""
        found = [machine for machine in self._machines(self.state()) if machine.name == name]
        if not found:
            raise ClusterError(f"cluster {self.name} has no node {name}")
        return found[0]

    def nodes(self) -> list[NodeMachine]:
        """The machines of all nodes, whether they run or not."""
        return self._machines(self.state())

    def run_on_node(self, name: str, argv: Sequence[str], timeout: float = 60.0) -> str:
        """Run a command on a node and return what it printed. Raises MachineError when it fails."""
        return self.node(name).run(argv, timeout)

    def stop_node(self, name: str) -> None:
        """Pull a node's plug: its pods die without a word, and so does its kubelet."""
        machine = self.node(name)
        machine.stop()
        machine.unplug(self.control)

    def start_node(self, name: str) -> None:
        """Switch a node on again and wait until it is Ready. Its images are still there, its pods are not."""
        machine, state = self.node(name), self.state()
        machine.start()
        machine.plug_in(self.control, [m.place for m in self._machines(state)])
        machine.start_containerd(state.snapshotter, state.engine)
        machine.start_kubelet(self.secrets)
        self._wait_ready(machine)

    def load(self, *names: str) -> dict[str, str]:
        """Build images (or find them unchanged) and give them to every node; returns their references."""
        state = self.state()
        made = {name: IMAGES[name]() for name in names}
        for machine in self._machines(state):
            if machine.pid is not None:
                self._give(machine, made.values())
        references = {**state.images, **{name: image.by_digest for name, image in made.items()}}
        State(**{**vars(state), "images": references}).write(self.home)
        return {name: image.by_digest for name, image in made.items()}

    @contextmanager
    def forward(self, target: str, port: int, namespace: str = "default") -> Iterator[int]:
        """A local port that leads to `svc/NAME`, `pod/NAME` or `deployment/NAME`, while the context lasts.

        A Service is reached through its cluster address, so the connection goes where kube-proxy sends it and
        outlives the pods; port is the Service's. Raises ClusterError when there is nothing to lead to.
        """
        host = self._address(target, namespace)
        machine = next((m for m in self.nodes() if m.pid is not None), None)
        if machine is None:
            raise ClusterError("no node is running")
        with listener() as door:
            local = int(door.getsockname()[1])
            carrier = relay(machine, door, host, port, tied=True)
        try:
            yield local
        finally:
            os.kill(carrier, signal.SIGKILL)
            os.waitpid(carrier, 0)

    def _address(self, target: str, namespace: str) -> str:
        kind, _, name = target.partition("/")
        found: dict[str, Any]
        if kind in ("svc", "service"):
            found = self.kubectl.json("get", "service", name, "-n", namespace)
            if (address := found["spec"].get("clusterIP", "None")) != "None":
                return str(address)
            found = self.kubectl.json("get", "endpoints", name, "-n", namespace)
            ready = [a["ip"] for s in found.get("subsets", []) for a in s.get("addresses", [])]
        elif kind in ("deploy", "deployment"):
            found = self.kubectl.json("get", "deployment", name, "-n", namespace)
            labels = found["spec"]["selector"].get("matchLabels", {})
            selector = ",".join(f"{key}={value}" for key, value in labels.items())
            pods = self.kubectl.json("get", "pods", "-n", namespace, "-l", selector)["items"]
            ready = [p["status"]["podIP"] for p in pods if p["status"].get("phase") == "Running"]
        elif kind == "pod":
            found = self.kubectl.json("get", "pod", name, "-n", namespace)
            ready = [found["status"]["podIP"]] if found["status"].get("podIP") else []
        else:
            raise ClusterError(f"cannot forward to {target!r}: name a svc/, pod/ or deployment/")
        if not ready:
            raise ClusterError(f"{target} in {namespace} has nobody to connect to")
        return str(ready[0])

    def _group(self, machine: str) -> str:
        """Unique on the host, where another cache may hold a cluster of the same name."""
        place = hashlib.sha256(str(self.home).encode()).hexdigest()[:6]
        return f"testbed-{self.name}-{machine}-{place}"

    def _machines(self, state: State) -> list[NodeMachine]:
        return [
            NodeMachine(self.home / "nodes" / spec.name, self._group(spec.name), spec, NodePlace(number))
            for number, spec in enumerate(state.nodes, start=1)
        ]

    def _runs_with(self, specs: Sequence[NodeSpec], images: Sequence[str]) -> bool:
        state = State.read(self.home)
        if state is None or list(state.nodes) != list(specs) or not self.healthy():
            return False
        if "engine" in images and state.engine != str(ensure_engine()):
            return False  # containerd reads what the handler mounts when it starts
        return all(machine.pid is not None for machine in self._machines(state))

    def _start(
        self, specs: Sequence[NodeSpec], images: Sequence[str], api: Sequence[str], controllers: Sequence[str]
    ) -> None:
        made = {name: IMAGES[name]() for name in dict.fromkeys(["pause", *images])}
        self.home.mkdir(parents=True)
        engine = str(ensure_engine()) if "engine" in made else None
        references = {name: image.by_digest for name, image in made.items()}
        state = State(STARTING, specs, 0, engine, _snapshotter(self.home), references)
        state.write(self.home)
        secrets = Secrets.create(self.home / "pki", ["127.0.0.1", node.CONTROL_ADDRESS, "10.96.0.1"])
        machines = self._machines(state)
        store = image_store([BASES[name]() for name in made], state.snapshotter)
        for machine in machines:
            link(store, machine.folder / "containerd")
        self._start_machines(machines)
        self.control.start_api(secrets, api)
        with ThreadPoolExecutor(len(machines)) as pool:
            runtimes = [pool.submit(m.start_containerd, state.snapshotter, engine) for m in machines]
            port = self._open_door(secrets)
            for runtime in runtimes:
                runtime.result()
            loads = [pool.submit(self._give, machine, made.values()) for machine in machines]
            self.control.start_rest(secrets, [*_CONTROLLER_FLAGS, *controllers])
            for machine in machines:
                machine.start_kubelet(secrets)
            self._settle(machines)
            for load in loads:
                load.result()
        state.moved_to(UP, port).write(self.home)

    def _start_machines(self, machines: Sequence[NodeMachine]) -> None:
        everything: list[Machine] = [self.control, *machines]
        with ThreadPoolExecutor(len(everything)) as pool:
            list(pool.map(lambda machine: machine.start(), everything))
        self.control.wire(len(machines))
        for machine in machines:
            machine.plug_in(self.control, [m.place for m in machines])

    @staticmethod
    def _give(machine: NodeMachine, images: Iterable[Image]) -> None:
        have = machine.images()
        for image in images:
            if image.by_digest not in have:
                machine.load(image)

    def _open_door(self, secrets: Secrets) -> int:
        """Make the API server reachable from the host, give it the cluster's own objects, return the port."""
        with listener() as door:
            port = int(door.getsockname()[1])
            relay(self.control, door, node.CONTROL_ADDRESS, API_PORT, tied=False)
        server = f"https://127.0.0.1:{port}"
        self.kubeconfig.write_text(secrets.kubeconfig(server, "admin", [ADMINISTRATORS]))
        api = Api(self.kubeconfig)

        def ready() -> bool:
            self.control.check()
            return api.ready()

        wait_for(ready, "the API server", START_SECONDS, fail=lambda: self.control.tail("apiserver"))
        self.kubectl("apply", "-f", str(_OBJECTS))
        return port

    def _settle(self, machines: Sequence[NodeMachine]) -> None:
        """Wait until pods would be accepted and run."""
        for machine in machines:
            self._wait_ready(machine)
            if machine.spec.resources:
                given = dict(machine.spec.resources)
                patch = json.dumps({"status": {"capacity": given, "allocatable": given}})
                self.kubectl("patch", "node", machine.name, "--subresource=status", "--type=merge", "-p", patch)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        api = Api(self.kubeconfig)
        wait_for(lambda: api.ready(account), "ServiceAccount default", START_SECONDS)
        wait_for(self._resolves, "DNS", START_SECONDS, fail=lambda: self.control.tail("coredns"))

    def _resolves(self) -> bool:
        self.control.check()
        address = node.CONTROL_ADDRESS
        probe = f"exec 3<>/dev/tcp/{address}/8181; printf 'GET /ready HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
        with suppress(MachineError, subprocess.TimeoutExpired):
            return "200" in self.control.run(["bash", "-c", probe], timeout=5)
        return False

    def _wait_ready(self, machine: NodeMachine) -> None:
        api = Api(self.kubeconfig)

        def ready() -> bool:
            machine.check()
            found = api.read(f"/api/v1/nodes/{machine.name}") or {}
            conditions = found.get("status", {}).get("conditions", [])
            return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

        wait_for(ready, f"node {machine.name}", START_SECONDS, fail=lambda: machine.tail("kubelet"))

    def _everything(self) -> list[Machine]:
        """Every machine that has a folder, whatever the written state says."""
        nodes = sorted((self.home / "nodes").glob("*"))
        return [self.control, *(Machine(folder, folder.name, self._group(folder.name)) for folder in nodes)]

    def _pull_plugs(self) -> None:
        stops: list[Callable[[], None]] = [machine.stop for machine in self._everything()]
        with ThreadPoolExecutor(len(stops)) as pool:
            list(pool.map(lambda stop: stop(), stops))

    def _remove(self) -> None:
        self._pull_plugs()
        if self.home.exists():
            shutil.rmtree(self.home)


def _snapshotter(home: Path) -> str:
    """overlayfs where the file system can carry it, else plain copies (inside a container, mostly)."""
    with tempfile.TemporaryDirectory(dir=home) as folder:
        parts = [Path(folder, name) for name in ("lower", "upper", "work", "merged")]
        for part in parts:
            part.mkdir()
        lower, upper, work, merged = map(str, parts)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        if subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", merged], capture_output=True).returncode:
            return "native"
        subprocess.run(["umount", merged], check=True)
    return "overlayfs"
