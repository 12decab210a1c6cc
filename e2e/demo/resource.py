"""One GemmaSpecDeploy on a cluster, with the pods and events that belong to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gemmaspec.api import identity
from gemmaspec.core import names
from testbed.deadline import wait_for
from testbed.kubectl import Kubectl

PLURAL = f"{identity.PLURAL}.{identity.GROUP}"
# The garbage collector looks for new kinds every 30 s, and comes back with back-off to an owner whose kind it doesn't
# know yet: right after the CRD was installed, a deletion may take a few of those rounds.
GONE_SECONDS = 180.0
_EVERY = 0.25  # seconds between two looks of a wait


class Gone(RuntimeError):
    """The resource is not there (any more)."""


def manifest(file: Path, **changes: Any) -> dict[str, Any]:
    """The resource in a YAML file; `changes` are merged over its spec, and `name` replaces its name."""
    body: dict[str, Any] = yaml.safe_load(file.read_text())
    if "name" in changes:
        body["metadata"]["name"] = changes.pop("name")
    body["spec"] = merged(body["spec"], changes)
    return body


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`; maps are merged, anything else is replaced."""
    result = dict(base)
    for key, value in top.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below or {}, value) if both else value
    return result


class Resource:
    """What kubectl tells and does about one resource."""

    def __init__(self, kubectl: Kubectl, name: str, namespace: str = "default") -> None:
        self.name = name
        self.namespace = namespace
        self._kubectl = kubectl

    def kubectl(self, *arguments: str, **more: Any) -> str:
        """kubectl in the resource's namespace."""
        return self._kubectl("-n", self.namespace, *arguments, **more)

    def json(self, *arguments: str) -> Any:
        """The answer of kubectl in the resource's namespace, parsed."""
        return self._kubectl.json("-n", self.namespace, *arguments)

    def apply(self, body: Mapping[str, Any]) -> None:
        """Apply a manifest of this resource."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def ask_for_k(self, k: int | None) -> None:
        """Edit the desired K; None leaves it to the recipe."""
        patch = json.dumps({"spec": {"speculative": {"k": k}}})
        self.kubectl("patch", PLURAL, self.name, "--type=merge", "-p", patch)

    def read(self) -> dict[str, Any]:
        """The stored object. Raises Gone."""
        said = self.kubectl("get", PLURAL, self.name, "--ignore-not-found", "-o", "json")
        if not said.strip():
            raise Gone(f"{self.namespace}/{self.name} is not there")
        found: dict[str, Any] = json.loads(said)
        return found

    def status(self) -> dict[str, Any]:
        """The stored status, empty before the operator's first word."""
        return dict(self.read().get("status", {}))

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the present generation; empty when there is none yet."""
        return condition(self.read(), kind)

    def pods(self) -> list[dict[str, Any]]:
        """The engine pods of every revision, leaving ones included, oldest first."""
        found = self.json("get", "pods", "-l", names.selector_text(self.name))["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def events(self) -> list[dict[str, Any]]:
        """The events about the resource itself, oldest first."""
        about = f"involvedObject.name={self.name},involvedObject.kind={identity.KIND}"
        found = self.json("get", "events", f"--field-selector={about}")["items"]
        return sorted(found, key=lambda event: str(event.get("lastTimestamp")))

    def wait(
        self, probe: Callable[[dict[str, Any]], Any], what: str, seconds: float, every: float = _EVERY
    ) -> dict[str, Any]:
        """The object as soon as `probe(object)` is true. Raises TimeoutError, naming the conditions of then."""
        last: dict[str, Any] = {}

        def look() -> dict[str, Any] | None:
            last.clear()
            last.update(self.read())
            return last if probe(last) else None

        found = wait_for(look, f"{self.name}: {what}", seconds, every, lambda: told(last))
        return dict(found)

    def wait_condition(self, kind: str, status: str, seconds: float, reason: str | None = None) -> dict[str, Any]:
        """The condition once it has that status (and reason) for the present generation."""

        def matches(found: dict[str, Any]) -> bool:
            present = condition(found, kind)
            return present.get("status") == status and reason in (None, present["reason"])

        return condition(self.wait(matches, f"{kind}={status} {reason or ''}".strip(), seconds), kind)

    def wait_settled(self, seconds: float) -> dict[str, Any]:
        """The object once it is Ready and nothing is left to do for the present generation."""
        return self.wait(settled, "Ready and settled", seconds)

    def delete(self, seconds: float = GONE_SECONDS) -> None:
        """Delete the resource, and wait until it and its pods are gone."""
        self.kubectl(
            "delete", PLURAL, self.name, "--ignore-not-found", f"--timeout={seconds:.0f}s", timeout=seconds + 10
        )
        wait_for(lambda: not self.pods(), f"{self.name}: its pods gone", seconds, _EVERY)


def condition(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A condition of an object, if it is about the present generation; else empty."""
    generation = body["metadata"]["generation"]
    for entry in body.get("status", {}).get("conditions", ()):
        if entry["type"] == kind and entry.get("observedGeneration") == generation:
            return dict(entry)
    return {}


def settled(body: Mapping[str, Any]) -> bool:
    """Whether the resource is Ready with nothing left to do."""
    return condition(body, "Ready").get("status") == "True" and condition(body, "Reconciling").get("status") == "False"


def told(body: Mapping[str, Any]) -> str:
    """The conditions in one line, for an error message."""
    entries = body.get("status", {}).get("conditions", ())
    return "; ".join(f"{e['type']}={e['status']} {e['reason']}: {e['message']}" for e in entries) or "no conditions yet"


def pod_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is Ready and not leaving."""
    conditions = {entry["type"]: entry["status"] for entry in pod.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
