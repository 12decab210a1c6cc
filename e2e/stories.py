"""What the user stories share: the tiny engine on a cluster, its Service, and the operator's process."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
from openai import OpenAI

from demo.door import door
from demo.installation import (
    SAMPLE,
    Operator,
    described,
    exists,
    install_crd,
    install_operator,
    rendered,
    wait_ready,
)
from demo.resource import Resource, manifest, merged, pod_ready
from gemmaspec.core.live import token
from testbed import Cluster
from testbed.deadline import wait_for
from testbed.kubectl import Kubectl
from testbed.usercluster import UserCluster
from traffic import Traffic

NAMESPACE: Final = "e2e"
API_KEY: Final = "correct-horse"
SECRET: Final = "tiny-api-key"
AGENTS_KEY: Final = "of-the-stories-only-0123456789"
PORT: Final = 8000
BOOT_SECONDS: Final = 300.0
OTHER_TRANSFORMERS: Final = "5.18.0"
"""A version of transformers that the engine's image does not have."""
PATCHED: Final = "vllm.model_executor.models.gemma4_mtp"
"""The module that the stories' patches replace."""
_SECRET_REF: Final[dict[str, Any]] = {"service": {"apiKeySecretRef": {"name": SECRET, "key": "key"}}}


def tiny_manifest(cluster: Cluster | UserCluster, name: str = "tiny", **changes: Any) -> dict[str, Any]:
    """The sample under another name, with changes to its spec; on a cluster of the user's with the image given."""
    body = manifest(SAMPLE, name=name)
    if isinstance(cluster, UserCluster):
        engine = {"image": cluster.images["engine"], "allowTag": True}
        body["spec"] = merged(body["spec"], {"engine": engine, "nodes": {"runtimeClassName": ""}})
    body["spec"] = merged(body["spec"], changes)
    return body


def secret(kubectl: Kubectl, name: str, value: str) -> None:
    """A Secret in the stories' namespace, with the value under `key`."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"key": value}}
    kubectl.apply(json.dumps(body), "-n", NAMESPACE)


def config_map(name: str, text: str) -> dict[str, Any]:
    """A ConfigMap with the text under `it`."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"it": text}}


def patch_from(source: str, sha256: str = "0" * 64) -> dict[str, Any]:
    """Part of ``spec.engine``: the patch that such a ConfigMap holds, pinned to a hash."""
    return {"patches": [{"module": PATCHED, "sha256": sha256, "source": {"configMap": {"name": source, "key": "it"}}}]}


def give_key(kubectl: Kubectl, operators: str) -> None:
    """The operator's key in its namespace, from which the agents' tokens are made."""
    if not exists(kubectl, "namespace", operators):
        kubectl("create", "namespace", operators)
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "gemmaspec-operator-key"},
        "stringData": {"key": AGENTS_KEY},
    }
    kubectl.apply(json.dumps(body), "-n", operators)


def namespace(kubectl: Kubectl) -> None:
    """The stories' namespace, once it takes pods."""
    if not exists(kubectl, "namespace", NAMESPACE):
        kubectl("create", "namespace", NAMESPACE)
    wait_for(lambda: exists(kubectl, "-n", NAMESPACE, "serviceaccount", "default"), "ServiceAccount default", 30)


@dataclass(frozen=True)
class Site:
    """A cluster on which the operator runs in its pod, with a namespace for the stories."""

    cluster: Cluster | UserCluster
    operator: Operator

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the administrator."""
        return self.cluster.kubectl

    @property
    def own(self) -> Cluster:
        """The testbed's cluster, for stories that reach behind the API: audit log, containers of a node."""
        if isinstance(self.cluster, UserCluster):
            pytest.fail("this story needs the testbed's own cluster: run it without --context")
        return self.cluster

    def resource(self, name: str) -> Resource:
        """The resource of that name in the stories' namespace."""
        return Resource(self.kubectl, name, NAMESPACE)

    def apply(self, name: str, **changes: Any) -> Resource:
        """The sample under a name, with changes to its spec."""
        resource = self.resource(name)
        resource.apply(tiny_manifest(self.cluster, name, **changes))
        return resource


class OneEngine:
    """A resource of one replica, and the engine that serves it at the beginning."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name
        self.resource = site.resource(name)
        self.pod = self._pod()

    def _pod(self) -> dict[str, Any]:
        return dict(next(pod for pod in self.resource.pods() if pod_ready(pod)))

    def same_engine(self) -> bool:
        """Whether the pod is the one of the beginning and no container of it was restarted."""
        now = self._pod()
        restarts = [status["restartCount"] for status in now["status"]["containerStatuses"]]
        return now["metadata"]["uid"] == self.pod["metadata"]["uid"] and not any(restarts)


def alone_on_its_box(site: Site) -> dict[str, Any]:
    """Part of ``spec.engine``: so much of a box's memory that no second engine has room there."""
    capacity = site.kubectl.json("get", "node", "n1")["status"]["allocatable"]["memory"]
    return {"resources": {"requests": {"memory": f"{int(capacity.removesuffix('Ki')) * 6 // 10}Ki"}}}


@contextmanager
def two_boxes(name: str, api_flags: Sequence[str] = (), controller_flags: Sequence[str] = ()) -> Iterator[Site]:
    """A cluster of two boxes with the operator, taken down at the end."""
    cluster = Cluster.up(name, nodes=2, api_flags=api_flags, controller_flags=controller_flags)
    try:
        image = cluster.load("operator")["operator"]
        install_crd(cluster.kubectl)
        give_key(cluster.kubectl, described(rendered(cluster.kubectl, image)).namespace)
        namespace(cluster.kubectl)
        yield Site(cluster, install_operator(cluster.kubectl, image))
    finally:
        cluster.down()


@dataclass(frozen=True)
class Tiny:
    """The tiny pair, served: one resource that the stories use one after the other."""

    site: Site
    resource: Resource
    base_url: str
    """Of the Service, without /v1."""

    def client(self, key: str = API_KEY, seconds: float = 60.0) -> OpenAI:
        """The official client, on the Service."""
        return OpenAI(base_url=f"{self.base_url}/v1", api_key=key, max_retries=0, timeout=seconds)

    def traffic(self, code_share: float, streams: int = 4) -> Traffic:
        """Traffic on the Service; 1 is only the good kind, 0 only the bad one."""
        return Traffic(
            f"{self.base_url}/v1",
            model="tiny",
            api_key=API_KEY,
            code_share=code_share,
            streams=streams,
            max_tokens=96,
        )

    def settle(self) -> dict[str, Any]:
        """Wait until the resource is Ready and nothing is left to do."""
        return self.resource.wait_settled(BOOT_SECONDS)

    def at_desired_k(self) -> dict[str, Any]:
        """The settled resource with K as asked for; one whose K was lowered is made anew."""
        body = self.settle()
        if body["status"]["k"]["effective"] != body["status"]["k"]["desired"]:
            self.resource.delete()
            self.resource.apply(tiny_manifest(self.site.cluster, **_SECRET_REF))
            body = self.settle()
        return body

    def serving_pod(self) -> dict[str, Any]:
        """The pod that serves. Raises TimeoutError when there is none for long."""
        found = wait_for(lambda: [pod for pod in self.resource.pods() if pod_ready(pod)], "a serving pod", 60)
        return dict(found[0])


@contextmanager
def tiny_on(site: Site) -> Iterator[Tiny]:
    """The tiny engine, Ready, with an API key; removed at the end."""
    secret(site.kubectl, SECRET, API_KEY)
    resource = site.apply("tiny", **_SECRET_REF)
    try:
        resource.wait_settled(BOOT_SECONDS)
        with door(site.cluster, resource.name, PORT, NAMESPACE) as base_url:
            yield Tiny(site, resource, base_url)
    finally:
        resource.delete()


def status_of_agent(port: int, uid: str) -> dict[str, Any]:
    """What the agent behind a local port says of itself; uid: the resource's."""
    bearer = {"Authorization": f"Bearer {token(AGENTS_KEY.encode(), uid)}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/status", headers=bearer)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.load(answer))


def restart_operator(site: Site) -> None:
    """Kill the operator's pod without warning, and wait until another one is ready."""
    kubectl, operator = site.kubectl, site.operator
    pods = ("-n", operator.namespace, "pods", "-l", operator.selector)
    before = kubectl("get", *pods, "-o", "name").split()
    kubectl("delete", *pods, "--force", "--grace-period=0", "--wait=false")
    wait_for(lambda: not set(before) & set(kubectl("get", *pods, "-o", "name").split()), "the old pod gone", 30)
    wait_ready(kubectl, operator)


def kill_operator(site: Site) -> None:
    """End the operator's process by SIGKILL, as the kernel does when memory runs out; kubelet starts it again."""
    cluster, operator = site.own, site.operator
    pods = cluster.kubectl.json("get", "pods", "-n", operator.namespace, "-l", operator.selector)["items"]
    for pod in pods:
        for container in pod["status"]["containerStatuses"]:
            task = str(container["containerID"]).removeprefix("containerd://")
            kill = ["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", task]
            cluster.run_on_node(pod["spec"]["nodeName"], kill)


@contextmanager
def operator_down(site: Site) -> Iterator[None]:
    """No operator runs while the context lasts."""
    kubectl, operator = site.kubectl, site.operator
    where = ("-n", operator.namespace, f"deployment/{operator.deployment}")
    pods = ("-n", operator.namespace, "pods", "-l", operator.selector)
    kubectl("scale", *where, "--replicas=0")
    wait_for(lambda: not kubectl("get", *pods, "-o", "name").strip(), "the operator's pod gone", 60)
    try:
        yield
    finally:
        kubectl("scale", *where, "--replicas=1")
        wait_ready(kubectl, operator)


def text_of(entries: Mapping[str, Any]) -> str:
    """Reason and message of a condition, for assertions on words."""
    return f"{entries.get('reason')}: {entries.get('message')}"
