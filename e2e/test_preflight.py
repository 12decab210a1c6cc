"""What can't work is told before any weights load, each with a reason and a way out of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import pytest

from demo.resource import Resource
from gemmaspec.core import names
from mirror import COMMIT, Mirror
from mirror.contents import EXPERTS, OTHER_VOCABULARY, TOKEN, UNKNOWN_TYPE
from stories import NAMESPACE, OTHER_TRANSFORMERS, Site, config_map, patch_from, secret
from testbed.deadline import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

# What an engine alone on its box may take. Here five preflights, most of which import vLLM, share the cores with each
# other and with whatever else runs: a crowd is held to this many seconds of one processor, and a campaign runs each
# alone and looks at the clock.
_SECONDS: Final = 60.0
_CROWDED_SECONDS: Final = 420.0
_SMALL: Final = {"resources": {"requests": {"cpu": "200m", "memory": "64Mi"}}}  # they fit on two cores


@dataclass(frozen=True)
class Case:
    """A spec that can't work, what is said about it, and a word of the way out."""

    name: str
    reason: str
    remedy: str
    changes: dict[str, Any] = field(default_factory=dict)
    hub: bool = False


def _drafter(name: str) -> dict[str, Any]:
    return {"speculative": {"drafter": {"model": name, "revision": COMMIT}}}


CASES: Final = (
    Case("vllm-version", "VllmVersionMismatch", "spec.engine.vllm", {"engine": {"vllm": "0.31.0"}}),
    Case(
        "transformers-version",
        "TransformersVersionMismatch",
        "mode: Install",
        {"engine": {"transformers": {"version": OTHER_TRANSFORMERS}}},
    ),
    Case("patch-hash", "PatchHashMismatch", "Pin the hash", {"engine": patch_from("a-patch")}),
    Case("patch-source", "PatchSourceMissing", "spec.engine.patches[].source", {"engine": patch_from("no-such-map")}),
    Case("flag", "BadArgument", "extraArgs", {"engine": {"extraArgs": ["--max-num-partial-prefills=2"]}}),
    Case("vocabulary", "DrafterVocabMismatch", "assistant published", _drafter(OTHER_VOCABULARY), hub=True),
    Case("model-type", "ModelTypeUnknown", "newer image", _drafter(UNKNOWN_TYPE), hub=True),
    Case(
        "utilization",
        "UtilizationDoesNotFit",
        "spec.memory.utilization",
        {"memory": {"utilization": 0.98, "reserveGiB": 4}},  # more than there is in all, so final
    ),
    Case("kv-cache", "KVCacheDoesNotFit", "kvCacheBytes to at most", {"memory": {"kvCacheBytes": 4000 << 30}}),
    Case(
        "known-bad",
        "MoeBackendRefused",
        "Marlin",
        {
            "model": {"target": EXPERTS, "revision": COMMIT},
            "engine": {"extraArgs": ["--moe-backend=cutlass"]},
        },
        hub=True,
    ),
)


# In the gate, one of each kind: a version, a hash, an argument, a drafter, memory. Campaign: each of them, alone.
_CROWD: Final = [
    case for case in CASES if case.name in ("vllm-version", "patch-hash", "flag", "vocabulary", "kv-cache")
]


@pytest.fixture(scope="module")
def refused(site: Site, mirror: Mirror) -> Iterator[dict[str, Resource]]:
    """A crowd of cases, applied at once: their preflights run side by side."""
    secret(site.kubectl, "hub-token", TOKEN)
    site.kubectl.apply(json.dumps(config_map("a-patch", "raise SystemExit\n")), "-n", NAMESPACE)
    applied: dict[str, Resource] = {}
    try:
        for case in _CROWD:
            applied[case.name] = site.apply(case.name, **_changes(case, mirror))
        yield applied
    finally:
        for resource in applied.values():
            resource.kubectl("delete", "gsd", resource.name, "--wait=false", "--ignore-not-found")
        for resource in applied.values():
            resource.delete()


def _changes(case: Case, mirror: Mirror) -> dict[str, Any]:
    engine = {**_SMALL, **case.changes.get("engine", {})}
    changes = {**case.changes, "engine": engine}
    if case.hub:
        engine["env"] = [{"name": "HF_ENDPOINT", "value": mirror.url}]
        changes["cache"] = {"download": {"tokenSecretRef": {"name": "hub-token", "key": "key"}}}
    return changes


@pytest.mark.parametrize("case", _CROWD, ids=lambda case: case.name)
def test_it_is_refused_before_any_weights_load(refused: dict[str, Resource], case: Case) -> None:
    resource = refused[case.name]
    said = resource.wait_condition("Preflight", "False", _CROWDED_SECONDS)
    assert said["reason"] == case.reason, said["message"]
    assert case.remedy in said["message"]
    stalled = resource.wait_condition("Stalled", "True", 30)
    assert stalled["reason"] == case.reason
    took, load = _took(resource.pods()[-1]), os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"\npreflight {case.name}: {case.reason} in {took}, load {load:.1f} a core")
    assert took.processor <= _SECONDS
    wait_for(lambda: _parked(resource), f"{case.name}: parked, and left alone by the startup probe", 120)
    log = resource.kubectl("logs", resource.pods()[-1]["metadata"]["name"], "-c", names.ENGINE_CONTAINER)
    assert f"vLLM is not started: {case.reason}" in log


def test_none_of_them_restarts_or_downloads(refused: dict[str, Resource], mirror: Mirror) -> None:
    pods = {name: resource.pods() for name, resource in refused.items()}
    assert {name: len(found) for name, found in pods.items()} == dict.fromkeys(pods, 1)
    counts = {
        (name, entry["name"]): entry["restartCount"]
        for name, found in pods.items()
        for kind in ("initContainerStatuses", "containerStatuses")
        for entry in found[0]["status"][kind]
    }
    assert counts == dict.fromkeys(counts, 0)
    fetched = mirror.served()
    assert f"{OTHER_VOCABULARY}/config.json" in fetched
    assert [name for name in fetched if name.startswith(OTHER_VOCABULARY) and not name.endswith("config.json")] == []


@pytest.mark.campaign
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_alone_it_is_refused_within_a_minute(site: Site, mirror: Mirror, case: Case) -> None:
    secret(site.kubectl, "hub-token", TOKEN)
    site.kubectl.apply(json.dumps(config_map("a-patch", "raise SystemExit\n")), "-n", NAMESPACE)
    resource = site.apply(f"alone-{case.name}", **_changes(case, mirror))
    try:
        said = resource.wait_condition("Preflight", "False", _CROWDED_SECONDS)
        took = _took(resource.pods()[-1])
        print(f"\n| {case.name} | {said['reason']} | {took.clock:.0f} | {took.processor:.1f} |")
        assert said["reason"] == case.reason
        assert took.clock <= _SECONDS
    finally:
        resource.delete(90)


def _parked(resource: Resource) -> bool:
    """The launcher runs, its startup probe has passed, and it is not ready."""
    states = [entry for pod in resource.pods() for entry in pod["status"].get("containerStatuses", ())]
    return bool(states) and all(entry["started"] and not entry["ready"] for entry in states)


@dataclass(frozen=True)
class Took:
    """Seconds of preflight: of a processor, and by the clock, since its container was started (the image was there)."""

    processor: float
    clock: float

    def __str__(self) -> str:
        return f"{self.clock:.0f} s, {self.processor:.1f} s of a processor"


def _took(pod: dict[str, Any]) -> Took:
    proof = next(c for c in pod["status"]["initContainerStatuses"] if c["name"] == names.PREFLIGHT_CONTAINER)
    ended = proof["state"]["terminated"]
    began, end = (datetime.fromisoformat(ended[name]) for name in ("startedAt", "finishedAt"))
    return Took(float(json.loads(ended["message"])["processorSeconds"]), (end - began).total_seconds())
