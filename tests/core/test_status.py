"""Conditions for every state a resource can be in, and that a second look at the same state writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from gemmaspec.api.status import GemmaSpecDeployStatus
from gemmaspec.core import moment
from gemmaspec.core.observation import Child, Ended, Foreign, Observation, Pod, Proof, Resource, Sample
from gemmaspec.core.plan import Owner
from gemmaspec.core.reconcile import Apply, Create, Decision, Delete, Settings, reconcile
from gemmaspec.recipes import load
from tests.simulated.serving import FakeEngine, Traffic

NOW = 1_800_000_000.0
SETTINGS = Settings(load(), {"gemmaspec_engine/launch.py": ""})
OWNER = Owner("ns", "tiny", "owner")
SPEC: dict[str, Any] = {"recipe": "tiny-cpu"}


def observed(spec: dict[str, Any], status: dict[str, Any] | None = None, **more: Any) -> Observation:
    return Observation(resource=Resource(OWNER, 3, False, spec, status or {}), now=NOW, **more)


def decide(observation: Observation) -> tuple[Decision, dict[str, Any]]:
    decision = reconcile(observation, SETTINGS)
    assert decision.status is not None
    return decision, dict(decision.status)


def after(observation: Observation, decision: Decision) -> Observation:
    """What is seen once the decision was carried out by an API server that stores things as they are."""
    children = {(child.kind, child.name): child for child in observation.children}
    for action in decision.actions:
        if isinstance(action, Delete):
            del children[action.child.kind, action.child.name]
            continue
        assert isinstance(action, Create | Apply)
        body = dict(action.body)
        key = (body["kind"], body["metadata"]["name"])
        children[key] = Child(*key, f"uid-{key}", "1", body["metadata"]["ownerReferences"][0]["uid"], body)
    resource = replace(observation.resource, status=decision.status or {})
    return replace(observation, resource=resource, children=tuple(children.values()))


def fixpoint(observation: Observation) -> Observation:
    """Passes until one decides nothing new."""
    for _ in range(6):
        decision, _ = decide(observation)
        following = after(observation, decision)
        if following == observation:
            return observation
        observation = following
    raise AssertionError("no fixpoint within six passes")


REVISION = str(decide(observed(SPEC))[1]["revision"])
POD = Pod(
    name="tiny-1",
    uid="p1",
    revision=REVISION,
    k=4,
    ip="10.0.0.1",
    node="n",
    phase="Running",
    ready=True,
    terminating=False,
    running=True,
    restarts=0,
    created_at=NOW - 1000,
    started_at=NOW - 990,
    ready_at=NOW - 900,
    proof=Proof(True, "Proved", "the engine is the one that was pinned", vllm="0.32.0"),
    image_digest="sha256:abc",
)
BOOTING = replace(POD, ready=False, ready_at=None, proof=None)
FAILED = replace(BOOTING, restarts=2, ended=Ended("EngineFailed", "ValueError: no such model", 1))
BROKEN_PIN = Proof(False, "FilesChanged", "launch.py has another hash", "delete the pod", deterministic=True)


def held(**state: Any) -> dict[str, Any]:
    """A status whose machine remembers ``state``."""
    first = decide(observed(SPEC))[1]
    k = {"desired": 4, "effective": state.pop("effective", 4), "reason": state.pop("reason", "as asked for")}
    return first | {"k": k | {"since": moment.text(NOW - 50)}, "control": first["control"] | state}


LOWERED = held(
    effective=0,
    reason="K 4→0: drafts do not pay",
    proved=True,
    changedAt=moment.text(NOW - 50),
    holdUntil=moment.text(NOW + 1750),
    holdSeconds=1800,
)


def judged(phase: str, **fields: Any) -> dict[str, Any]:
    """A status in which this spec's revision has a predecessor ``old`` that was good."""
    first = held(proved=True)
    stored = first["rollout"] | {"phase": phase, "goodPin": "goodpin", "since": moment.text(NOW - 950)} | fields
    return first | {"rollout": stored, "lastGoodRevision": "old"}


RECORD = {
    "metadata": {
        "labels": {"gemmaspec.io/revision": "old"},
        "annotations": {"gemmaspec.io/spec": json.dumps({**SPEC, "model": {"maxModelLen": 256}})},
    },
}
OLD = Child("ConfigMap", "tiny-old", "uid-old", "1", "owner", RECORD)
KNOWN = {"perPosition": [0.8, 0.7, 0.7, 0.7], "tokensPerStep": 2.9, "drafts": 2000}
TRIAL = judged("Analysing", keptK={"desired": 4, "effective": 4}, keptAcceptance=KNOWN)
BACK = judged("RolledBack", reason="AcceptanceWorse", message="revision new is rolled back to old")
BACK["rejectedRevision"] = "new"
RETURNED = str(decide(observed(SPEC, BACK, children=(OLD,)))[1]["revision"])
FAULT = held(effective=0, reason="K 4→0: broken", fault=True, changedAt=moment.text(NOW - 50))
STATES: dict[str, Observation] = {
    "first pass": observed(SPEC),
    "starting": observed(SPEC, pods=(BOOTING,)),
    "serving": observed(SPEC, pods=(POD,)),
    "serving and proved": observed(SPEC, held(proved=True), pods=(POD,)),
    "on trial": observed(SPEC, held(proved=True, trialFrom=0, reason="K 0→4: trying"), pods=(POD,)),
    "mode Fixed": observed({**SPEC, "speculative": {"control": {"mode": "Fixed"}}}, held(proved=True), pods=(POD,)),
    "failing": observed(SPEC, pods=(FAILED,)),
    "parked": observed(SPEC, pods=(replace(FAILED, restarts=4),)),
    "preflight refuses": observed(SPEC, pods=(replace(BOOTING, proof=BROKEN_PIN),)),
    "preflight tries again": observed(
        SPEC, pods=(replace(BOOTING, proof=replace(BROKEN_PIN, reason="DownloadFailed", deterministic=False)),)
    ),
    "no node": observed(SPEC, pods=(replace(BOOTING, running=False, unschedulable="0/1 nodes are available"),)),
    "no secret": observed(
        SPEC, pods=(replace(BOOTING, running=False, waiting=("CreateContainerConfigError", 'secret "x" not found')),)
    ),
    "stalled spec": observed({"recipe": "none-such"}),
    "stalled spec over a serving engine": observed({"recipe": "none-such"}, held(proved=True), pods=(POD,)),
    "foreign": observed(SPEC, foreign=(Foreign("Service", "tiny", "Deployment web"),)),
    "scaled to zero": observed({**SPEC, "replicas": 0}, held(proved=True)),
    "speculation off": observed({**SPEC, "speculative": {"method": "off"}}),
    "K lowered": observed(SPEC, LOWERED),
    "fault": observed(SPEC, FAULT),
    "replacing": observed({**SPEC, "replicas": 2}, pods=(POD, replace(POD, name="old", uid="p0", revision="old"))),
    "terminating": observed(SPEC, pods=(replace(POD, ready=False, terminating=True),)),
    "revision on trial": observed(SPEC, TRIAL, pods=(replace(POD, ready_at=NOW - 100),)),
    "canary": observed(
        {**SPEC, "replicas": 2},
        TRIAL,
        pods=(replace(POD, ready_at=NOW - 100), replace(POD, name="old", uid="p0", revision="old")),
    ),
    "canary starts": observed({**SPEC, "replicas": 2}, TRIAL, pods=(replace(POD, revision="old"), BOOTING)),
    "held": observed(SPEC, TRIAL, pods=(replace(POD, ready_at=NOW - 5000),)),
    "canary held": observed(
        {**SPEC, "replicas": 2},
        TRIAL,
        pods=(replace(POD, ready_at=NOW - 5000), replace(POD, name="old", uid="p0", revision="old")),
    ),
    "going back": observed(SPEC, BACK, children=(OLD,), pods=(replace(POD, terminating=True, ready=False),)),
    "gone back": observed(SPEC, BACK, children=(OLD,), pods=(replace(POD, revision=RETURNED),)),
    "record lost": observed(SPEC, BACK, pods=(POD,)),
    "evicted": observed(SPEC, pods=(replace(FAILED, phase="Failed", name="a"), POD)),
}


def summary(status: dict[str, Any]) -> dict[str, Any]:
    """What a person or a program reads of a status."""
    conditions = {c["type"]: f"{c['status']} {c['reason']}: {c['message']}" for c in status["conditions"]}
    shown = {"replicas": status["replicas"], "readyReplicas": status.get("readyReplicas")}
    return shown | {"k": (status.get("k") or {}).get("effective"), "conditions": conditions}


def test_engines_of_one_revision_must_run_one_image() -> None:
    """A tag that was moved between two pulls; preflight itself can't see it."""
    spec = {**SPEC, "replicas": 2}
    pods = (POD, replace(POD, name="tiny-2", uid="p2"))
    assert condition(spec, pods) == "True Proved: the engine is the one that was pinned"
    said = condition(spec, (pods[0], replace(pods[1], image_digest="sha256:abd")))
    assert said.startswith("False ImageDiffers: engines of this revision run different images (sha256:abc, sha256:abd)")
    assert "spec.engine.image" in said


def test_the_runtimes_other_name_of_a_pinned_image_is_told() -> None:
    pinned = {**SPEC, "engine": {"image": "r/vllm@sha256:" + "a" * 64}}
    revision = str(decide(observed(pinned))[1]["revision"])
    pod = replace(POD, revision=revision, image_digest="sha256:" + "a" * 64)
    assert condition(pinned, (pod,)) == "True Proved: the engine is the one that was pinned"
    said = condition(pinned, (replace(pod, image_digest="sha256:" + "b" * 64),))
    assert said.endswith("; the container runtime names this image sha256:" + "b" * 64)


def condition(spec: dict[str, Any], pods: tuple[Pod, ...]) -> str:
    return str(summary(decide(observed(spec, pods=pods))[1])["conditions"]["Preflight"])


def test_the_memory_sum_is_shown() -> None:
    told = "96.0 GiB = weights 20.0 GiB + drafter 1.0 GiB + KV cache 67.0 GiB + overhead 8.0 GiB"
    proof = Proof(True, "Proved", "", utilization=0.79, memory=told)
    _, status = decide(observed(SPEC, pods=(replace(POD, proof=proof),)))
    assert (status["engine"]["utilization"], status["engine"]["memory"]) == (0.79, told)


def test_conditions_of_every_state(golden: Callable[[str, str], None]) -> None:
    table = {}
    for name, observation in STATES.items():
        found = summary(decide(observation)[1])
        text = yaml.safe_dump(found, sort_keys=False, width=120, allow_unicode=True)
        table[name] = yaml.safe_load(text.replace(decide(observation)[1].get("revision", "none"), "REVISION"))
    golden("conditions.yaml", yaml.safe_dump(table, sort_keys=False, width=120, allow_unicode=True))


@pytest.mark.parametrize("name", STATES)
def test_a_second_pass_decides_nothing(name: str) -> None:
    end = fixpoint(STATES[name])
    decision, status = decide(end)
    assert decision.actions == ()
    assert decision.events == ()
    assert status == end.resource.status
    later = replace(end, now=NOW + 30)
    assert decide(later)[1] == status, "time alone changes no status"


@pytest.mark.parametrize("name", STATES)
def test_the_status_fits_its_schema(name: str) -> None:
    status = decide(STATES[name])[1]
    assert GemmaSpecDeployStatus.model_validate(status).body() == status


KSTATUS = {
    "first pass": "InProgress",
    "starting": "InProgress",
    "serving": "Current",
    "serving and proved": "Current",
    "on trial": "Current",
    "mode Fixed": "Current",
    "failing": "InProgress",
    "parked": "Failed",
    "preflight refuses": "Failed",
    "preflight tries again": "InProgress",
    "no node": "InProgress",
    "no secret": "InProgress",
    "stalled spec": "Failed",
    "stalled spec over a serving engine": "Failed",
    "foreign": "Failed",
    "scaled to zero": "Current",
    "speculation off": "InProgress",
    "K lowered": "InProgress",
    "fault": "InProgress",
    "replacing": "InProgress",
    "terminating": "InProgress",
    "revision on trial": "InProgress",
    "canary": "InProgress",
    "canary starts": "InProgress",
    "held": "Current",
    "canary held": "InProgress",
    "going back": "InProgress",
    "gone back": "Failed",
    "record lost": "Failed",
    "evicted": "Current",
}


@pytest.mark.parametrize("name", STATES)
def test_what_kstatus_reads(name: str) -> None:
    """kstatus: Stalled is Failed, Reconciling or an older observedGeneration is InProgress, Ready False too."""
    status = decide(STATES[name])[1]
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert status["observedGeneration"] == 3
    assert {"Ready", "Reconciling", "Stalled"} <= set(conditions)
    if conditions["Stalled"] == "True":
        assert conditions["Reconciling"] == "False"
        verdict = "Failed"
    elif conditions["Reconciling"] == "True" or conditions["Ready"] != "True":
        verdict = "InProgress"
    else:
        verdict = "Current"
    assert verdict == KSTATUS[name]


@pytest.mark.parametrize("name", STATES)
def test_every_condition_is_whole(name: str) -> None:
    for entry in decide(STATES[name])[1]["conditions"]:
        assert entry["reason"]
        assert entry["message"]
        assert entry["observedGeneration"] == 3
        assert moment.seconds(entry["lastTransitionTime"]) <= NOW


def test_the_time_of_a_transition_is_carried_while_the_status_stands() -> None:
    serving = fixpoint(STATES["serving"])
    times = {c["type"]: c["lastTransitionTime"] for c in serving.resource.status["conditions"]}
    failing = replace(serving, now=NOW + 500, pods=(FAILED,))
    for entry in decide(failing)[1]["conditions"]:
        changed = entry["type"] in ("Ready", "Reconciling", "EngineHealthy", "Preflight")
        assert entry["lastTransitionTime"] == (moment.text(NOW + 500) if changed else times[entry["type"]]), entry


def test_a_bad_edit_keeps_what_is_known() -> None:
    serving = fixpoint(STATES["serving and proved"])
    bad = replace(serving, resource=replace(serving.resource, spec={"recipe": "none-such"}, generation=4))
    decision, status = decide(bad)
    assert decision.actions == ()
    for field in ("k", "control", "revision", "endpoint", "target"):
        assert status[field] == serving.resource.status[field]
    assert status["observedGeneration"] == 4


def test_history_keeps_the_last_twenty() -> None:
    entry = {"time": moment.text(NOW), "reason": "R", "message": "m", "fromK": 4, "toK": 0}
    old = FAULT | {"history": [entry | {"reason": f"R{i}"} for i in range(25)]}
    kept = decide(observed(SPEC, old))[1]["history"]
    assert [found["reason"] for found in kept] == [f"R{i}" for i in range(5, 25)]


def traffic(seconds: int, noise: float, seed: int) -> list[Sample]:
    """Scrapes of steady traffic whose speed varies by ``noise``, five seconds apart, up to NOW + seconds."""
    rng = np.random.default_rng(seed)
    engine, samples = FakeEngine(4, "p1", NOW), []
    for i in range(seconds // 5):
        step_ms = 40.0 * float(rng.uniform(1 - noise, 1 + noise))
        engine.serve(5.0, Traffic((0.95, 0.97, 0.94, 0.94), streams=2, drafts=150), step_ms, rng)
        samples.append(engine.sample(NOW + 5.0 * i))
    return samples


@pytest.mark.parametrize("noise_seed", range(5))
def test_steady_traffic_writes_no_status(noise_seed: int) -> None:
    """Ten minutes with 10 % of noise, after the first two in which the figures appear and settle."""
    samples = traffic(720, 0.1, noise_seed)
    writes, observation = [], STATES["serving"]
    for i in range(1, len(samples)):
        observation = replace(observation, now=NOW + 5.0 * i, samples={"p1": samples[: i + 1]})
        decision, status = decide(observation)
        if status != observation.resource.status or decision.actions:
            writes.append(5 * i)
        observation = after(observation, decision)
    assert [at for at in writes if at > 120] == []
    assert observation.resource.status["throughput"]["tokensPerSecond"] > 0
    assert len(observation.resource.status["acceptance"]["perPosition"]) == 4


def test_traffic_that_comes_and_goes_writes_seldom() -> None:
    """Two minutes of traffic, two of nearly none, for two hours: no write a minute, though the speed swings tenfold."""
    rng, engine = np.random.default_rng(1), FakeEngine(4, "p1", NOW)
    writes, samples, observation = 0, [], STATES["serving"]
    for i in range(480):
        streams = 4 if i // 8 % 2 else 1
        kind = Traffic((0.95, 0.97, 0.94, 0.94), streams=streams, drafts=150)
        engine.serve(15.0, kind, 40.0 if streams == 4 else 100.0, rng)
        samples.append(engine.sample(NOW + 15.0 * i))
        observation = replace(observation, now=NOW + 15.0 * i, samples={"p1": samples[-360:]})
        decision, status = decide(observation)
        writes += i > 40 and status != observation.resource.status
        observation = after(observation, decision)
    assert writes <= 3


def test_a_window_of_two_scrapes_has_a_speed() -> None:
    spec = {**SPEC, "speculative": {"control": {"windowSeconds": 5}}}
    first = fixpoint(replace(STATES["serving"], resource=replace(STATES["serving"].resource, spec=spec)))
    samples = traffic(60, 0.0, 0)
    late = [replace(one, time=one.time - 0.02 * (i % 2)) for i, one in enumerate(samples)]  # 4.98 s between two
    _, status = decide(replace(first, now=NOW + 56.0, samples={"p1": late}))
    assert status["throughput"]["tokensPerSecond"] > 0


def test_figures_follow_a_real_change() -> None:
    samples = traffic(300, 0.0, 0)
    observation = replace(fixpoint(STATES["serving"]), now=NOW + 295, samples={"p1": samples})
    _, status = decide(observation)
    faster = dict(status["throughput"], tokensPerSecond=status["throughput"]["tokensPerSecond"] * 3)
    old = {"throughput": faster | {"measuredAt": moment.text(NOW + 200)}}
    stale = replace(observation, resource=replace(observation.resource, status=status | old))
    assert decide(stale)[1]["throughput"]["tokensPerSecond"] == status["throughput"]["tokensPerSecond"]
    young = {"throughput": faster | {"measuredAt": moment.text(NOW + 290)}}
    fresh = replace(observation, resource=replace(observation.resource, status=status | young))
    assert decide(fresh)[1]["throughput"] == young["throughput"], "at most once a minute"


@pytest.mark.parametrize(
    ("text", "seconds"), [("2026-11-22T09:30:00Z", 1_795_339_800.0), ("2026-11-22T10:30:00+01:00", 1_795_339_800.0)]
)
def test_moments(text: str, seconds: float) -> None:
    assert moment.seconds(text) == seconds
    assert moment.text(seconds) == "2026-11-22T09:30:00Z"
    assert moment.optional(text) == seconds
    for none in (None, "", "yesterday"):
        assert moment.optional(none) is None


def names(actions: Sequence[object]) -> list[str]:
    return [type(action).__name__ for action in actions]


def test_host_paths_need_the_administrators_word() -> None:
    spec = {**SPEC, "cache": {"weights": {"hostPath": {"path": "/srv/weights"}}}}
    for prefixes, reason in (((), "HostPathNotAllowed"), (("/srv",), None), (("/srv/we",), "HostPathNotAllowed")):
        decision = reconcile(observed(spec), replace(SETTINGS, host_path_prefixes=prefixes))
        assert decision.status is not None
        stalled = next(c for c in decision.status["conditions"] if c["type"] == "Stalled")
        assert (stalled["reason"] if stalled["status"] == "True" else None) == reason
        assert bool(decision.actions) is (reason is None)


def test_nobody_is_woken_while_nothing_is_due() -> None:
    assert decide(STATES["serving"])[0].wake_after is None
    assert decide(STATES["foreign"])[0].wake_after == 15.0
    lowered = fixpoint(STATES["K lowered"])
    assert decide(lowered)[0].wake_after == pytest.approx(1750.0)
    overdue = replace(lowered, now=NOW + 5000)
    assert decide(overdue)[0].wake_after is None, "traffic and pods wake by themselves"


def test_the_same_object_twice_is_no_action() -> None:
    first = STATES["first pass"]
    decision, _ = decide(first)
    assert names(decision.actions) == ["Create"] * 5
    assert names(decide(after(first, decision))[0].actions) == []
