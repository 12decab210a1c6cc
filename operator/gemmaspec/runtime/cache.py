"""What the watches have told, small enough for thousands of resources, and corrected by our own writes.

A watch lags behind what was just written. A pass that planned on the older object would create what exists, or
judge on a status that it has already replaced: answers to our own writes stand in until the watch catches up.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from gemmaspec.api import identity
from gemmaspec.core import drift, moment, names
from gemmaspec.core.observation import Child, Pod, Resource, pod_from
from gemmaspec.core.plan import Owner

# A watch that has not caught up after this long has lost the object: believe the watch again.
OVERLAY_SECONDS: Final = 30.0
# So many uids of objects whose end no watch has told are remembered.
MOST_GONE: Final = 4096


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it is kept: identity in the open, the rest packed."""

    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    owner_name: str
    owner_uid: str | None
    unplanned: tuple[tuple[str, ...], ...]
    packed: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The object, less what no decision reads."""
        return dict(orjson.loads(zlib.decompress(self.packed)))

    @property
    def order(self) -> int:
        """Resource version as a number: comparable for one object (KEP-5504; always so with etcd)."""
        return int(self.resource_version) if self.resource_version.isdigit() else 0

    def child(self) -> Child:
        """The object as decisions see it."""
        return Child(
            kind=self.kind,
            name=self.name,
            uid=self.uid,
            resource_version=self.resource_version,
            owner_uid=self.owner_uid,
            body=self.body,
            unplanned=self.unplanned,
        )


def store(kind: str, body: Mapping[str, Any]) -> Stored:
    """Pack an object of the API."""
    return _stored(kind, body["metadata"], _unplanned(kind, body), _packed(kind, body))


def gist(kept: Stored | Pod) -> int:
    """Equal where nothing that is kept of an object has changed, the resource version apart."""
    return hash(kept) if isinstance(kept, Pod) else hash((kept.packed, kept.unplanned))


_COUNTED: Final = "deployment.kubernetes.io/revision"


def _stored(kind: str, metadata: Mapping[str, Any], unplanned: tuple[tuple[str, ...], ...], packed: bytes) -> Stored:
    body = {"metadata": metadata}
    owner = controller_of(body)
    return Stored(
        kind=kind,
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=str(metadata.get("resourceVersion", "")),
        owner_name=sys.intern(owner_of(body)),
        owner_uid=sys.intern(owner["uid"]) if owner else None,
        unplanned=unplanned,
        packed=packed,
    )


def _packed(kind: str, body: Mapping[str, Any]) -> bytes:
    return zlib.compress(orjson.dumps(_trimmed(kind, body)), 1)


def _unplanned(kind: str, body: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return () if kind == identity.KIND else drift.unplanned_paths(body["metadata"].get("managedFields", ()))


def owner_of(body: Mapping[str, Any]) -> str:
    """Name of the resource that the object belongs to: by its controller, whose name outlives an edited label."""
    controller = controller_of(body)
    if controller is not None and controller["kind"] == identity.KIND:
        return str(controller["name"])
    return str(body["metadata"].get("labels", {}).get(names.OWNER_LABEL, ""))


def controller_of(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The controlling owner reference, or None."""
    for reference in body["metadata"].get("ownerReferences", ()):
        if reference.get("controller"):
            return dict(reference)
    return None


def _trimmed(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    # A Deployment's own controller counts revisions of its own: nothing that anybody here reads.
    metadata = {
        key: value for key, value in body["metadata"].items() if key not in ("managedFields", "resourceVersion")
    }
    if kind == "Deployment" and _COUNTED in metadata.get("annotations", {}):
        metadata["annotations"] = {key: value for key, value in metadata["annotations"].items() if key != _COUNTED}
    if kind == "ConfigMap":  # only its metadata is watched; answers to our own writes are cut down to that
        return {"metadata": metadata}
    left_out = set() if kind == identity.KIND else {"status"}
    kept = {key: value for key, value in body.items() if key not in left_out}
    if kind == "Deployment":  # of its status only why pods are refused: the rest is the pods' to tell
        conditions = body.get("status", {}).get("conditions", ())
        kept["status"] = {"conditions": [entry for entry in conditions if entry["type"] == "ReplicaFailure"]}
    return {**kept, "metadata": metadata}


class Cache:
    """Indices of the watches below answers to our own writes.

    lose: is called with the uid of an object whose end no watch has told: the indices need not keep it.
    """

    def __init__(
        self,
        resources: Mapping[tuple[str, str], Iterable[Stored]],
        children: Mapping[tuple[str, str], Iterable[Stored]],
        pods: Mapping[tuple[str, str], Iterable[Pod]],
        clock: Callable[[], float] = time.monotonic,
        lose: Callable[[str], object] = bool,
    ) -> None:
        self._lose = lose
        self._resources = resources
        self._children = children
        self._pods = pods
        self._clock = clock
        self._written: dict[tuple[str, str, str], tuple[float, Stored]] = {}
        self._owned: dict[tuple[str, str], set[tuple[str, str, str]]] = {}  # keys of `_written` by owner
        self._deleted: dict[str, float] = {}
        self._settled: dict[str, str] = {}
        self._gone: dict[str, None] = {}
        self._shown: dict[str, int] = {}

    def resource(self, namespace: str, name: str) -> Resource | None:
        """The custom resource, or None."""
        # A watch that was cut off may show an object that is gone beside its successor of the same name.
        shown = [stored for stored in self._resources.get((namespace, name), ()) if stored.uid not in self._gone]
        stored = max(shown, key=lambda stored: stored.order, default=None)
        if stored is None:
            return None
        stored = self._newer(stored)
        body = stored.body
        return Resource(
            owner=Owner(namespace, name, stored.uid),
            generation=int(body["metadata"].get("generation", 0)),
            deleting="deletionTimestamp" in body["metadata"],
            spec=body.get("spec", {}),
            status=body.get("status", {}),
            annotations=body["metadata"].get("annotations") or {},
        )

    def every(self) -> list[tuple[str, str]]:
        """Keys (namespace, name) of every custom resource."""
        return list(self._resources)

    def children(self, namespace: str, name: str) -> tuple[Child, ...]:
        """Objects that carry the resource's label, our own newest writes included."""
        return tuple(self._child(stored) for stored in self._stored(namespace, name))

    def _stored(self, namespace: str, name: str) -> list[Stored]:
        shown = sorted(self._children.get((namespace, name), ()), key=lambda stored: stored.order)
        found = {(stored.kind, stored.name): stored for stored in shown if stored.uid not in self._gone}
        for key in tuple(self._owned.get((namespace, name), ())):
            since, stored = self._written[key]
            if self._clock() - since > OVERLAY_SECONDS:
                self._unwrite(key)
            else:
                found.setdefault((stored.kind, stored.name), stored)
        newest = [self._newer(stored) for stored in found.values()]
        return [stored for stored in newest if not self._is_deleted(stored.uid)]

    def _child(self, stored: Stored) -> Child:
        child = stored.child()
        return replace(child, unplanned=()) if self._settled.get(stored.uid) == stored.resource_version else child

    def pods(self, namespace: str, name: str) -> tuple[Pod, ...]:
        """Engine pods of the resource."""
        shown = (pod for pod in self._pods.get((namespace, name), ()) if pod.uid not in self._gone)
        return tuple(sorted(shown, key=lambda pod: pod.name))

    def wrote(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Remember the API server's answer to a write of ours. Returns whether it changed anything: the watch's echo is
        nothing new then, and whoever wrote has to ask for the pass that follows.
        """
        stored, now = store(kind, body), self._clock()
        key = (kind, stored.namespace, stored.name)
        self._unwrite(key)
        # An answer that came after the watch had told of the object's end is asked for by nobody.
        while self._written and now - next(iter(self._written.values()))[0] > OVERLAY_SECONDS:
            oldest, (_, lost) = next(iter(self._written.items()))
            self._unwrite(oldest)
            self._shown.pop(lost.uid, None)
        self._written[key] = (now, stored)
        if kind != identity.KIND:
            self._owned.setdefault((stored.namespace, stored.owner_name), set()).add(key)
        return self.seen(stored.uid, gist(stored))

    def deleted(self, uid: str) -> None:
        """Remember that we deleted this object."""
        now = self._clock()
        while self._deleted and now - next(iter(self._deleted.values())) > OVERLAY_SECONDS:
            del self._deleted[next(iter(self._deleted))]
        self._deleted[uid] = now

    def gone(self, uid: str) -> None:
        """The API server says that there is no such object, whatever the watch shows: it lost the deletion."""
        self._gone[uid] = None
        while len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]
        self._shown.pop(uid, None)
        self._settled.pop(uid, None)
        self._lose(uid)

    def seen(self, uid: str, gist: int) -> bool:
        """The watch shows this object (again): a list without it was an old one. Returns whether it tells anything
        new: of the events about a Deployment most are of counts that its pods tell, too.

        gist: of what is kept of it, see :func:`gist`.
        """
        self._gone.pop(uid, None)
        known = self._shown.get(uid)
        self._shown[uid] = gist
        return known != gist

    def listed(self, kind: str, namespace: str, uids: Collection[str], version: str) -> list[tuple[str, str]]:
        """A whole list of a kind has come ("" for every namespace): what it lacks is gone, though no event told.

        An object that is newer than the list stays. Returns the keys of the resources that lost something.
        """
        newest = int(version) if version.isdigit() else 0
        missing: dict[tuple[str, str], list[str]] = {}
        for key, uid, is_newer in self._known_of(kind, newest):
            if uid not in uids and namespace in ("", key[0]) and not is_newer:
                missing.setdefault(key, []).append(uid)
        for uid in [uid for lost in missing.values() for uid in lost]:
            self.gone(uid)
        return list(missing)

    def _known_of(self, kind: str, newest: int) -> Iterator[tuple[tuple[str, str], str, bool]]:
        """Key, uid, and whether it is newer than that version, of each object of a kind that is shown. Of pods no
        version is kept; one that a list is too old for, the watch that begins there tells again.
        """
        if kind == "Pod":
            yield from ((key, pod.uid, False) for key, pods in self._pods.items() for pod in pods)
            return
        for key, shown in (self._resources if kind == identity.KIND else self._children).items():
            yield from ((key, stored.uid, stored.order > newest) for stored in shown if stored.kind == kind)

    def settle(self, uid: str, resource_version: str) -> None:
        """A reset of this very object changed nothing: what others own of it are the values of its defaults."""
        self._settled[uid] = resource_version

    def forget(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """The watch told that the object is gone."""
        self._deleted.pop(uid, None)
        self._gone.pop(uid, None)
        self._shown.pop(uid, None)
        self._settled.pop(uid, None)
        written = self._written.get((kind, namespace, name))
        if written is not None and written[1].uid == uid:
            self._unwrite((kind, namespace, name))

    def _unwrite(self, key: tuple[str, str, str]) -> None:
        _, stored = self._written.pop(key, (0.0, None))
        owned = self._owned.get((stored.namespace, stored.owner_name)) if stored else None
        if stored and owned:
            owned.discard(key)
            if not owned:
                del self._owned[stored.namespace, stored.owner_name]

    def _newer(self, stored: Stored) -> Stored:
        key = (stored.kind, stored.namespace, stored.name)
        written = self._written.get(key)
        if written is None:
            return stored
        since, ours = written
        if ours is stored:
            return stored
        if stored.order >= ours.order or self._clock() - since > OVERLAY_SECONDS:
            self._unwrite(key)
            return stored
        return ours

    def _is_deleted(self, uid: str) -> bool:
        """Whether we deleted it, and the watch may just not have told."""
        return uid in self._deleted and self._clock() - self._deleted[uid] <= OVERLAY_SECONDS


def reduce_pod(body: Mapping[str, Any]) -> Pod:
    """A pod of the API, reduced."""
    return pod_from(body, moment.seconds)
