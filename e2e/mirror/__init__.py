"""A model hub and a package index inside the cluster, for pods that have no way out of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mirror.server import COMMIT, WHEELS
from testbed import Cluster
from testbed.cache import built
from testbed.deadline import wait_for
from testbed.engine import ensure_engine
from testbed.kubectl import Kubectl, KubectlError
from testbed.node import ENGINE_HANDLER
from testbed.usercluster import UserCluster

__all__ = ["COMMIT", "Mirror", "mirror_on", "wheel_of"]

NAME: Final = "mirror"
PORT: Final = 8080
_READY_SECONDS: Final = 120
_DOWNLOAD_SECONDS: Final = 300.0
_SERVER: Final = Path(__file__).with_name("server.py")


@dataclass(frozen=True)
class Mirror:
    """The running mirror. `token`: what the hub wants to see; the index is open."""

    kubectl: Kubectl
    namespace: str
    token: str

    @property
    def url(self) -> str:
        """Its address inside the cluster; the value of HF_ENDPOINT."""
        return f"http://{NAME}.{self.namespace}.svc.cluster.local:{PORT}"

    @property
    def pip_environment(self) -> list[dict[str, str]]:
        """Environment by which pip asks this index and no other."""
        host = self.url.removeprefix("http://")
        return [
            {"name": "PIP_INDEX_URL", "value": f"{self.url}/simple"},
            {"name": "PIP_TRUSTED_HOST", "value": host},
        ]

    def asked(self) -> list[str]:
        """What the hub was asked so far, refused requests included: ``METHOD /path``."""
        return self._told("asked")

    def served(self) -> list[str]:
        """Files that the hub has given away so far: ``repository/path``, with ``@range`` where only a part was."""
        return self._told("served")

    def _told(self, what: str) -> list[str]:
        look = f"u.urlopen('http://127.0.0.1:{PORT}/{what}', timeout=20).read().decode()"
        code = f"import urllib.request as u; print({look})"
        told = self.kubectl("exec", "-n", self.namespace, NAME, "--", "python3", "-c", code)
        return [str(entry) for entry in json.loads(told)]

    def add(self, wheel: Path) -> None:
        """Put a wheel into the index. Raises KubectlError when it did not arrive whole."""
        place = f"{WHEELS}/{wheel.name}"
        command = ["exec", "-i", "-n", self.namespace, NAME, "--", "sh", "-c"]
        command.append(f"cat > {place}.part && mv {place}.part {place} && sha256sum {place}")
        with wheel.open("rb") as content:
            done = subprocess.run(
                [*self.kubectl.command, *command], stdin=content, capture_output=True, timeout=120, check=False
            )
        if hashlib.sha256(wheel.read_bytes()).hexdigest() not in done.stdout.decode():
            raise KubectlError(command, done.returncode, (done.stderr + done.stdout).decode(errors="replace"))


def wheel_of(package: str, version: str) -> Path:
    """A pure-Python package's wheel, downloaded once from the package index of this machine."""
    python = str(ensure_engine() / "bin" / "python3")

    def download(folder: Path) -> None:
        wish = ["--no-deps", "--only-binary=:all:", f"--dest={folder}", f"{package}=={version}"]
        subprocess.run([python, "-m", "pip", "download", "--quiet", *wish], check=True, timeout=_DOWNLOAD_SECONDS)

    return next(built(f"wheels/{package}", version, download).glob("*.whl"))


@contextmanager
def mirror_on(
    cluster: Cluster | UserCluster, namespace: str, token: str, repositories: Mapping[str, Any]
) -> Iterator[Mirror]:
    """The mirror in a pod with the engine's image, behind a Service; removed at the end.

    repositories: see :mod:`mirror.server`. A folder is one of the engine's image.
    """
    kubectl, where = cluster.kubectl, ("-n", namespace)
    description = json.dumps({"token": token, "repositories": repositories})
    runtime = {"runtimeClassName": ENGINE_HANDLER} if isinstance(cluster, Cluster) else {}
    objects = _objects(cluster.load("engine")["engine"], runtime, description)
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}), *where)
    try:
        kubectl("wait", *where, "--for=condition=Ready", f"pod/{NAME}", f"--timeout={_READY_SECONDS}s", timeout=130)
        running = Mirror(kubectl, namespace, token)
        wait_for(lambda: running.served() == [], "the mirror's answer", 20)
        yield running
    finally:
        kubectl("delete", *where, f"pod/{NAME}", f"service/{NAME}", f"configmap/{NAME}", "--ignore-not-found", "--now")


def _objects(image: str, runtime: Mapping[str, str], description: str) -> list[dict[str, Any]]:
    label = {"app": NAME}
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/etc/mirror/server.py", "/etc/mirror/repositories.json", str(PORT)],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "mirror", "mountPath": "/etc/mirror"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "mirror", "configMap": {"name": NAME}}, {"name": "tmp", "emptyDir": {}}]
    pod = {"containers": [container], "volumes": volumes, "enableServiceLinks": False, **runtime}
    data = {"server.py": _SERVER.read_text(), "repositories.json": description}
    ports = [{"port": PORT, "targetPort": PORT}]
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": label, "ports": ports},
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "labels": label}, "spec": pod},
    ]
