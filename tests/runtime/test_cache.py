"""The cache: whichever of the watch and our own answers is newer, and nothing for ever."""

from __future__ import annotations

from typing import Any

from gemmaspec.api import identity
from gemmaspec.runtime.cache import (
    OVERLAY_SECONDS,
    Cache,
    Stored,
    gist,
    store,
)

KEY = ("ns", "one")


class Watch:
    """Indices as kopf keeps them, and a clock."""

    def __init__(self) -> None:
        self.resources: dict[tuple[str, str], list[Stored]] = {}
        self.objects: dict[tuple[str, str], list[Stored]] = {}
        self.now = 0.0
        self.lost: list[str] = []
        self.cache = Cache(self.resources, self.objects, {}, clock=lambda: self.now, lose=self.lost.append)

    def shows(self, *bodies: dict[str, Any]) -> None:
        self.objects[KEY] = [store(body["kind"], body) for body in bodies]

    def versions(self) -> list[str]:
        return sorted(child.resource_version for child in self.cache.children(*KEY))


def child(version: int, name: str = "one", uid: str = "u1", owner: str = "one", **more: Any) -> dict[str, Any]:
    reference = {"kind": identity.KIND, "name": owner, "uid": "owner", "controller": True}
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"kind": "Service", "metadata": metadata | {"ownerReferences": [reference]}, **more}


def test_our_own_write_stands_in_until_the_watch_catches_up() -> None:
    watch = Watch()
    watch.shows(child(5))
    watch.cache.wrote("Service", child(7))
    assert watch.versions() == ["7"]
    watch.shows(child(6))
    assert watch.versions() == ["7"]
    watch.shows(child(7))
    assert watch.versions() == ["7"]
    watch.shows(child(8))
    assert watch.versions() == ["8"]
    watch.shows(child(6))
    assert watch.versions() == ["6"], "the overlay went when the watch had caught up"


def test_versions_are_numbers() -> None:
    watch = Watch()
    watch.shows(child(9))
    watch.cache.wrote("Service", child(10))
    assert watch.versions() == ["10"]


def test_what_we_created_is_there_before_the_watch_tells() -> None:
    watch = Watch()
    watch.cache.wrote("Service", child(5))
    watch.cache.wrote("Service", child(6, name="two", uid="u2"))
    watch.cache.wrote("Service", child(7, name="three", uid="u3", owner="other"))
    assert watch.versions() == ["5", "6"]


def test_a_write_that_the_watch_never_confirms_is_believed_for_a_while_only() -> None:
    watch = Watch()
    watch.shows(child(5))
    watch.cache.wrote("Service", child(7))
    watch.cache.wrote("Service", child(8, name="two", uid="u2"))
    watch.now = OVERLAY_SECONDS - 1
    assert watch.versions() == ["7", "8"]
    watch.now = OVERLAY_SECONDS + 1
    assert watch.versions() == ["5"]


def test_what_we_deleted_is_gone_before_the_watch_tells() -> None:
    watch = Watch()
    watch.shows(child(5))
    watch.cache.deleted("u1")
    assert watch.versions() == []
    watch.now = OVERLAY_SECONDS + 1
    assert watch.versions() == ["5"], "the deletion did not come true"


def test_a_successor_of_the_same_name_is_another_object() -> None:
    watch = Watch()
    watch.shows(child(5))
    watch.cache.deleted("u1")
    watch.shows(child(9, uid="u2"))
    assert watch.versions() == ["9"]


def test_a_deletion_told_by_the_watch_ends_our_write() -> None:
    watch = Watch()
    watch.cache.wrote("Service", child(5))
    watch.cache.forget("Service", "ns", "one", "another uid")
    assert watch.versions() == ["5"]
    watch.cache.forget("Service", "ns", "one", "u1")
    assert watch.versions() == []


def test_nothing_is_kept_for_ever() -> None:
    watch = Watch()
    for number in range(50):
        watch.cache.wrote("Service", child(number, name=f"c{number}", uid=f"u{number}"))
        watch.cache.deleted(f"u{number}")
    watch.now = OVERLAY_SECONDS + 1
    assert watch.versions() == []
    watch.cache.deleted("last")
    assert (watch.cache._written, watch.cache._owned, list(watch.cache._deleted)) == ({}, {}, ["last"])


def test_an_answer_about_what_nobody_asks_for_any_more_goes_in_the_end() -> None:
    """The watch has told that a resource is gone before the answer to the last write of its status came."""
    watch = Watch()
    body = {"kind": identity.KIND, "metadata": {"namespace": "ns", "name": "gone", "uid": "u", "resourceVersion": "5"}}
    watch.cache.wrote(identity.KIND, body)
    watch.now = OVERLAY_SECONDS + 1
    watch.cache.wrote("Service", child(6))
    assert [key[0] for key in watch.cache._written] == ["Service"]


def test_our_status_is_read_back_before_the_watch_tells() -> None:
    watch = Watch()
    body: dict[str, Any] = {"kind": identity.KIND, "spec": {"recipe": "r"}, "status": {}}
    body["metadata"] = {"namespace": "ns", "name": "one", "uid": "u", "resourceVersion": "5", "generation": 2}
    watch.resources[KEY] = [store(identity.KIND, body)]
    newer = {**body, "metadata": {**body["metadata"], "resourceVersion": "6"}, "status": {"replicas": 1}}
    watch.cache.wrote(identity.KIND, newer)
    resource = watch.cache.resource(*KEY)
    assert resource is not None
    assert (resource.status, resource.generation, resource.deleting) == ({"replicas": 1}, 2, False)
    assert watch.cache.children(*KEY) == ()
    edited = {**newer, "metadata": {**body["metadata"], "resourceVersion": "7", "generation": 3}, "spec": {}}
    watch.resources[KEY] = [store(identity.KIND, edited)]
    resource = watch.cache.resource(*KEY)
    assert resource is not None
    assert resource.generation == 3


def test_a_resource_that_nobody_knows() -> None:
    assert Watch().cache.resource(*KEY) is None
    assert Watch().cache.children(*KEY) == ()
    assert Watch().cache.pods(*KEY) == ()


def test_what_no_decision_reads_is_not_kept() -> None:
    body = child(5, data={"k": "v"}, status={"a": 1})
    body["metadata"]["managedFields"] = [{"manager": "x", "fieldsV1": {"f:spec": {"f:type": {}}}}]
    kept = store("Service", body)
    assert "status" not in kept.body
    assert "managedFields" not in kept.body["metadata"]
    assert kept.unplanned == (("f:spec", "f:type"),)
    assert "data" not in store("ConfigMap", {**body, "kind": "ConfigMap", "data": {"launch.py": "print()"}}).body
    assert kept.order == 5
    assert store("Service", child(5)).child().owner_uid == "owner"


def test_a_label_edited_away_loses_no_child() -> None:
    assert store("Service", child(5)).owner_name == "one"
    bare = child(5)
    bare["metadata"] |= {"ownerReferences": [], "labels": {"gemmaspec.io/deploy": "by-label"}}
    assert store("Service", bare).owner_name == "by-label"


def test_what_a_new_list_lacks_is_gone_until_the_watch_shows_it() -> None:
    """A watch that was cut off lists again, and no event tells of what vanished meanwhile."""
    watch = Watch()
    watch.shows(child(5), child(9, name="two", uid="u2"))
    assert watch.cache.listed("Deployment", "", {"u7"}, "20") == []
    assert watch.cache.listed("Service", "elsewhere", {"u7"}, "20") == []
    assert watch.versions() == ["5", "9"]
    assert watch.cache.listed("Service", "ns", {"u7"}, "8") == [KEY], "the second is newer than the list"
    assert (watch.versions(), watch.lost) == (["9"], ["u1"])
    assert watch.cache.seen("u1", 1)
    assert watch.versions() == ["5", "9"]


def test_an_event_that_tells_nothing_new_is_known_as_one() -> None:
    """Of the events about a Deployment most are of counts that its pods tell, too."""
    watch = Watch()

    def shown(version: int, **more: Any) -> bool:
        return watch.cache.seen("u1", gist(store("Deployment", child(version, **more))))

    spec = {"replicas": 1}
    assert shown(5, spec=spec)
    assert not shown(6, spec=spec, status={"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]})
    counted = child(7, spec=spec)
    counted["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    assert watch.cache.seen("u1", gist(store("Deployment", counted))), "there were no annotations"
    assert shown(8, spec={"replicas": 2})
    refused = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "no"}]}
    assert shown(9, spec={"replicas": 2}, status=refused)
    watch.cache.gone("u1")
    assert shown(9, spec={"replicas": 2}, status=refused), "what was taken for gone is news"
