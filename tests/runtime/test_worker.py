"""Whole passes on a fake cluster: what is written, in which order, and that dying after any write changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gemmaspec.adapters.cluster import ApiFailure, Cluster, Rejected, Undeclared
from gemmaspec.api import identity
from gemmaspec.core import names
from gemmaspec.core.observation import Sample
from gemmaspec.core.reconcile import Settings
from gemmaspec.recipes import load
from gemmaspec.runtime.queue import WakeQueue
from gemmaspec.runtime.scraper import Scraper
from gemmaspec.runtime.worker import Worker
from tests.simulated.fake_cluster import Crash, FakeCluster, FakeScraper, FakeWatch

KEY = ("ns", "tiny")
FILES = {"gemmaspec_engine/launch.py": "print()\n"}
NEXT = {"namespace": "ns", "name": "tiny", "uid": "successor"}
CONTROL = {"windowSeconds": 60, "minDrafts": 100, "minDwellSeconds": 10, "recovery": {"holdSeconds": 600}}
# An idle engine is taken as soon as it serves, and nothing of earlier revisions is kept.
QUICK = {"initialDelaySeconds": 0, "timeoutSeconds": 0, "onInconclusive": "Promote"}
ROLLOUT = {"revisionHistoryLimit": 0, "analysis": QUICK}
SPEC: dict[str, Any] = {
    "recipe": "tiny-cpu",
    "replicas": 1,
    "speculative": {"control": CONTROL},
    "rollout": ROLLOUT,
}


class Operator:
    """One life of the operator: its cache and its worker end with it."""

    def __init__(self, cluster: FakeCluster, scraper: FakeScraper | None = None) -> None:
        self.cluster = cluster
        self.watch: FakeWatch = cluster.cache()
        self.queue = WakeQueue()
        self.worker = Worker(
            self.queue,
            self.watch,
            cast("Cluster", cluster),
            cast("Scraper", scraper or FakeScraper()),
            Settings(load(), FILES),
            clock=lambda: cluster.now,
        )

    async def once(self) -> bool:
        """One pass; False where it failed, and the queue would try again."""
        try:
            await self.worker.once(KEY)
        except ApiFailure:
            self.watch.deliver()
            return False
        return True

    async def settle(self) -> None:
        """Passes, watches and controllers in turn, until nothing happens any more."""
        for _ in range(60):
            before = len(self.cluster.writes)
            done = await self.once()
            self.watch.deliver()
            worked = self.cluster.work()
            self.watch.deliver()
            if done and len(self.cluster.writes) == before and not worked:
                self.queue.forget(KEY)
                return
        raise AssertionError(f"does not settle: {self.cluster.writes[-8:]}")


def started(spec: Mapping[str, Any] = SPEC) -> FakeCluster:
    cluster = FakeCluster()
    metadata = {"namespace": "ns", "name": "tiny", "uid": "owner"}
    body = {"apiVersion": identity.API_VERSION, "kind": identity.KIND, "metadata": metadata}
    cluster.put({**body, "spec": copy.deepcopy(dict(spec))})
    return cluster


def state(cluster: FakeCluster) -> dict[str, Any]:
    """What the cluster holds, less what differs between two equal runs."""
    found: dict[str, Any] = {}
    for (kind, _, name), body in sorted(cluster.objects.items()):
        kept = copy.deepcopy(body)
        for field in ("uid", "resourceVersion", "generation", "creationTimestamp"):
            kept["metadata"].pop(field, None)
        if kind == "Pod":
            found.setdefault("pods", []).append([kept["metadata"]["labels"], kept["status"]])
        else:
            for entry in kept.get("status", {}).get("k", {}).get("replicas", ()):
                del entry["pod"]  # pods that come again have other names
            found[f"{kind}/{name}"] = kept
    return found


def condition(cluster: FakeCluster, kind: str) -> tuple[str, str]:
    entry = next(entry for entry in cluster.resource()["status"]["conditions"] if entry["type"] == kind)
    return entry["status"], entry["reason"]


async def test_from_nothing_to_serving() -> None:
    cluster = started()
    operator = Operator(cluster)
    await operator.once()
    assert [write[:2] for write in cluster.writes] == [
        ("create", "ServiceAccount"),
        ("create", "Service"),
        ("create", "PodDisruptionBudget"),
        ("create", "ConfigMap"),
        ("create", "Deployment"),
        ("status", identity.KIND),
    ]
    await operator.settle()
    assert condition(cluster, "Ready") == ("True", "Serving")
    assert condition(cluster, "Reconciling") == ("False", "Settled")
    assert cluster.resource()["status"]["readyReplicas"] == 1


async def test_a_settled_resource_gets_no_writes() -> None:
    cluster = started()
    await Operator(cluster).settle()
    before = len(cluster.writes)
    for _ in range(5):
        operator = Operator(cluster)  # each with an empty cache
        await operator.once()
        await operator.once()
    assert len(cluster.writes) == before


async def test_a_watch_that_lags_causes_no_second_write() -> None:
    cluster = started()
    operator = Operator(cluster)
    for _ in range(5):
        await operator.once()  # nothing is delivered in between
    assert len(cluster.writes) == 6


async def with_crash(cluster: FakeCluster, after: int, scraper: FakeScraper | None = None) -> bool:
    """Let the operator die after ``after`` more writes, and another one finish. False when it had finished before."""
    cluster.crash_after = len(cluster.writes) + after
    died = False
    try:
        await Operator(cluster, scraper).settle()
    except Crash:
        died = True
    cluster.crash_after = None
    await Operator(cluster, scraper).settle()
    return died


async def test_dying_after_any_write_of_a_creation() -> None:
    whole = started()
    await Operator(whole).settle()
    for after in range(1, len(whole.writes) + 1):
        cluster = started()
        assert await with_crash(cluster, after), after
        assert state(cluster) == state(whole), f"died after write {after}"


async def test_dying_after_any_write_of_a_new_spec() -> None:
    changed = {**SPEC, "replicas": 2, "model": {"maxModelLen": 512}}

    async def serving() -> FakeCluster:
        cluster = started({**SPEC, "replicas": 2})
        await Operator(cluster).settle()
        cluster.edit(identity.KIND, "tiny", spec=changed)
        return cluster

    whole = await serving()
    begun = len(whole.writes)
    await Operator(whole).settle()
    assert len(whole.of_kind("Deployment")) == 1
    for after in range(1, len(whole.writes) - begun + 1):
        cluster = await serving()
        assert await with_crash(cluster, after), after
        assert state(cluster) == state(whole), f"died after write {after}"


def samples(now: float, accepted: float) -> list[Sample]:
    """A minute of scrapes in which position 0 accepts that share; before it, acceptance was proved."""
    series = []
    for i in range(13):
        drafts = 1000.0 + 100 * i
        first = 900.0 + accepted * 100 * i
        positions = (first, 700.0 + accepted**2 * 100 * i, 600.0, 500.0)
        series.append(
            Sample(
                time=now - 60 + 5 * i,
                drafts=drafts,
                draft_tokens=4 * drafts,
                accepted_tokens=sum(positions),
                accepted_per_position=positions,
                generation_tokens=drafts + sum(positions),
                requests_finished=20.0 + 2 * i,
                step_seconds_sum=drafts * 0.017,
                step_seconds_count=drafts,
                running=2.0,
            )
        )
    return series


async def bad_traffic() -> tuple[FakeCluster, FakeScraper]:
    """A serving resource whose drafts have stopped to pay."""
    cluster, scraper = started(), FakeScraper()
    await Operator(cluster, scraper).settle()
    cluster.now += 120
    (pod,) = cluster.of_kind("Pod")
    scraper.series[pod["metadata"]["uid"]] = samples(cluster.now, 0.1)
    return cluster, scraper


async def test_a_decision_is_stored_before_it_is_acted_on() -> None:
    cluster, scraper = await bad_traffic()
    begun = len(cluster.writes)
    await Operator(cluster, scraper).settle()
    assert cluster.resource()["status"]["k"]["effective"] == 0
    assert [write[:2] for write in cluster.writes[begun : begun + 2]] == [("status", identity.KIND), ("event", "Event")]
    assert cluster.writes[begun + 2][1] in ("ConfigMap", "Deployment")
    assert [event["reason"] for event in cluster.events] == ["DraftsDoNotPay"]
    assert cluster.events[0]["type"] == "Warning"
    (deployment,) = cluster.of_kind("Deployment")
    assert deployment["metadata"]["annotations"][names.K_ANNOTATION] == "0"
    assert "--speculative-config" not in str(deployment["spec"])
    history = cluster.resource()["status"]["history"]
    assert [(entry["reason"], entry["fromK"], entry["toK"]) for entry in history] == [("DraftsDoNotPay", 4, 0)]


async def test_dying_after_any_write_of_a_rollback() -> None:
    whole, scraper = await bad_traffic()
    begun = len(whole.writes)
    await Operator(whole, scraper).settle()
    for after in range(1, len(whole.writes) - begun + 1):
        cluster, scraper = await bad_traffic()
        assert await with_crash(cluster, after, scraper), after
        assert state(cluster) == state(whole), f"died after write {after}"


async def test_two_engines_are_replaced_one_after_the_other() -> None:
    cluster = started({**SPEC, "replicas": 2})
    operator = Operator(cluster)
    await operator.settle()
    cluster.edit(identity.KIND, "tiny", spec={**SPEC, "replicas": 2, "model": {"maxModelLen": 512}})
    seen = set()
    for _ in range(30):
        operator.watch.deliver()
        await operator.once()
        cluster.work()
        pods = cluster.of_kind("Pod")
        ready = sum(1 for pod in pods if pod["status"] and "deletionTimestamp" not in pod["metadata"])
        assert len(pods) <= 2
        assert ready >= 1
        seen.add(tuple(sorted(deployment["spec"]["replicas"] for deployment in cluster.of_kind("Deployment"))))
    assert (1, 1) in seen
    assert seen >= {(2,), (1, 1)}


async def test_an_engine_that_never_serves_leaves_the_last_old_one() -> None:
    cluster = started({**SPEC, "replicas": 2})
    operator = Operator(cluster)
    await operator.settle()
    old = cluster.resource()["status"]["revision"]
    cluster.edit(identity.KIND, "tiny", spec={**SPEC, "replicas": 2, "model": {"maxModelLen": 512}})
    operator.watch.deliver()
    await operator.once()
    cluster.broken.add(cluster.resource()["status"]["revision"])
    await operator.settle()
    counts = {body["metadata"]["name"]: body["spec"]["replicas"] for body in cluster.of_kind("Deployment")}
    assert counts[f"tiny-{old}"] == 1
    assert condition(cluster, "Ready")[0] == "False"
    cluster.edit(identity.KIND, "tiny", spec={**SPEC, "replicas": 2})
    await Operator(cluster).settle()
    assert [body["spec"]["replicas"] for body in cluster.of_kind("Deployment")] == [2]
    assert cluster.resource()["status"]["revision"] == old


@pytest.mark.parametrize("kind", ["ServiceAccount", "Service", "ConfigMap", "PodDisruptionBudget", "Deployment"])
async def test_a_deleted_child_comes_back(kind: str) -> None:
    cluster = started()
    await Operator(cluster).settle()
    before = state(cluster)
    (child,) = cluster.of_kind(kind)
    cluster.remove(kind, "ns", child["metadata"]["name"])
    await Operator(cluster).settle()
    assert state(cluster) == before


async def test_an_edited_child_is_repaired() -> None:
    cluster = started()
    await Operator(cluster).settle()
    before = state(cluster)
    for kind in ("Service", "PodDisruptionBudget", "Deployment"):
        (child,) = cluster.of_kind(kind)
        spec = copy.deepcopy(child["spec"])
        spec |= {"ports": [], "maxUnavailable": 0, "replicas": 3} if kind != "Service" else {"type": "NodePort"}
        cluster.edit(kind, child["metadata"]["name"], spec=spec)
    await Operator(cluster).settle()
    after = state(cluster)
    for found in (before, after):
        for name in list(found):
            if name.startswith(("Deployment", "PodDisruption")):
                found[name]["spec"].pop("ports", None)
                found[name]["spec"].pop("maxUnavailable" if name.startswith("Deployment") else "replicas", None)
    assert after == before


async def test_an_object_of_somebody_else_is_left_alone_and_named() -> None:
    cluster = started()
    foreign = {"kind": "Service", "metadata": {"namespace": "ns", "name": "tiny"}, "spec": {"mine": True}}
    cluster.put(foreign)
    operator = Operator(cluster)
    await operator.settle()
    assert condition(cluster, "Stalled") == ("True", "NameTaken")
    (service,) = cluster.of_kind("Service")
    assert service["spec"] == {"mine": True}
    message = next(c["message"] for c in cluster.resource()["status"]["conditions"] if c["type"] == "Stalled")
    assert message.startswith("Service tiny exists and belongs to no controller; it is left alone")
    assert ("apply", "Service", "tiny") not in cluster.writes
    again = Operator(cluster)
    before = len(cluster.writes)
    await again.settle()
    assert len(cluster.writes) == before, "a new operator finds out without a write"
    cluster.remove("Service", "ns", "tiny")
    await again.settle()
    assert condition(cluster, "Stalled")[0] == "False"
    assert condition(cluster, "Ready") == ("True", "Serving")


async def test_a_definition_older_than_the_operator_is_told_once_and_recovers() -> None:
    cluster = started()
    cluster.undeclared.add("k")
    operator = Operator(cluster)
    with pytest.raises(Undeclared):
        await operator.worker.once(KEY)
    assert condition(cluster, "Stalled") == ("True", "DefinitionOutdated")
    assert condition(cluster, "Ready") == ("Unknown", "DefinitionOutdated")
    message = next(c["message"] for c in cluster.resource()["status"]["conditions"] if c["type"] == "Stalled")
    assert ".status.k: field not declared in schema" in message
    assert "kubectl apply --server-side" in message
    operator.watch.deliver()
    before = len(cluster.writes)
    with pytest.raises(Undeclared):
        await operator.worker.once(KEY)
    assert len(cluster.writes) == before, "the condition is written once"
    cluster.undeclared.clear()
    await operator.settle()
    assert condition(cluster, "Stalled")[0] == "False"
    assert condition(cluster, "Ready") == ("True", "Serving")


async def test_a_serving_engine_stays_ready_under_an_older_definition() -> None:
    cluster = started()
    await Operator(cluster).settle()
    cluster.undeclared.add("k")
    del cluster.resource()["status"]["k"]  # an API server prunes what its definition lacks
    revision = cluster.resource()["status"]["revision"]
    cluster.edit(identity.KIND, "tiny", spec={**SPEC, "replicas": 2})
    with pytest.raises(Undeclared):
        await Operator(cluster).worker.once(KEY)
    status = cluster.resource()["status"]
    assert condition(cluster, "Ready") == ("True", "Serving")
    assert condition(cluster, "Stalled") == ("True", "DefinitionOutdated")
    assert status["revision"] == revision, "what the older release stored is not lost"


async def test_an_object_that_the_api_server_refuses_stalls_and_recovers() -> None:
    cluster = started()
    cluster.rejects.add("Deployment")
    operator = Operator(cluster)
    with pytest.raises(Rejected):
        await operator.worker.once(KEY)
    assert condition(cluster, "Stalled") == ("True", "ApiRejected")
    operator.watch.deliver()
    before = len(cluster.writes)
    with pytest.raises(Rejected):
        await operator.worker.once(KEY)
    assert len(cluster.writes) == before, "the status is written once"
    cluster.rejects.clear()
    await operator.settle()
    assert condition(cluster, "Ready") == ("True", "Serving")


async def test_a_bad_edit_leaves_what_runs_alone() -> None:
    cluster = started()
    await Operator(cluster).settle()
    before = [body["spec"] for body in cluster.of_kind("Deployment")]
    cluster.edit(identity.KIND, "tiny", spec={"recipe": "none-such"})
    await Operator(cluster).settle()
    assert condition(cluster, "Stalled") == ("True", "UnknownRecipe")
    assert condition(cluster, "Ready") == ("True", "ServingEarlierSpec")
    assert [body["spec"] for body in cluster.of_kind("Deployment")] == before
    cluster.edit(identity.KIND, "tiny", spec=SPEC)
    await Operator(cluster).settle()
    assert condition(cluster, "Stalled")[0] == "False"
    assert condition(cluster, "Ready") == ("True", "Serving")


async def test_scaling_to_zero_and_back() -> None:
    cluster = started()
    await Operator(cluster).settle()
    before = state(cluster)
    cluster.edit(identity.KIND, "tiny", spec={**SPEC, "replicas": 0})
    await Operator(cluster).settle()
    assert cluster.of_kind("Pod") == []
    assert condition(cluster, "Ready") == ("True", "ScaledToZero")
    cluster.edit(identity.KIND, "tiny", spec=SPEC)
    await Operator(cluster).settle()
    after = state(cluster)
    for found in (before, after):
        for entry in found[f"{identity.KIND}/tiny"]["status"]["conditions"]:
            entry.pop("observedGeneration")
        found[f"{identity.KIND}/tiny"]["status"].pop("observedGeneration")
    assert after == before


async def test_a_resource_that_is_gone_is_forgotten() -> None:
    cluster = started()
    operator = Operator(cluster)
    await operator.settle()
    cluster.remove(identity.KIND, "ns", "tiny")
    operator.watch.deliver()
    before = len(cluster.writes)
    await operator.once()
    assert len(cluster.writes) == before
    assert operator.queue._timers == {}


@pytest.mark.parametrize("kind", ["Service", "Deployment"])
async def test_a_deletion_that_the_watch_lost(kind: str) -> None:
    """A watch that was cut off shows what is gone, beside its successor: kopf tells of no deletion on a new list."""
    cluster = started()
    operator = Operator(cluster)
    await operator.settle()
    (child,) = cluster.of_kind(kind)
    cluster.remove(kind, "ns", child["metadata"]["name"])
    operator.watch.lost.append(child)
    cluster.edit(identity.KIND, "tiny", spec={**SPEC, "service": {"type": "NodePort"}, "replicas": 2})
    operator.watch.deliver()
    await operator.settle()
    assert [body["spec"]["type"] for body in cluster.of_kind("Service")] == ["NodePort"]
    assert [body["spec"]["replicas"] for body in cluster.of_kind("Deployment")] == [2]
    assert len(cluster.of_kind("Pod")) == 2
    assert condition(cluster, "Ready") == ("True", "Serving")


async def test_a_resource_whose_deletion_the_watch_lost_gets_no_children() -> None:
    cluster = started()
    operator = Operator(cluster)
    await operator.settle()
    gone = cluster.resource()
    cluster.remove(identity.KIND, "ns", "tiny")
    operator.watch.lost.append(gone)
    operator.watch.deliver()
    for _ in range(5):
        await operator.once()
    assert cluster.objects == {}
    cluster.put({key: gone[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": NEXT})
    operator.watch.deliver()
    await operator.settle()
    assert condition(cluster, "Ready") == ("True", "Serving")


async def test_a_resource_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    cluster = started()
    cluster.resource()["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    operator = Operator(cluster)
    await operator.once()
    assert cluster.writes == []


async def test_children_of_a_predecessor_are_waited_for() -> None:
    cluster = started()
    reference = {"kind": identity.KIND, "name": "tiny", "uid": "predecessor", "controller": True}
    metadata = {"namespace": "ns", "name": "tiny", "ownerReferences": [reference]}
    cluster.put({"kind": "Service", "metadata": metadata, "spec": {}})
    operator = Operator(cluster)
    with pytest.raises(ApiFailure) as waiting:
        await operator.worker.once(KEY)
    assert waiting.value.retry_after is not None
    cluster.remove("Service", "ns", "tiny")
    await operator.settle()
    assert condition(cluster, "Ready") == ("True", "Serving")


async def test_a_queued_key_is_worked_off_and_a_bug_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = started()
    operator = Operator(cluster)

    async def bug(key: tuple[str, str]) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(operator.worker, "once", bug)
    operator.queue.wake(KEY)
    await operator.queue.take()
    await operator.worker._guarded(KEY)
    assert operator.queue._timers[KEY].when() > 0
    operator.queue.forget(KEY)
