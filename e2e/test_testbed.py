"""The testbed itself: pods really run, the engine's files come in, nodes die, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import Cluster
from testbed.cluster import ClusterError
from testbed.deadline import wait_for
from testbed.machine import MachineError
from testbed.node import NodeSpec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080)"


def _pod(name: str, image: str, code: str, **more: object) -> str:
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", code],
        "workingDir": "/etc",
        "securityContext": _RESTRICTED,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {"containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}], "restartPolicy": "Never"}
    metadata = {"name": name, "labels": {"app": name}}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, **more}})


@pytest.fixture
def namespace(own_cluster: Cluster) -> Iterator[str]:
    """An empty namespace that demands the restricted pod security standard."""
    name = f"testbed-{os.urandom(3).hex()}"
    own_cluster.kubectl("create", "namespace", name)
    own_cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    account = ("get", "serviceaccount", "default", "-n", name, "--ignore-not-found")
    wait_for(lambda: own_cluster.kubectl(*account), "ServiceAccount default", 30)
    yield name
    own_cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_operator_image_runs_restricted_and_is_reached_by_service_name(own_cluster: Cluster, namespace: str) -> None:
    run = own_cluster.kubectl
    image = own_cluster.images["operator"]
    run.apply(_pod("server", image, _SERVE), "-n", namespace)
    run("expose", "pod", "server", "--port=80", "--target-port=8080", "-n", namespace)
    run("wait", "--for=condition=Ready", "pod/server", "-n", namespace, "--timeout=60s", timeout=70)
    fetch = f"import urllib.request as u; print(u.urlopen('http://server.{namespace}/group').read().decode())"
    retry = f"import time\nfor _ in range(50):\n try:\n  {fetch}\n  break\n except OSError: time.sleep(.2)"
    run.apply(_pod("client", image, retry), "-n", namespace)
    run("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/client", "-n", namespace, "--timeout=60s", timeout=70)
    assert "nonroot:x:65532" in run("logs", "client", "-n", namespace)
    status = run.json("get", "pod", "server", "-n", namespace)["status"]["containerStatuses"][0]
    assert status["imageID"] == image


def test_host_reaches_services_through_the_forward(own_cluster: Cluster, namespace: str) -> None:
    run = own_cluster.kubectl
    run.apply(_pod("server", own_cluster.images["operator"], _SERVE), "-n", namespace)
    run("expose", "pod", "server", "--port=80", "--target-port=8080", "-n", namespace)
    run("wait", "--for=condition=Ready", "pod/server", "-n", namespace, "--timeout=60s", timeout=70)
    for target, port in (("svc/server", 80), ("pod/server", 8080)):
        with own_cluster.forward(target, port, namespace) as local:
            url = f"http://127.0.0.1:{local}/passwd"

            def answer(url: str = url) -> bytes:
                try:
                    return bytes(urllib.request.urlopen(url, timeout=5).read())
                except OSError:  # the server was told to start a moment ago
                    return b""

            assert b"nonroot" in wait_for(answer, url, 20)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)
    with pytest.raises(ClusterError, match="cannot forward"):
        own_cluster.forward("replicaset/x", 80).__enter__()


def test_engine_files_are_injected_also_into_init_containers(own_cluster: Cluster, namespace: str) -> None:
    code = "import sys, vllm, os; print(vllm.__version__, sys.prefix, os.access('/opt/vllm', os.W_OK), flush=True)"
    init = json.loads(_pod("x", own_cluster.images["engine"], "import torch; print(torch.ones(2).sum())"))
    init_containers = [{**init["spec"]["containers"][0], "name": "look"}]
    pod = json.loads(
        _pod("engine", own_cluster.images["engine"], code, runtimeClassName="host-vllm", initContainers=init_containers)
    )
    pod["spec"]["securityContext"] = {"runAsUser": 1000}
    run = own_cluster.kubectl
    run.apply(json.dumps(pod), "-n", namespace)
    done = "--for=jsonpath={.status.phase}=Succeeded"
    run("wait", done, "pod/engine", "-n", namespace, "--timeout=240s", timeout=250)
    assert "0.32.0 /opt/vllm False" in run("logs", "engine", "-n", namespace)
    assert "tensor(2.)" in run("logs", "engine", "-c", "look", "-n", namespace)


def test_second_process_finds_the_cluster_and_up_is_idempotent(own_cluster: Cluster) -> None:
    code = f"from testbed import Cluster; print(Cluster.up({own_cluster.name!r}).kubectl('get','nodes','-o','name'))"
    pid = own_cluster.control.pid
    assert _python(code).stdout.strip() == "node/n1"
    assert own_cluster.control.pid == pid


def test_pods_reach_the_api_server_with_their_token(own_cluster: Cluster, namespace: str) -> None:
    code = (
        "import asyncio, kubernetes.aio as k\n"
        "async def main():\n"
        " k.config.load_incluster_config()\n"
        " async with k.client.ApiClient() as api:\n"
        "  who = await k.client.AuthenticationV1Api(api).create_self_subject_review(k.client.V1SelfSubjectReview())\n"
        "  print(who.status.user_info.username)\n"
        "asyncio.run(main())\n"
    )
    own_cluster.kubectl.apply(_pod("asker", own_cluster.images["operator"], code), "-n", namespace)
    done = "--for=jsonpath={.status.phase}=Succeeded"
    own_cluster.kubectl("wait", done, "pod/asker", "-n", namespace, "--timeout=60s", timeout=70)
    assert own_cluster.kubectl("logs", "asker", "-n", namespace) == f"system:serviceaccount:{namespace}:default\n"


def test_rights_of_a_service_account_from_outside(own_cluster: Cluster, namespace: str) -> None:
    config = own_cluster.kubeconfig_for_service_account(namespace, "default")
    said = own_cluster.kubectl_as(config)("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    assert said == f"system:serviceaccount:{namespace}:default"


@pytest.mark.campaign
def test_labels_taints_resources_and_the_loss_of_a_node(own_cluster: Cluster) -> None:
    name = f"{own_cluster.name}-nodes"
    second = NodeSpec(
        "spark-2", {"nvidia.com/gpu.product": "NVIDIA-GB10"}, ["gpu=yes:NoSchedule"], {"nvidia.com/gpu": "1"}
    )
    cluster = Cluster.up(name, [NodeSpec("spark-1"), second], images=())
    try:
        found = cluster.kubectl.json("get", "node", "spark-2")
        assert found["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-GB10"
        assert {"key": "gpu", "value": "yes", "effect": "NoSchedule"} in found["spec"]["taints"]
        assert found["status"]["allocatable"]["nvidia.com/gpu"] == "1"
        cluster.stop_node("spark-2")
        with pytest.raises(MachineError, match="not running"):
            cluster.run_on_node("spark-2", ["true"])
        cluster.kubectl("wait", "--for=condition=Ready=Unknown", "node/spark-2", "--timeout=60s", timeout=70)
        cluster.start_node("spark-2")
        assert cluster.run_on_node("spark-2", ["hostname"]).strip() == "spark-2"
    finally:
        cluster.down()
    assert not _traces(name)


@pytest.mark.campaign
@pytest.mark.parametrize("wait", ["control/init.pid", "control/audit.log", "nodes/n1/kubelet.yaml"])
def test_killed_while_starting_then_up_again(own_cluster: Cluster, wait: str) -> None:
    name = f"{own_cluster.name}-crash"
    code = f"from testbed import Cluster; Cluster.up({name!r}, images=())"
    victim = subprocess.Popen([sys.executable, "-c", code], env=_environment())
    wait_for(lambda: (Cluster(name).home / wait).exists() or victim.poll() is not None, wait, 120, every=0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(20) == -signal.SIGKILL
    with pytest.raises(ClusterError, match="no cluster"):
        Cluster.attach(name)
    cluster = Cluster.up(name, images=())
    try:
        assert "n1" in cluster.kubectl("get", "nodes")
    finally:
        cluster.down()
    assert not _traces(name)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, timeout=300, check=True
    )


def _traces(name: str) -> list[str]:
    """Processes, control groups, mounts, links and files that name a cluster."""
    home = str(Cluster(name).home)
    found = [home] if Path(home).exists() else []
    found += [str(path) for path in Path("/sys/fs/cgroup").rglob(f"testbed-{name}-*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if home in line]
    found += [line for line in Path("/proc/net/dev").read_text().splitlines() if "to-n" in line or "lan:" in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if home in command:
                found.append(command)
    return found
