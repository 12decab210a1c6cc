"""A new revision is judged, and sent away when it is worse: campaigns, on one box, and on two under load."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from demo.door import door
from demo.resource import Resource, condition, pod_ready, settled
from gemmaspec.core import names
from stories import (
    API_KEY,
    BOOT_SECONDS,
    NAMESPACE,
    PORT,
    SECRET,
    Site,
    Tiny,
    alone_on_its_box,
    config_map,
    kill_operator,
    patch_from,
    secret,
    two_boxes,
)
from testbed.deadline import wait_for
from traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1800)]

# vLLM's own module, run as it is.
_AS_IT_IS: Final = """
import pathlib
import vllm.model_executor.models as models
exec(compile((pathlib.Path(models.__file__).parent / "gemma4_mtp.py").read_text(), "gemma4_mtp.py", "exec"))
"""
# Then a drafter of random weights, for all that its checkpoint holds. The engine starts and answers as ever.
_RANDOM: Final = f"""{_AS_IT_IS}
_load = Gemma4MTP.load_weights
def _at_random(self, weights):
    loaded, dice = _load(self, weights), torch.Generator().manual_seed(7)
    for parameter in self.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.1, generator=dice)
    return loaded
Gemma4MTP.load_weights = _at_random
"""
# Or one whose drafts are all token 0, the padding, which the target never writes: what a patch that does not belong to
# the image looks like.
_PADDING: Final = f"""{_AS_IT_IS}
_logits, _top = Gemma4MTP.compute_logits, Gemma4MTP.get_top_tokens
Gemma4MTP.compute_logits = lambda *given, **named: torch.zeros_like(_logits(*given, **named))
Gemma4MTP.get_top_tokens = lambda *given, **named: torch.zeros_like(_top(*given, **named))
"""
_JUDGE_SECONDS: Final = 300.0
# 120 of three requests are enough (docs/rollouts.md); so many may come between two scrapes.
_MOST_DRAFTS: Final = 2000


def _edit(resource: Resource, **spec: Any) -> None:
    """Merge into the spec; None takes a field away."""
    resource.kubectl("patch", "gsd", resource.name, "--type=merge", "-p", json.dumps({"spec": spec}))


def _rolled_back(body: dict[str, Any]) -> bool:
    return condition(body, "RolledBack").get("status") == "True"


@pytest.mark.campaign
def test_a_revision_that_fails_preflight_goes_back_to_the_last_good_one(tiny: Tiny) -> None:
    """The pin says another vLLM than the image has: the one box gets its good engine back, the spec stays."""
    tiny.settle()
    good = tiny.resource.wait(lambda body: body.get("status", {}).get("lastGoodRevision"), "a last good revision", 60)
    _edit(tiny.resource, engine={"vllm": "0.31.0"})
    try:
        told = tiny.resource.wait(_rolled_back, "rolled back", _JUDGE_SECONDS)
        assert condition(told, "RolledBack")["reason"] == "PreflightFailed"
        assert "0.31.0" in condition(told, "RolledBack")["message"]
        assert told["status"]["rejectedRevision"] != good["status"]["lastGoodRevision"]
        assert told["spec"]["engine"]["vllm"] == "0.31.0", "the spec is the user's"
        serves = tiny.resource.wait(
            lambda body: body.get("status", {}).get("readyReplicas") == 1, "serving", BOOT_SECONDS
        )
        assert serves["status"]["revision"] == good["status"]["lastGoodRevision"]
        assert condition(serves, "Ready")["status"] == "True"
        assert "RolledBack" in {event["reason"] for event in tiny.resource.events()}
        pod = tiny.serving_pod()["metadata"]["uid"]
    finally:
        _edit(tiny.resource, engine={"vllm": None})
    tiny.settle()
    assert tiny.serving_pod()["metadata"]["uid"] == pod, "a spec that asks for what runs restarts nothing"


class Watch(threading.Thread):
    """Looks at the pods all the time: how many serve at least, how many hold a box at most."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(name="watch", daemon=True)
        self.least_ready, self.most_pods = 99, 0
        self._resource, self._ending = resource, threading.Event()

    def run(self) -> None:
        while not self._ending.wait(0.5):
            pods = self._resource.pods()
            held = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
            serving = [pod for pod in held if pod_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
            self.least_ready = min(self.least_ready, len(serving))
            self.most_pods = max(self.most_pods, len(held))

    def end(self) -> None:
        self._ending.set()
        self.join(30)


@pytest.fixture(scope="module")
def boxes(site: Site) -> Iterator[Site]:
    """A cluster of two boxes, of which each has room for one engine."""
    with two_boxes(f"{site.own.name}-boxes") as found:
        yield found


@pytest.fixture(scope="module")
def pair(boxes: Site) -> Resource:
    """Two engines that serve, on a box each."""
    room = alone_on_its_box(boxes)
    analysis = {"initialDelaySeconds": 5, "minDrafts": 100, "timeoutSeconds": 120, "onInconclusive": "Promote"}
    rollout = {"drainSeconds": 60, "analysis": analysis}
    resource = boxes.apply("pair", replicas=2, engine=room, rollout=rollout)
    resource.wait(lambda body: settled(body) and body["status"].get("readyReplicas") == 2, "two engines", BOOT_SECONDS)
    assert len({pod["spec"]["nodeName"] for pod in resource.pods()}) == 2
    return resource


@contextmanager
def _load(boxes: Site, resource: Resource, pooled: bool = True) -> Iterator[Traffic]:
    """Four clients that stream without a pause."""
    with door(boxes.cluster, resource.name, PORT, NAMESPACE) as base_url:
        traffic = Traffic(f"{base_url}/v1", model="tiny", code_share=1.0, streams=4, max_tokens=96, pooled=pooled)
        with traffic.background():
            wait_for(lambda: traffic.rate() > 0, "tokens", 60)
            yield traffic


def _baseline(resource: Resource) -> dict[str, Any]:
    """The resource once it is known what the good revision earns."""
    return resource.wait(
        lambda body: body.get("status", {}).get("acceptance", {}).get("drafts", 0) > 100, "figures", 180
    )


@pytest.mark.campaign
def test_an_update_under_load_fails_no_request(boxes: Site, pair: Resource) -> None:
    watch = Watch(pair)
    with _load(boxes, pair) as traffic:
        before = _baseline(pair)["status"]["revision"]
        watch.start()
        begun = time.monotonic()
        _edit(pair, engine={"env": [{"name": "STORY", "value": "update"}]})

        def through(body: dict[str, Any]) -> bool:
            status = body["status"]
            new = status.get("lastGoodRevision") == status["revision"] != before
            return bool(new and settled(body) and status["readyReplicas"] == 2)

        pair.wait(through, "the new revision on both boxes", 2 * _JUDGE_SECONDS)
        print(f"both boxes replaced after {time.monotonic() - begun:.0f} s; {traffic.summary()}")
    watch.end()
    assert traffic.summary().failed == 0
    assert (watch.least_ready, watch.most_pods) == (1, 2)


@pytest.mark.campaign
def test_a_broken_drafter_is_rolled_back_beside_the_good_engine(boxes: Site, pair: Resource) -> None:
    patch = _patch(boxes, "random", _RANDOM)
    watch = Watch(pair)
    with _load(boxes, pair, pooled=False) as traffic:
        good = _baseline(pair)["status"]
        uids = {pod["metadata"]["uid"] for pod in pair.pods()}
        watch.start()
        _edit(pair, engine={"patches": [patch]})
        wait_for(lambda: any(_of(pod, good["revision"]) is False for pod in pair.pods()), "the canary", 120)
        kill_operator(boxes)
        told = pair.wait(_rolled_back, "rolled back", _JUDGE_SECONDS)
        print(condition(told, "RolledBack")["message"])
        back = pair.wait(
            lambda body: body["status"]["readyReplicas"] == 2 and body["status"]["revision"] == good["revision"],
            "the good revision on both boxes",
            _JUDGE_SECONDS,
        )
    watch.end()
    assert condition(told, "RolledBack")["reason"] in ("DraftRejected", "AcceptanceWorse")
    if counted := re.search(r"(\d+) of (\d+) first drafts", condition(told, "RolledBack")["message"]):
        assert int(counted[2]) <= _MOST_DRAFTS
    assert back["status"]["lastGoodRevision"] == good["revision"]
    assert back["spec"]["engine"]["patches"] == [patch]
    assert len(uids & {pod["metadata"]["uid"] for pod in pair.pods()}) == 1, "the good replica never left"
    assert (watch.least_ready, watch.most_pods) == (1, 2)
    assert traffic.summary().failed == 0


def _of(pod: dict[str, Any], revision: str) -> bool:
    return bool(pod["metadata"]["labels"].get(names.REVISION_LABEL) == revision)


@pytest.mark.campaign
def test_a_revision_that_never_gets_ready_is_rolled_back_at_its_deadline(boxes: Site, pair: Resource) -> None:
    with _load(boxes, pair) as traffic:
        good = _baseline(pair)["status"]["revision"]
        nowhere = {"selector": {"e2e/nowhere": "true"}}
        _edit(pair, engine={"patches": None}, nodes=nowhere, rollout={"analysis": {"progressDeadlineSeconds": 20}})
        told = pair.wait(
            lambda body: condition(body, "RolledBack").get("reason") == "ProgressDeadlineExceeded",
            "rolled back",
            _JUDGE_SECONDS,
        )
        pair.wait(lambda body: body["status"]["readyReplicas"] == 2, "both boxes again", _JUDGE_SECONDS)
    assert told["status"]["lastGoodRevision"] == good
    assert traffic.summary().failed == 0


def _patch(boxes: Site, name: str, text: str) -> dict[str, Any]:
    """An entry of ``spec.engine.patches``, whose text stands in a ConfigMap of that name."""
    boxes.kubectl.apply(json.dumps(config_map(name, text)), "-n", NAMESPACE)
    return dict(patch_from(name, hashlib.sha256(text.encode()).hexdigest())["patches"][0])


@pytest.mark.campaign
def test_scaling_to_zero_and_back(pair: Resource) -> None:
    pair.kubectl("scale", "gsd", pair.name, "--replicas=0")
    wait_for(lambda: not pair.pods(), "no engine", 180)
    pair.kubectl("scale", "gsd", pair.name, "--replicas=1")
    pair.wait(lambda body: body.get("status", {}).get("readyReplicas") == 1, "one engine", BOOT_SECONDS)


@pytest.mark.campaign
def test_idle_boxes_are_judged_by_warm_up(boxes: Site) -> None:
    """Nobody asks anything. A harmless update is taken, a patch that has every draft rejected is sent away; the engine
    has an API key, which the operator does not know.
    """
    secret(boxes.kubectl, SECRET, API_KEY)
    analysis = {"initialDelaySeconds": 5, "minDrafts": 150, "timeoutSeconds": 3600, "warmUp": "WhenIdle"}
    analysis["maxLossPercent"] = 60  # this machine has other work, too: the speed of one request varies by a third
    asked = {"service": {"apiKeySecretRef": {"name": SECRET, "key": "key"}}, "rollout": {"analysis": analysis}}
    boxes.kubectl("delete", "gsd", "-n", NAMESPACE, "--all", "--timeout=180s", timeout=200)
    resource = boxes.apply("idle", **asked)
    resource.wait(settled, "serving", BOOT_SECONDS)

    def warmed(body: dict[str, Any]) -> bool:
        return int((body["status"].get("warmUp") or {}).get("requests", 0)) >= 12

    good = resource.wait(warmed, "what its prompts showed", 2 * _JUDGE_SECONDS)["status"]
    print(f"warm-up of the good revision: {good['warmUp']}")
    assert "refused" not in good["warmUp"]
    assert "acceptance" not in good, "warm-up is no traffic"
    begun = time.monotonic()
    _edit(resource, engine={"env": [{"name": "STORY", "value": "idle"}]})
    taken = resource.wait(lambda body: _judged(body, good["revision"]), "judged", 600.0)
    print(f"judged after {time.monotonic() - begun:.0f} s: {condition(taken, 'RolledBack')['message']}")
    assert taken["status"]["lastGoodRevision"] == taken["status"]["revision"] != good["revision"]
    assert "on warm-up prompts" in condition(taken, "RolledBack")["message"]
    assert "acceptance" not in taken["status"]
    begun = time.monotonic()
    _edit(resource, engine={"patches": [_patch(boxes, "padding", _PADDING)]})
    told = resource.wait(lambda body: _judged(body, taken["status"]["revision"]), "judged", 600.0)
    print(f"rolled back after {time.monotonic() - begun:.0f} s: {condition(told, 'RolledBack')['message']}")
    assert condition(told, "RolledBack")["reason"] in ("DraftRejected", "AcceptanceWorse")
    back = resource.wait(lambda body: body["status"].get("readyReplicas") == 1, "the good engine", BOOT_SECONDS)
    assert back["status"]["revision"] == back["status"]["lastGoodRevision"] == taken["status"]["revision"]
    resource.delete()


def _judged(body: dict[str, Any], before: str) -> bool:
    """Whether there is a verdict on a revision after that one."""
    status = body["status"]
    found = condition(body, "RolledBack")
    promoted = status.get("lastGoodRevision") == status.get("revision") != before
    return found.get("status") == "True" or (promoted and found.get("status") == "False")
