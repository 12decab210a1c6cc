"""The two controllers that are compared: how each is installed, started, and asked for a thousand engines."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.request import urlopen

import yaml

from bench.scale.site import NAMESPACE, Site
from gemmaspec.adapters.files import engine_files
from gemmaspec.core.pod import pod_template
from gemmaspec.core.resolve import resolve
from gemmaspec.recipes import load
from testbed.controlplane import reserve_port
from testbed.deadline import wait_for
from testbed.golang import LWS, go_program, programs
from testbed.pki import ADMINISTRATORS

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGE: Final = "example.org/vllm@sha256:" + "0123456789abcdef" * 4
START_SECONDS: Final = 60.0
OWN_METRICS: Final = ("queue_depth", "reconcile_total", "reconcile_duration_seconds_bucket", "api_errors_total")


class Subject(Protocol):
    """A controller under measurement."""

    name: str
    collection: str
    children: tuple[str, ...]

    def install(self, site: Site) -> None:
        """Install definitions."""

    def start(self, site: Site) -> None:
        """Start the process and wait until it watches."""

    def body(self, number: int, port: int) -> dict[str, Any]:
        """The resource of one engine, which listens on ``port``."""

    def is_ready(self, body: Mapping[str, Any]) -> bool:
        """Whether its engine serves, and the controller says so of the newest spec."""

    def says(self) -> dict[str, float]:
        """What the controller's own metrics say of its work, where they are looked at."""


def _conditions(body: Mapping[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in body.get("status", {}).get("conditions", ())}


def _start(site: Site, name: str, command: list[str], environment: Mapping[str, str]) -> int:
    """Start a controller as an administrator of its own name; returns the mark of the audit log from before."""
    kubeconfig = site.plane.kubeconfig_for(name, [ADMINISTRATORS])
    mark = site.plane.audit.mark()
    site.plane.supervised.start(name, command, {**environment, "KUBECONFIG": str(kubeconfig)})
    return mark


def _wait_until(site: Site, name: str, probe: Callable[[], bool]) -> None:
    def watches() -> bool:
        site.plane.supervised.check()
        return probe()

    wait_for(watches, f"the start of {name}", START_SECONDS, fail=lambda: site.plane.supervised.tail(name, 20))


class Ours:
    """The operator as its pod runs it: ``python -m gemmaspec.runtime``."""

    name = "gemmaspec"
    collection = f"/apis/gemmaspec.io/v1alpha1/namespaces/{NAMESPACE}/gemmaspecdeploys"
    children = (
        f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
        f"/api/v1/namespaces/{NAMESPACE}/services",
        f"/api/v1/namespaces/{NAMESPACE}/configmaps",
        f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
    )

    def __init__(self, key: Path | None = None, scrape: float = 5.0) -> None:
        self._key = key
        self._scrape = scrape
        with reserve_port() as held:
            self._metrics_port = int(held.getsockname()[1])
        self._sources: Path | None = None

    def install(self, site: Site) -> None:
        """Install the definition of this checkout, and copy its sources: an edit meanwhile would restart engines."""
        self._sources = site.plane.folder / "operator"
        shutil.copytree(ROOT / "operator", self._sources, ignore=shutil.ignore_patterns("__pycache__"))
        site.plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds/gemmaspec.io_gemmaspecdeploys.yaml"))
        wait_for(lambda: site.serves(self.collection), "the definition", 30)

    def start(self, site: Site) -> None:
        """Start the operator."""
        environment = {
            "PYTHONPATH": str(self._sources),
            "KUBERNETES_SERVICE_HOST": "",
            "GEMMASPEC_METRICS_PORT": str(self._metrics_port),
            "GEMMASPEC_HEALTH_PORT": "0",
            "GEMMASPEC_LOG_LEVEL": "WARNING",
            "GEMMASPEC_SCRAPE_SECONDS": str(self._scrape),
            "GEMMASPEC_KEY_FILE": str(self._key) if self._key else "",
        }
        mark = _start(site, self.name, [sys.executable, "-m", "gemmaspec.runtime"], environment)
        watched = {"gemmaspecdeploys", "serviceaccounts", "services", "configmaps", "deployments", "pods"}

        def listed() -> bool:
            return {e.resource for e in site.plane.audit.events(mark, user=self.name, verbs={"list"})} >= watched

        _wait_until(site, self.name, listed)

    def body(self, number: int, port: int) -> dict[str, Any]:
        """One engine on one box."""
        spec = {
            "model": {"target": "google/gemma-4-31b-it", "revision": "main", "maxModelLen": 32768},
            "engine": {"image": IMAGE, "vllm": "0.32.0"},
            "speculative": {"method": "mtp", "drafter": {"model": "google/gemma-4-31b-it-assistant"}, "k": 4},
            "nodes": {"runtimeClassName": ""},
            "service": {"port": port},
        }
        return {
            "apiVersion": "gemmaspec.io/v1alpha1",
            "kind": "GemmaSpecDeploy",
            "metadata": {"name": f"engine-{number}"},
            "spec": spec,
        }

    def says(self) -> dict[str, float]:
        """Resources that wait, and passes since the process began, by how they ended and how long they took."""
        wanted = "&".join(f"name[]=gemmaspec_{name}" for name in OWN_METRICS)
        with urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics?{wanted}", timeout=60) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def passes(self) -> float:
        """Passes over resources since the process began."""
        return sum(value for name, value in self.says().items() if name.startswith("gemmaspec_reconcile_total{"))

    def exposition(self) -> dict[str, float]:
        """What it takes to collect all metrics, as Prometheus does."""
        began = time.monotonic()
        with urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=60) as answer:
            size = len(answer.read())
        return {"seconds": time.monotonic() - began, "mib": size / 2**20}

    def is_ready(self, body: Mapping[str, Any]) -> bool:
        """Ready, not reconciling, for the newest generation."""
        told = _conditions(body)
        current = body.get("status", {}).get("observedGeneration") == body["metadata"]["generation"]
        return current and told.get("Ready") == "True" and told.get("Reconciling") == "False"


class LeaderWorkerSets:
    """LeaderWorkerSet's controller from its Go module, with its own default of 500 requests a second.

    Its webhooks only fill in defaults and labels: the resources here carry them already, and it runs without. bare: its
    pods have one container with an image and a GPU; else they are those that the operator makes for the same engine.
    """

    name = "lws"
    collection = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{NAMESPACE}/leaderworkersets"
    children = (
        f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets",
        f"/apis/apps/v1/namespaces/{NAMESPACE}/controllerrevisions",
        f"/api/v1/namespaces/{NAMESPACE}/services",
    )

    def __init__(self, bare: bool = False) -> None:
        self._pod = _bare_pod if bare else _engine_pod

    def install(self, site: Site) -> None:
        """Install the definitions of the module."""
        where = ["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/lws"]
        found = subprocess.run([go_program(), *where], cwd=LWS.folder, capture_output=True, text=True, check=True)
        for file in sorted((Path(found.stdout.strip()) / "config/crd/bases").glob("*.yaml")):
            site.plane.kubectl("apply", "--server-side", "-f", str(file))
        wait_for(lambda: site.serves(self.collection), "the definition", 30)

    def start(self, site: Site) -> None:
        """Start the controller."""
        config = {
            "apiVersion": "config.lws.x-k8s.io/v1alpha1",
            "kind": "Configuration",
            "internalCertManagement": {"enable": False},
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"qps": 500, "burst": 500},
        }
        file = site.plane.folder / "lws.yaml"
        file.write_text(yaml.safe_dump(config))
        flags = [
            f"--config={file}",
            "--metrics-bind-address=0",
            "--health-probe-bind-address=0",
            "--leader-elect=false",
        ]
        log = site.plane.supervised.log(self.name)
        before = log.read_text().count("Starting workers") if log.exists() else 0
        _start(site, self.name, [str(programs(LWS) / "lws"), *flags], {"ENABLE_WEBHOOKS": "false"})
        _wait_until(site, self.name, lambda: log.read_text().count("Starting workers") >= before + 3)

    def body(self, number: int, port: int) -> dict[str, Any]:
        """One engine on one box: a group of its leader alone."""
        labels = {"leaderworkerset.sigs.k8s.io/group-index": "0"}
        template = {"metadata": {"labels": labels}, "spec": self._pod(number, port)}
        rolling = {"maxUnavailable": 1, "maxSurge": 0, "partition": 0}
        spec = {
            "replicas": 1,
            "leaderWorkerTemplate": {
                "size": 1,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "workerTemplate": template,
            },
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": rolling},
            "networkConfig": {"subdomainPolicy": "Shared"},
        }
        return {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": f"engine-{number}"},
            "spec": spec,
        }

    def says(self) -> dict[str, float]:
        """Nothing that is looked at."""
        return {}

    def is_ready(self, body: Mapping[str, Any]) -> bool:
        """Available."""
        return _conditions(body).get("Available") == "True" and body["status"].get("readyReplicas") == 1


def _bare_pod(_number: int, port: int) -> dict[str, Any]:
    container = {
        "name": "engine",
        "image": IMAGE,
        "ports": [{"containerPort": port}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"memory": "100Gi"}},
    }
    return {"containers": [container], "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-GB10"}}


def _engine_pod(number: int, port: int) -> dict[str, Any]:
    """The pod that the operator makes of the same wish, under the namespace's own account."""
    name, resolved = f"engine-{number}", resolve(Ours().body(number, port)["spec"], load())
    spec: dict[str, Any] = pod_template(name, resolved, resolved.k, "revision", engine_files())["spec"]
    return {key: value for key, value in spec.items() if key != "serviceAccountName"}
