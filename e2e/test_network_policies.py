"""The chart's NetworkPolicies where something enforces them: who gets in, who does not, and that the work goes on.

The testbed's network enforces nothing, so that a program of yours has to: GEMMASPEC_KUBE_ROUTER names an executable of
kube-router (v2, with its nftables controller of policies; k3s enforces by the same project's). Skipped without one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from demo.resource import Resource, pod_ready
from gemmaspec.core.live import AGENT_PORT
from stories import BOOT_SECONDS, PORT, tiny_manifest
from test_helm import CHART, RELEASE, values
from testbed import Cluster, KubectlError
from testbed.deadline import wait_for
from testbed.helm import Helm
from testbed.node import CONTROL_ADDRESS, SERVICE_RANGE
from testbed.parts import api_server
from testbed.pki import ADMINISTRATORS

ENFORCER = os.environ.get("GEMMASPEC_KUBE_ROUTER", "")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.engine,
    pytest.mark.campaign,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not ENFORCER, reason="GEMMASPEC_KUBE_ROUTER names no program that enforces NetworkPolicies"),
]

SYSTEM, TENANT, OTHER, WATCHERS = "gemmaspec-system", "llm", "other", "monitoring"
LISTENING, METRICS = 9999, 8080
BENCHMARK = {"app.kubernetes.io/name": "gemmaspec-benchmark", "app.kubernetes.io/managed-by": "gemmaspec"}
CLOSED: dict[str, Any] = {
    "key.existingSecret": "",
    "networkPolicy.enabled": True,
    "networkPolicy.metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": WATCHERS}}}],
    "networkPolicy.engines.namespaces": [TENANT],
}
_TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 4)
    print("open")
except OSError as error:
    print(type(error).__name__)
"""
# From where -> which of these open: the engine, its agent, the operator's metrics, a pod that is none of ours.
WHO = {
    "a client": (TENANT, "client", {"engine", "stranger"}),
    "a benchmark": (TENANT, "benchmark", {"engine", "agent", "stranger"}),
    "a neighbour": (OTHER, "client", {"stranger"}),
    "who scrapes": (WATCHERS, "client", {"engine", "agent", "metrics", "stranger"}),
    "the operator": (SYSTEM, "", {"engine", "agent", "metrics"}),  # its metrics are at home: no network is between
}


@dataclass
class Closed:
    """A cluster with the policies of the chart, and an engine behind them."""

    cluster: Cluster
    helm: Helm
    image: str
    resource: Resource

    def pod(self, namespace: str, selector: str) -> dict[str, Any]:
        """The one ready pod that a selector means."""
        return dict(wait_for(lambda: self._ready(namespace, selector), f"{selector} in {namespace}", 90))

    def _ready(self, namespace: str, selector: str) -> dict[str, Any] | None:
        found = self.cluster.kubectl.json("get", "pods", "-n", namespace, "-l", selector)["items"]
        return next((pod for pod in found if pod_ready(pod)), None)

    @property
    def operator(self) -> dict[str, Any]:
        return self.pod(SYSTEM, "app.kubernetes.io/name=gemmaspec")

    def places(self) -> dict[str, tuple[str, int]]:
        """What there is to be reached: address and port."""
        engine = self.pod(TENANT, "app.kubernetes.io/name=gemmaspec-engine")["status"]["podIP"]
        return {
            "engine": (engine, PORT),
            "agent": (engine, AGENT_PORT),
            "metrics": (self.operator["status"]["podIP"], METRICS),
            "stranger": (self.pod(OTHER, "e2e=client")["status"]["podIP"], LISTENING),
        }

    def reaches(self, namespace: str, pod: str, address: str, port: int) -> bool:
        """Whether a connection from that pod comes about."""
        command = ("python3", "-c", _TRY, address, str(port))
        said = self.cluster.kubectl("exec", "-n", namespace, pod, "--", *command).strip()
        assert said in {"open", "ConnectionRefusedError", "TimeoutError"}, said
        return said == "open"

    def answers(self, path: str) -> bool:
        """Whether the API server's proxy brings something from there."""
        try:
            return bool(self.cluster.kubectl("get", "--raw", path))
        except (KubectlError, subprocess.TimeoutExpired):
            return False

    def upgrade(self, over: dict[str, Any]) -> None:
        """The release with other values."""
        settings = values(self.image, **CLOSED | over)
        self.helm("upgrade", RELEASE, str(CHART), f"--namespace={SYSTEM}", *settings, "--wait", "--timeout=120s")

    def opens(self, who: str) -> set[str]:
        """Names of the places that open to somebody of WHO."""
        namespace, name, _ = WHO[who]
        name = name or str(self.operator["metadata"]["name"])
        return {place for place, (host, port) in self.places().items() if self.reaches(namespace, name, host, port)}


def visitor(name: str, namespace: str, image: str, labels: dict[str, str]) -> dict[str, Any]:
    """A pod from which connections are tried, and which listens itself."""
    command = ["python3", "-m", "http.server", str(LISTENING), "--directory", "/usr/share"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"e2e": name} | labels},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "it",
                    "image": image,
                    "command": command,
                    "readinessProbe": {"tcpSocket": {"port": LISTENING}, "periodSeconds": 1},
                }
            ],
        },
    }


def enforce(cluster: Cluster) -> None:
    """kube-router on the node, for policies alone: routes and Services stay the testbed's."""
    (machine,) = cluster.nodes()
    config = machine.folder / "kube-router.kubeconfig"
    config.write_text(cluster.secrets.kubeconfig(api_server(), "kube-router", [ADMINISTRATORS]))
    machine.program(
        "kube-router",
        [
            ENFORCER,
            f"--kubeconfig={config}",
            f"--hostname-override={machine.name}",
            "--run-router=false",
            "--run-service-proxy=false",
            "--run-firewall=true",
            "--use-nftables-for-netpol=true",
            "--enable-ipv6=false",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--health-addr=127.0.0.1",
            "--metrics-port=0",
        ],
    )


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    Cluster("policies").down()
    cluster = Cluster.up("policies")
    try:
        kubectl, image = cluster.kubectl, cluster.load("operator")["operator"]
        for namespace in (TENANT, OTHER, WATCHERS):
            kubectl("create", "namespace", namespace)
            has_account = ("get", "sa", "default", "-n", namespace, "--ignore-not-found")
            wait_for(lambda: kubectl(*has_account), f"account of {namespace}", 60)  # noqa: B023
            kubectl.apply(json.dumps(visitor("client", namespace, image, {})))
        kubectl.apply(json.dumps(visitor("benchmark", TENANT, image, BENCHMARK)))
        enforce(cluster)
        helm = Helm(tmp_path_factory.mktemp("helm"), cluster.kubeconfig)
        settings = values(image, **CLOSED)
        where = (f"--namespace={SYSTEM}", "--create-namespace")
        helm("install", RELEASE, str(CHART), *where, *settings, "--wait", "--timeout=180s")
        resource = Resource(kubectl, "tiny", TENANT)
        control = {"actuator": "Live", "mode": "Fixed", "kMax": 4}
        resource.apply(tiny_manifest(cluster, speculative={"control": control}))
        resource.wait_settled(BOOT_SECONDS)
        yield Closed(cluster, helm, image, resource)
        (machine,) = cluster.nodes()
        machine.check()  # the enforcer ran to the end
    finally:
        print("\n".join(machine.tail("kube-router", 30) for machine in cluster.nodes()))
        cluster.down()


def test_the_operator_moves_k_behind_them(closed: Closed) -> None:
    """It hears of the edit from the API server, and the agent hears of it from the operator."""
    closed.resource.ask_for_k(2)
    closed.resource.wait(lambda now: now["status"]["k"]["effective"] == 2, "K told to the agent", 120)
    assert closed.resource.status()["k"]["actuator"] == "Live"


@pytest.mark.parametrize("who", WHO)
def test_who_gets_in(closed: Closed, who: str) -> None:
    assert closed.opens(who) == WHO[who][2]


def test_a_client_gets_its_answer_through_the_service(closed: Closed) -> None:
    """By name: DNS, the Service, the engine."""
    assert closed.reaches(TENANT, "client", f"tiny.{TENANT}.svc.cluster.local", PORT)
    assert not closed.reaches(OTHER, "client", f"tiny.{TENANT}.svc.cluster.local", PORT)


def test_a_benchmark_is_measured_behind_them(closed: Closed) -> None:
    """The Job's pod asks the engine, reads the agent, and is read by the operator."""
    asked = {"request": "closed", "concurrency": [1], "runs": 1, "tokens": 16, "temperature": 0}
    closed.resource.kubectl("patch", "gsd", "tiny", "--type=merge", "-p", json.dumps({"spec": {"benchmark": asked}}))
    ended = ("Done", "Failed", "Refused")
    found = closed.resource.wait(
        lambda now: (now["status"].get("benchmark") or {}).get("phase") in ended, "the benchmark's end", 600
    )
    assert found["status"]["benchmark"]["phase"] == "Done", found["status"]["benchmark"]


def test_the_command_line_gets_in_once_its_way_is_named(closed: Closed) -> None:
    """`gemmaspec bench` comes by the API server's proxy, which is no pod: docs/security.md tells what to name."""
    engine = closed.pod(TENANT, "app.kubernetes.io/name=gemmaspec-engine")["metadata"]["name"]
    places = [f"/api/v1/namespaces/{TENANT}/pods/{engine}:{port}/proxy/metrics" for port in (PORT, AGENT_PORT)]
    for place in places:
        with pytest.raises((KubectlError, subprocess.TimeoutExpired)):
            closed.cluster.kubectl("get", "--raw", place)
    peers = [*CLOSED["networkPolicy.metricsFrom"], {"ipBlock": {"cidr": f"{CONTROL_ADDRESS}/32"}}]
    closed.upgrade({"networkPolicy.metricsFrom": peers})
    for place in places:
        wait_for(lambda: closed.answers(place), f"an answer of {place}", 60)  # noqa: B023


def test_it_was_they_who_closed(closed: Closed) -> None:
    """Taken away again, everybody gets in."""
    closed.upgrade({"networkPolicy.enabled": False})
    everything = {"engine", "agent", "metrics", "stranger"}
    for who in WHO:
        wait_for(lambda: closed.opens(who) == everything, f"everything open to {who}", 60)  # noqa: B023
