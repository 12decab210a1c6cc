"""A real scheduler over nodes that KWOK plays, and an operator: where engines land, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from testbed import ControlPlane
from testbed.api import Api
from testbed.deadline import wait_for
from testbed.kwok import Box, Kwok
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import LEAST_SECONDS

RESOURCES = "/apis/gemmaspec.io/v1alpha1/namespaces/{}/gemmaspecdeploys"
SECONDS = 20.0
NO_RUNTIME_CLASS: dict[str, Any] = {"runtimeClassName": ""}


class Boxes:
    """Nodes and resources of one test, in a namespace of its own."""

    def __init__(self, plane: ControlPlane, kwok: Kwok, operator: OperatorProcess, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self._api = Api(plane.kubeconfig)
        self._kwok = kwok
        self._operator = operator
        self._boxes: list[str] = []
        self._resources = RESOURCES.format(namespace)
        self.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})

    def send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        """A request that must succeed; returns the answer."""
        code, answer = self._api.send(method, path, body, kind, LEAST_SECONDS)
        assert code < 300, f"{method} {path}: {code}: {answer.decode(errors='replace')}"
        return dict(json.loads(answer))

    def add(self, *boxes: Box) -> None:
        """Plug in nodes."""
        self._boxes += [box.name for box in boxes]
        self._kwok.add(*boxes)

    def clear(self) -> None:
        """Remove resources, their pods, and the nodes: other tests count nodes."""
        self.send("DELETE", self._resources)
        # The garbage collector learns of a new kind of owner within half a minute: what it would do is done here.
        deployments = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        self.send("DELETE", deployments, {"propagationPolicy": "Background"})
        wait_for(lambda: not self.pods(), "the end of the pods", SECONDS, fail=self._operator.log)
        self._kwok.remove(*self._boxes)

    def occupy(self, box: str, memory: str) -> None:
        """A pod of somebody else's that holds memory of a box."""
        container = {"name": "other", "image": "example.org/other:1", "resources": {"requests": {"memory": memory}}}
        spec = {"nodeName": box, "containers": [container], "tolerations": [{"operator": "Exists"}]}
        self.send("POST", f"/api/v1/namespaces/{self.namespace}/pods", {"metadata": {"name": "other"}, "spec": spec})

    def apply(self, name: str, nodes: Mapping[str, Any] = NO_RUNTIME_CLASS, utilization: float = 0.85) -> None:
        """Apply a resource for GB10 boxes with these ``spec.nodes``."""
        spec = {
            "model": {"target": "/models/target"},
            "engine": {"image": "example.org/vllm:1", "allowTag": True},
            "memory": {"utilization": utilization},
            "nodes": dict(nodes),
        }
        body = {
            "apiVersion": "gemmaspec.io/v1alpha1",
            "kind": "GemmaSpecDeploy",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }
        path = f"{self._resources}/{name}?fieldManager=user&force=true"
        self.send("PATCH", path, body, "application/apply-patch+yaml")

    def delete(self, name: str) -> None:
        """Delete a resource."""
        self.send("DELETE", f"{self._resources}/{name}")

    def pods(self, name: str | None = None) -> list[dict[str, Any]]:
        """Engine pods, of one resource or of all, the leaving ones included."""
        listed = self._api.read(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=gemmaspec.io/deploy")
        pods = list(listed["items"]) if listed else []
        return [pod for pod in pods if name in (None, pod["metadata"]["labels"]["gemmaspec.io/deploy"])]

    def places(self, name: str | None = None) -> list[str]:
        """Nodes that hold engines, sorted."""
        return sorted(pod["spec"]["nodeName"] for pod in self.pods(name) if "nodeName" in pod["spec"])

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """A condition of a resource; empty while there is none."""
        found = self._api.read(f"{self._resources}/{name}") or {}
        conditions = found.get("status", {}).get("conditions", ())
        return dict(next((entry for entry in conditions if entry["type"] == kind), {}))

    def wait_placed(self, name: str, count: int = 1) -> list[str]:
        """Wait until so many engines of the resource have a node; returns the nodes."""
        wait_for(
            lambda: len(self.places(name)) == count,
            f"{count} places of {name}",
            SECONDS,
            fail=lambda: self._story(name),
        )
        return self.places(name)

    def wait_reason(self, name: str, reason: str, words: str = "") -> str:
        """Wait until EngineHealthy is False for this reason, with these words; returns its message."""

        def said() -> str:
            found = self.condition(name, "EngineHealthy")
            is_it = found.get("status") == "False" and found["reason"] == reason and words in found["message"]
            return str(found["message"]) if is_it else ""

        return wait_for(said, f"{reason} of {name}", SECONDS, fail=lambda: self._story(name))

    def _story(self, name: str) -> str:
        status = (self._api.read(f"{self._resources}/{name}") or {}).get("status")
        pods = [(pod["metadata"]["name"], pod["spec"].get("nodeName"), pod["status"]) for pod in self.pods(name)]
        return f"status: {json.dumps(status)}\npods: {json.dumps(pods)}\noperator:\n{self._operator.log()}"
