"""etcd and kube-apiserver as plain processes on the loopback, for tests of what the API server decides."""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed import components
from testbed.api import Api
from testbed.audit import AuditLog
from testbed.components import Secrets
from testbed.deadline import wait_for
from testbed.golang import ETCD, KUBERNETES, programs
from testbed.kubectl import Kubectl
from testbed.pki import ADMINISTRATORS
from testbed.programs import Supervised

START_SECONDS = 60.0
_SERVICES = "10.96.0.0/16"


def reserve_port() -> socket.socket:
    """A loopback port that nobody else gets while the socket lives, except who sets SO_REUSEPORT as well."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held


class ControlPlane:
    """A control plane without nodes: what is stored, validated and allowed is real, pods stay Pending.

    controllers: also run kube-controller-manager (garbage collection, ServiceAccounts, Deployments, quotas,
    disruption budgets). Without it no ServiceAccount `default` appears, and pods are accepted without one.
    scheduler: also run kube-scheduler, for nodes that `testbed.kwok` plays.
    api_flags, controller_flags, scheduler_flags: more arguments of the three; the last of two equal ones counts.
    Everything ends with the process that made it. Several may run at once.

        with ControlPlane() as plane:
            plane.kubectl("get", "namespaces")
    """

    def __init__(
        self,
        controllers: bool = False,
        api_flags: Sequence[str] = (),
        scheduler: bool = False,
        controller_flags: Sequence[str] = (),
        scheduler_flags: Sequence[str] = (),
    ) -> None:
        self.controllers = controllers
        self.scheduler = scheduler
        self._api_flags = list(api_flags)
        self._controller_flags = list(controller_flags)
        self._scheduler_flags = list(scheduler_flags)
        self._folder: Path | None = None
        self._supervised: Supervised | None = None
        self._ports: list[socket.socket] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and return when the API server is ready (about 4 seconds once the programs are built)."""
        self._kubernetes, self._etcd = programs(KUBERNETES), programs(ETCD)
        self._folder = Path(tempfile.mkdtemp(prefix="gemmaspec-controlplane-"))
        self._supervised = Supervised(self._folder, self._folder)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill everything and remove every file; a second call does nothing."""
        if self._supervised:
            self._supervised.close()
        for held in self._ports:
            held.close()
        self._ports.clear()
        self._supervised = self._folder = None

    @property
    def folder(self) -> Path:
        """Where state, logs and kubeconfigs lie while the control plane runs. Raises RuntimeError before."""
        if self._folder is None:
            raise RuntimeError("the control plane is not running")
        return self._folder

    @property
    def supervised(self) -> Supervised:
        """The running programs, by the names etcd, apiserver, controllers, scheduler."""
        if self._supervised is None:
            raise RuntimeError("the control plane is not running")
        return self._supervised

    @property
    def server(self) -> str:
        """The API server's address, https://127.0.0.1:PORT."""
        return f"https://127.0.0.1:{self._ports[1].getsockname()[1]}"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig whose user may do everything."""
        return self.folder / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: one JSON object a line, changes with their bodies."""
        return self.folder / "audit.log"

    @property
    def audit(self) -> AuditLog:
        """The audit log, read back."""
        return AuditLog(self.audit_log)

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the administrator: `plane.kubectl("get", "pods") -> str`."""
        return Kubectl(str(self._kubernetes / "kubectl"), self.kubeconfig)

    def kubectl_as(self, kubeconfig: Path) -> Kubectl:
        """kubectl with another kubeconfig."""
        return Kubectl(str(self._kubernetes / "kubectl"), kubeconfig)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a user with just the rights that RBAC gives to that name and those groups."""
        name = hashlib.sha256(repr((user, tuple(groups))).encode()).hexdigest()[:16]
        path = self.folder / f"user-{name}.kubeconfig"
        if not path.exists():
            path.write_text(Secrets(self.folder).kubeconfig(self.server, user, groups))
        return path

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with the rights of a ServiceAccount, under its user name and groups."""
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
        return self.kubeconfig_for(f"system:serviceaccount:{namespace}:{name}", groups)

    def stop_apiserver(self) -> None:
        """Kill the API server; etcd keeps what is stored."""
        self.supervised.stop("apiserver")

    def start_apiserver(self) -> None:
        """Start the API server (again) and wait until it is ready."""
        etcd_port, port = (held.getsockname()[1] for held in self._ports[:2])
        secrets = Secrets(self.folder)
        command = components.apiserver(
            self._kubernetes, secrets, etcd_port, "127.0.0.1", port, _SERVICES, self.audit_log
        )
        if not self.controllers:  # nobody would make the ServiceAccount that this plug-in demands of every pod
            command.append("--disable-admission-plugins=ServiceAccount")
        self.supervised.start("apiserver", [*command, *self._api_flags])
        api = Api(self.kubeconfig)

        def ready() -> bool:
            self.supervised.check()
            return api.ready() and api.ready("/api/v1/namespaces/default")

        wait_for(ready, "the API server", START_SECONDS, fail=lambda: self.supervised.tail("apiserver"))

    def _start(self) -> None:
        self._ports = [reserve_port(), reserve_port()]
        secrets = Secrets.create(self.folder, ["127.0.0.1", "10.96.0.1"])
        self.kubeconfig.write_text(secrets.kubeconfig(self.server, "admin", [ADMINISTRATORS]))
        etcd_port = self._ports[0].getsockname()[1]
        self.supervised.start("etcd", components.etcd(self._etcd, self.folder / "etcd", etcd_port))
        self.start_apiserver()
        if self.controllers:
            self._start_controllers(secrets)
        if self.scheduler:
            config = self.folder / "scheduler.kubeconfig"
            config.write_text(secrets.kubeconfig(self.server, "system:kube-scheduler"))
            command = components.scheduler(self._kubernetes, config)
            self.supervised.start("scheduler", [*command, *self._scheduler_flags])

    def _start_controllers(self, secrets: Secrets) -> None:
        config = self.folder / "controllers.kubeconfig"
        config.write_text(secrets.kubeconfig(self.server, "system:kube-controller-manager"))
        command = components.controller_manager(self._kubernetes, secrets, config, *self._controller_flags)
        self.supervised.start("controllers", command)
        api = Api(self.kubeconfig)
        account = "/api/v1/namespaces/default/serviceaccounts/default"

        def ready() -> bool:
            self.supervised.check()
            return api.ready(account)

        wait_for(ready, "ServiceAccount default", START_SECONDS, fail=lambda: self.supervised.tail("controllers"))


def kubectl_program() -> Path:
    """The kubectl of the testbed's own Kubernetes version."""
    return programs(KUBERNETES) / "kubectl"
