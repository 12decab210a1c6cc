"""One test's stage: a namespace, an operator for it alone, a fake kubelet and fake engines."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from testbed import ControlPlane
from testbed.api import Api
from testbed.audit import AuditEvent
from testbed.deadline import wait_for
from tests.integration.fake_engine import FakeEngine, FakeEngines
from tests.integration.fake_kubelet import FakeKubelet
from tests.integration.operator_process import OperatorProcess
from tests.integration.standin_agent import StandInAgent

RESOURCES = "apis/gemmaspec.io/v1alpha1"
GROUPS = {
    "gemmaspecdeploys": RESOURCES,
    "deployments": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "poddisruptionbudgets": "apis/policy/v1",
    "replicasets": "apis/apps/v1",
}
CHILDREN = ("serviceaccounts", "services", "configmaps", "poddisruptionbudgets", "deployments")
NAME = "tried"
OWNED = "gemmaspec.io/deploy"


LEAST_SECONDS = 60.0
"""What a busy machine is given at least, where nothing is promised."""


class Scene:
    """Helpers about one resource called ``tried`` in a namespace of its own."""

    def __init__(
        self,
        plane: ControlPlane,
        api: Api,
        namespace: str,
        operator: OperatorProcess,
        kubelet: FakeKubelet,
        engines: FakeEngines,
    ) -> None:
        self.plane = plane
        self.namespace = namespace
        self.operator = operator
        self.kubelet = kubelet
        self._engines = engines
        self.api = api
        self.began = plane.audit.mark()

    # --- requests

    def path(self, plural: str, name: str = "") -> str:
        """API path of a collection or of an object in the scene's namespace."""
        found = f"/{GROUPS.get(plural, 'api/v1')}/namespaces/{self.namespace}/{plural}"
        return f"{found}/{name}" if name else found

    def read(self, plural: str, name: str = NAME) -> Any:
        """The object, or None."""
        return self._read(self.path(plural, name))

    def _read(self, path: str) -> Any:
        """The object, or None; a busy machine's API server may take its time."""
        try:
            code, body = self.api.get(path, LEAST_SECONDS)
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(body) if code == 200 else None

    def all(self, plural: str) -> list[dict[str, Any]]:
        """Objects of the collection."""
        return list(self._read(self.path(plural))["items"])

    def owned(self, plural: str, name: str = NAME) -> list[dict[str, Any]]:
        """Objects of the collection that carry the resource's label; others are not even sent."""
        return list(self._read(f"{self.path(plural)}?labelSelector={quote(f'{OWNED}={name}')}")["items"])

    def send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        """A request that must succeed; returns the answer."""
        code, answer = self.api.send(method, path, body, kind, LEAST_SECONDS)
        if code >= 300:
            raise AssertionError(f"{method} {path}: {code}: {answer.decode(errors='replace')}")
        return dict(json.loads(answer))

    def try_send(self, method: str, path: str, body: Any) -> int:
        """HTTP status of a request that may meet a conflict (409), and must succeed otherwise."""
        code, answer = self.api.send(method, path, body, seconds=LEAST_SECONDS)
        if code >= 300 and code != 409:
            raise AssertionError(f"{method} {path}: {code}: {answer.decode(errors='replace')}")
        return code

    def apply_body(self, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
        """Server-side apply as the user; HTTP status and what the API server said."""
        code, answer = self.api.send(
            "PATCH",
            f"{path}?fieldManager=user&force=true&fieldValidation=Strict",
            body,
            "application/apply-patch+yaml",
            LEAST_SECONDS,
        )
        return code, answer.decode(errors="replace")

    def merge(self, plural: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge-patch an object as somebody other than the operator."""
        path = self.path(plural, name) + "?fieldManager=somebody"
        return self.send("PATCH", path, patch, "application/merge-patch+json")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """kubectl in the scene's namespace."""
        return self.plane.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    # --- the resource

    def spec(self, **over: Any) -> dict[str, Any]:
        """A spec that fake engines can serve, with quick control; ``over`` replaces top-level fields."""
        spec: dict[str, Any] = {
            "model": {"target": "/models/target"},
            "engine": {"image": "example.org/vllm:1", "allowTag": True},
            "speculative": speculative(),
            "nodes": {"accelerator": "CPU"},
            "service": {"port": self._engines.port},
            "rollout": rollout(),
        }
        return {key: value for key, value in (spec | over).items() if value is not None}

    def apply(self, name: str = NAME, **over: Any) -> float:
        """Apply the resource; returns the monotonic time just before."""
        body = {
            "apiVersion": "gemmaspec.io/v1alpha1",
            "kind": "GemmaSpecDeploy",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": self.spec(**over),
        }
        began = time.monotonic()
        path = self.path("gemmaspecdeploys", name) + "?fieldManager=user&force=true"
        self.send("PATCH", path, body, "application/apply-patch+yaml")
        return began

    def resource(self, name: str = NAME) -> dict[str, Any]:
        """The resource as stored."""
        found = self.read("gemmaspecdeploys", name)
        assert found is not None, f"no resource {name}"
        return dict(found)

    def status(self) -> dict[str, Any]:
        """Its status."""
        return dict(self.resource().get("status", {}))

    def condition(self, kind: str) -> dict[str, Any]:
        """One condition; empty when there is none."""
        found = [entry for entry in self.status().get("conditions", ()) if entry["type"] == kind]
        return dict(found[0]) if found else {}

    def is_condition(self, kind: str, status: str, reason: str | None = None) -> bool:
        """Whether the condition stands so, for the newest generation."""
        found = self.condition(kind)
        return found.get("status") == status and (reason is None or found.get("reason") == reason)

    # --- waiting

    def until(self, probe: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
        """Wait for something; what the scene knows is told when it does not come.

        seconds: what it takes at most on a machine that is not overloaded. Nothing is promised by it (what is, is
        measured), so that a slow machine gets more.
        """
        return wait_for(probe, what, max(seconds, LEAST_SECONDS), every=0.1, fail=self.story)

    def never(self, probe: Callable[[], Any], what: str, seconds: float) -> None:
        """Look for so long that something does not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not probe(), f"{what}\n{self.story()}"
            time.sleep(0.1)

    def converged(self, name: str = NAME) -> bool:
        """Whether what runs is what the newest spec asks for, and the status says so."""
        return has_converged(self.resource(name))

    def wait_converged(self, seconds: float = 20.0) -> dict[str, Any]:
        """Wait until nothing is left to do; returns the status."""
        self.until(self.converged, "convergence", seconds)
        return self.status()

    def quiet(self, seconds: float = 1.5, longest: float = 15.0) -> None:
        """Wait until the operator has written nothing for a while."""
        end = time.monotonic() + longest
        while time.monotonic() < end:
            mark = self.plane.audit.mark()
            try:
                wait_for(lambda: self.writes(mark), "a write", seconds, every=0.2)  # noqa: B023 (used within the turn)
            except TimeoutError:
                return
        raise AssertionError(f"the operator goes on writing:\n{self.story()}")

    # --- what happened

    def writes(self, mark: int) -> list[AuditEvent]:
        """Changes that the operator asked for after the mark."""
        return self.plane.audit.mutations(mark, user=self.operator.user, namespace=self.namespace)

    def deployments(self) -> dict[str, int]:
        """Replica counts of the resource's Deployments, by name."""
        return {entry["metadata"]["name"]: entry["spec"]["replicas"] for entry in self.all("deployments")}

    def current(self) -> str:
        """Name of the current revision's Deployment."""
        return f"{NAME}-{self.status()['revision']}"

    def engines(self) -> list[FakeEngine]:
        """The fake engines of the pods that run."""
        return [self._engines.at(address) for address in self.kubelet.engine_addresses()]

    def agents(self) -> list[StandInAgent]:
        """The stand-ins for the agents of the pods that run."""
        known = self._engines.agents
        return [known[address] for address in self.kubelet.engine_addresses() if address in known]

    def children(self, name: str = NAME) -> dict[tuple[str, str], dict[str, Any]]:
        """All that the resource owns, by plural and name."""
        return {(plural, entry["metadata"]["name"]): entry for plural in CHILDREN for entry in self.owned(plural, name)}

    def events(self, reason: str) -> list[dict[str, Any]]:
        """Kubernetes events about the resource with this reason."""
        return [
            event
            for event in self.all("events")
            if event["reason"] == reason and event["involvedObject"]["kind"] == "GemmaSpecDeploy"
        ]

    def clear(self) -> None:
        """Delete the resources, and wait a moment for their pods to go."""
        self.api.send("DELETE", self.path("gemmaspecdeploys"), seconds=LEAST_SECONDS)
        self.kubelet.termination_seconds = 0.0
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not self.all("pods"), "the end of the pods", 5)

    def story(self) -> str:
        """Status and the operator's last lines, for failures."""
        found = self.read("gemmaspecdeploys") or {}
        status = json.dumps(found.get("status", {}), indent=1)
        return f"status: {status}\ndeployments: {self.deployments()}\noperator:\n{self.operator.log()}"


def has_converged(resource: Mapping[str, Any]) -> bool:
    """Whether a resource says that what runs is what its newest spec asks for."""
    status = resource.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", ())}
    return bool(
        status.get("observedGeneration") == resource["metadata"]["generation"]
        and conditions["Ready"]["status"] == "True"
        and conditions["Reconciling"]["status"] == "False"
        and conditions["Stalled"]["status"] == "False"
    )


def rollout(analysis: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """``spec.rollout`` that takes a new revision as soon as it serves, and keeps nothing of earlier ones."""
    quick = {"initialDelaySeconds": 0, "timeoutSeconds": 0, "minDrafts": 50, "onInconclusive": "Promote"}
    asked = {"drainSeconds": 0, "maxRestarts": 3, "revisionHistoryLimit": 0, "analysis": quick | dict(analysis or {})}
    return asked | fields


def speculative(k: int = 4, **control: Any) -> dict[str, Any]:
    """``spec.speculative`` with control that decides within seconds."""
    quick = {"windowSeconds": 8, "minDrafts": 50, "minDwellSeconds": 1, "recovery": {"holdSeconds": 600}}
    return {"method": "mtp", "drafter": {"model": "/models/drafter"}, "k": k, "control": quick | control}
