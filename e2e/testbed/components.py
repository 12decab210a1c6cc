"""Command lines of the control plane's programs, the same for the loopback one and for a whole cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.pki import ADMINISTRATORS, Authority, Identity, key_pem, kubeconfig, new_key, public_pem

AUDIT_POLICY = Path(__file__).with_name("audit-policy.yaml")
SERVICE_NAMES = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
]


@dataclass(frozen=True)
class Secrets:
    """The folder with a control plane's certificates and keys.

    ca: signs every client and server. front: signs the aggregation proxy, and must differ from ca, or every
    client could pretend to be that proxy. sa: signs ServiceAccount tokens.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path, hosts: Sequence[str]) -> Secrets:
        """Make a new set; hosts are the addresses and names the API server is reached under."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority.create("testbed-ca")
        authority.identity.write(folder, "ca")
        Authority.create("testbed-front-ca").identity.write(folder, "front-ca")
        authority.issue("kube-apiserver", hosts=[*hosts, *SERVICE_NAMES]).write(folder, "apiserver")
        authority.issue("apiserver-kubelet-client", [ADMINISTRATORS]).write(folder, "apiserver-kubelet")
        tokens = new_key()
        Identity(public_pem(tokens), key_pem(tokens)).write(folder, "sa")
        return cls(folder)

    def path(self, name: str) -> str:
        """The path of a file of the set, for a command line."""
        return str(self.folder / name)

    def issue(self, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Identity:
        """A certificate signed by the cluster's authority."""
        return Authority.load(self.folder, "ca").issue(user, groups, hosts)

    def kubeconfig(self, server: str, user: str, groups: Sequence[str] = ()) -> str:
        """The text of a kubeconfig for a user with a fresh certificate."""
        authority = (self.folder / "ca.crt").read_bytes()
        return kubeconfig(server, authority, user, self.issue(user, groups))


def etcd(program: Path, data: Path, port: int) -> list[str]:
    """etcd on the loopback, alone. It does not wait for the disk: what it holds dies with the test anyway."""
    here = f"http://127.0.0.1:{port}"
    peer = "http://127.0.0.1:0"
    return [
        str(program / "etcd"),
        "--name=testbed",
        f"--data-dir={data}",
        f"--listen-client-urls={here}",
        f"--advertise-client-urls={here}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=testbed={peer}",
        "--unsafe-no-fsync",
        "--socket-reuse-port",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    ]


def apiserver(
    programs: Path, secrets: Secrets, etcd_port: int, address: str, port: int, services: str, audit: Path
) -> list[str]:
    """kube-apiserver with Node and RBAC authorization, and an audit log without delay."""
    headers = ("username=X-Remote-User", "group=X-Remote-Group", "extra=X-Remote-Extra-")
    names = {"username": "username-headers", "group": "group-headers", "extra": "extra-headers-prefix"}
    front = [f"--requestheader-{names[k]}={v}" for k, v in (pair.split("=") for pair in headers)]
    return [
        str(programs / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={port}",
        "--permit-port-sharing=true",
        f"--service-cluster-ip-range={services}",
        f"--client-ca-file={secrets.path('ca.crt')}",
        f"--tls-cert-file={secrets.path('apiserver.crt')}",
        f"--tls-private-key-file={secrets.path('apiserver.key')}",
        f"--requestheader-client-ca-file={secrets.path('front-ca.crt')}",
        "--requestheader-allowed-names=front-proxy",
        *front,
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={secrets.path('sa.crt')}",
        f"--service-account-signing-key-file={secrets.path('sa.key')}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--profiling=false",
        f"--audit-policy-file={AUDIT_POLICY}",
        f"--audit-log-path={audit}",
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=10000",  # in MiB: a rotated log would make marks meaningless
    ]


def controller_manager(programs: Path, secrets: Secrets, config: Path, *more: str) -> list[str]:
    """kube-controller-manager: ServiceAccounts, garbage collection, Deployments and all the rest."""
    return [
        str(programs / "kube-controller-manager"),
        f"--kubeconfig={config}",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={secrets.path('sa.key')}",
        f"--root-ca-file={secrets.path('ca.crt')}",
        f"--cluster-signing-cert-file={secrets.path('ca.crt')}",
        f"--cluster-signing-key-file={secrets.path('ca.key')}",
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
        f"--flex-volume-plugin-dir={config.parent / 'volume-plugins'}",  # its default is made on the host
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        *more,
    ]


def scheduler(programs: Path, config: Path) -> list[str]:
    """kube-scheduler."""
    return [
        str(programs / "kube-scheduler"),
        f"--kubeconfig={config}",
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
    ]
