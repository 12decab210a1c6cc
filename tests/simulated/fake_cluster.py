"""A cluster in memory: an API server, its Deployment controller, its kubelet and its garbage collector, all simple.

It knows optimistic locking, uids, ownership and names. It does not know schemas, defaults or managed fields: those are
tested against a real API server (tests/integration).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from gemmaspec.adapters.cluster import Missing, Rejected, Stale, Taken, Undeclared
from gemmaspec.api import identity
from gemmaspec.core import moment, names
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.core.warmup import WarmUp
from gemmaspec.runtime.cache import Cache, Stored, owner_of, reduce_pod, store

Key = tuple[str, str]


class Crash(BaseException):
    """The operator's process ends here."""


class FakeCluster:
    """What the operator talks to. ``writes`` lists (verb, kind, name) of every write that was taken."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.events: list[dict[str, Any]] = []
        self.crash_after: int | None = None
        self.rejects: set[str] = set()
        self.undeclared: set[str] = set()  # fields of the status that the definition lacks
        self.broken: set[str] = set()  # revisions whose pods never become ready
        self._version = 100
        self._born = 0

    # -- the API server -------------------------------------------------------------------------------------------

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        kind, metadata = body["kind"], body["metadata"]
        if kind in self.rejects:
            raise Rejected(422, f"{kind} is refused")
        if (kind, metadata["namespace"], metadata["name"]) in self.objects:
            raise Taken(409, f"{kind} {metadata['name']} exists")
        return self._wrote("create", self.put(body))

    async def apply(self, body: Mapping[str, Any], uid: str, resource_version: str) -> dict[str, Any]:
        stored = self._locked(body, uid, resource_version)
        return self._wrote("apply", self._change(stored, merged(stored, body)))

    async def patch(
        self, body: Mapping[str, Any], patch: Mapping[str, Any], uid: str, resource_version: str
    ) -> dict[str, Any]:
        raise AssertionError("without managed fields there is nothing to take back")

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        stored = self.objects.get((kind, namespace, name))
        if stored is None:
            return
        if stored["metadata"]["uid"] != uid:
            raise Stale(409, "another uid")
        self.remove(kind, namespace, name)
        self._wrote("delete", stored)

    async def read(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def write_status(self, namespace: str, name: str, uid: str, status: Mapping[str, Any]) -> dict[str, Any]:
        stored = self.objects.get((identity.KIND, namespace, name))
        if stored is None:
            raise Missing(404, "no such resource")
        if stored["metadata"]["uid"] != uid:
            raise Stale(409, "another uid")
        for field in sorted(self.undeclared & set(status)):
            raise Undeclared(500, f".status.{field}: field not declared in schema")
        return self._wrote("status", self._change(stored, {**stored, "status": copy.deepcopy(dict(status))}))

    async def write_event(self, event: Mapping[str, Any]) -> None:
        self.events.append(copy.deepcopy(dict(event)))
        self._wrote("event", {"kind": "Event", "metadata": {"name": event["reason"]}})

    def _wrote(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        self.writes.append((verb, body["kind"], body["metadata"]["name"]))
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            raise Crash
        return copy.deepcopy(body)

    def _locked(self, body: Mapping[str, Any], uid: str, resource_version: str) -> dict[str, Any]:
        metadata = body["metadata"]
        stored = self.objects.get((body["kind"], metadata["namespace"], metadata["name"]))
        if stored is None or stored["metadata"]["uid"] != uid:
            raise Stale(409, "gone, or another")
        if stored["metadata"]["resourceVersion"] != resource_version:
            raise Stale(409, "changed since")
        return stored

    # -- people -----------------------------------------------------------------------------------------------------

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Store a new object."""
        self._born += 1
        stored = copy.deepcopy(dict(body))
        stored["metadata"] |= {"uid": stored["metadata"].get("uid", f"uid-{self._born}"), "generation": 1}
        self.objects[stored["kind"], stored["metadata"]["namespace"], stored["metadata"]["name"]] = stored
        return self._change(stored, stored)

    def edit(self, kind: str, name: str, **changes: Any) -> None:
        """Change top-level fields of an object, as a user would."""
        stored = self.objects[kind, "ns", name]
        stored["metadata"]["generation"] += 1
        self._change(stored, {**stored, **changes})

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, and what it owns."""
        gone = self.objects.pop((kind, namespace, name))
        for key, body in list(self.objects.items()):
            owners = [reference["uid"] for reference in body["metadata"].get("ownerReferences", ())]
            if gone["metadata"]["uid"] in owners and key in self.objects:
                self.remove(*key)

    def _change(self, stored: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.objects[stored["kind"], stored["metadata"]["namespace"], stored["metadata"]["name"]] = body
        return body

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Objects of a kind, by name."""
        return [body for key, body in sorted(self.objects.items()) if key[0] == kind]

    def resource(self) -> dict[str, Any]:
        """The one custom resource."""
        (body,) = self.of_kind(identity.KIND)
        return body

    # -- controllers ------------------------------------------------------------------------------------------------

    def work(self) -> bool:
        """One step of Deployment controller and kubelet; False when there was nothing to do."""
        before = self._version
        for pod in self.of_kind("Pod"):
            if "deletionTimestamp" in pod["metadata"]:
                self.remove("Pod", "ns", pod["metadata"]["name"])
                self._version += 1
                return True
        for deployment in self.of_kind("Deployment"):
            self._replicate(deployment)
        for pod in self.of_kind("Pod"):
            if not pod["status"] and pod["metadata"]["labels"][names.REVISION_LABEL] not in self.broken:
                self._change(pod, {**pod, "status": self._serving()})
        return self._version != before

    def _replicate(self, deployment: dict[str, Any]) -> None:
        uid = deployment["metadata"]["uid"]
        own = [pod for pod in self.of_kind("Pod") if pod["metadata"]["ownerReferences"][0]["uid"] == uid]
        alive = [pod for pod in own if "deletionTimestamp" not in pod["metadata"]]
        for _ in range(deployment["spec"]["replicas"] - len(alive)):
            self._born += 1
            template = copy.deepcopy(deployment["spec"]["template"])
            metadata = template["metadata"] | {"namespace": "ns", "creationTimestamp": moment.text(self.now)}
            metadata["name"] = f"{deployment['metadata']['name']}-{self._born}"
            metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": True}]
            self.put({"kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {}})
        excess = max(0, len(alive) - deployment["spec"]["replicas"])
        for pod in sorted(alive, key=lambda pod: bool(pod["status"]))[:excess]:
            pod["metadata"]["deletionTimestamp"] = moment.text(self.now)
            self._change(pod, pod)

    def _serving(self) -> dict[str, Any]:
        since = moment.text(self.now)
        return {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
            "containerStatuses": [
                {"name": "engine", "restartCount": 0, "imageID": "x@sha256:abc", "state": {"running": {}}}
            ],
        }

    # -- watches ----------------------------------------------------------------------------------------------------

    def cache(self) -> FakeWatch:
        """What a freshly started operator's watches show."""
        return FakeWatch(self)


class FakeWatch(Cache):
    """The operator's cache over indices that follow the cluster when told to."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._indices: tuple[dict[Key, list[Stored]], dict[Key, list[Stored]], dict[Key, list[Pod]]] = ({}, {}, {})
        self.lost: list[dict[str, Any]] = []  # objects whose deletion this watch never told
        super().__init__(*self._indices, clock=lambda: cluster.now)
        self.deliver()

    def deliver(self) -> None:
        """The watches catch up."""
        for index in self._indices:
            index.clear()
        resources, children, pods = self._indices
        for body in (*self._cluster.objects.values(), *self.lost):
            kind, namespace, name = body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]
            if kind == "Pod":
                pods.setdefault((namespace, body["metadata"]["labels"][names.OWNER_LABEL]), []).append(reduce_pod(body))
            elif kind == identity.KIND:
                resources.setdefault((namespace, name), []).append(store(kind, body))
            elif body["metadata"].get("labels", {}).get(names.MANAGED_BY) == names.FIELD_MANAGER:
                children.setdefault((namespace, owner_of(body)), []).append(store(kind, body))


class FakeScraper:
    """Samples by pod uid, set by the test."""

    def __init__(self) -> None:
        self.series: dict[str, list[Sample]] = {}
        self.warmed: dict[str, WarmUp] = {}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def wishes(self, pods: object) -> tuple[object, ...]:
        return ()

    def reports(self, pods: object) -> dict[str, tuple[object, ...]]:
        return {}

    def samples(self, pods: Sequence[Pod]) -> Mapping[str, Sequence[Sample]]:
        return {pod.uid: tuple(self.series[pod.uid]) for pod in pods if pod.uid in self.series}

    def warmups(self, pods: Sequence[Pod]) -> dict[str, WarmUp]:
        return {pod.uid: self.warmed[pod.uid] for pod in pods if pod.uid in self.warmed}

    def warm(self, key: Key, pod: Pod, body: Mapping[str, Any]) -> None:
        self.asked.append((pod.name, body))

    def silent(self, pods: object) -> frozenset[str]:
        return frozenset()

    def downloads(self, pods: Sequence[Pod]) -> Mapping[str, float]:
        return {}

    def waits(self, pods: Sequence[Pod]) -> Mapping[str, str]:
        return {}


def merged(stored: Any, body: Any) -> Any:
    """Server-side apply in its simplest form: maps merge, everything else is replaced."""
    if isinstance(stored, dict) and isinstance(body, Mapping):
        return {**stored, **{key: merged(stored.get(key), value) for key, value in body.items()}}
    return copy.deepcopy(body)
