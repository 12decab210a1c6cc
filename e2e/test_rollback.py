"""Acceptance falls, the operator lowers K, speed comes back; also when the operator dies in the middle of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from demo.resource import condition, settled
from gemmaspec.core import names
from monitoring import Prometheus
from monitoring.manifests import DASHBOARD, ROLLED_BACK, queries
from stories import BOOT_SECONDS, Tiny, kill_operator, restart_operator
from testbed.deadline import wait_for
from traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1200)]

_MEASURED = 10.0  # seconds under each K
_ACCEPTANCE = "gemmaspec_conditional_acceptance_ratio"
_QUIET = 15.0  # seconds in which nothing may flap


@dataclass
class Rollback:
    """What the story left behind."""

    before: dict[str, Any]
    after: dict[str, Any] = field(default_factory=dict)
    later: dict[str, Any] = field(default_factory=dict)
    slow: float = 0.0
    """tok/s of the bad traffic before K was lowered."""
    fast: float = 0.0
    """tok/s of the same traffic after."""
    pod_after: dict[str, Any] = field(default_factory=dict)
    pod_later: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    begun: float = 0.0
    ended: float = 0.0


@pytest.fixture(scope="module")
def story(tiny: Tiny, prometheus: Prometheus) -> Rollback:
    """Good traffic, bad traffic, rollback, with the operator killed twice on the way; Prometheus looks on."""
    told = Rollback(tiny.at_desired_k())
    wait_for(lambda: _at_rest(prometheus), "the resource at rest, as Prometheus sees it", 60)
    told.begun = time.time()
    with tiny.traffic(1.0).background():
        tiny.resource.wait_condition("SpeculationHealthy", "True", 90)
        wait_for(lambda: prometheus.instant(f"{_ACCEPTANCE}{{name='tiny'}}"), "the good kind's acceptance", 90)
    bad = tiny.traffic(0.0)
    with bad.background():
        told.slow = _speed_until_lowered(bad, tiny)
        kill_operator(tiny.site)  # K is decided, and nothing acted on yet or little of it
        wait_for(lambda: _boots(tiny), "the pod of the lowered K", 120)
        restart_operator(tiny.site)  # the engine boots
        told.after = tiny.resource.wait(lambda body: settled(body) and _lowered(body), "rolled back", BOOT_SECONDS)
        told.pod_after = tiny.serving_pod()
        told.fast = _speed(bad, beyond=1.1 * told.slow)
        _let_flow(_QUIET)
        told.later, told.pod_later = tiny.resource.read(), tiny.serving_pod()
        told.events = tiny.resource.events()
    told.ended = time.time()
    return told


def _at_rest(prometheus: Prometheus) -> bool:
    """An earlier story's resource may have had the same name."""
    seen = [entry["value"][1] for entry in prometheus.instant('max by (name) (gemmaspec_k_effective{name="tiny"})')]
    return seen == ["4"] and not prometheus.firing(ROLLED_BACK, "tiny")


def _lowered(body: dict[str, Any]) -> bool:
    k = body["status"]["k"]
    return bool(k["effective"] < k["desired"])


def _boots(tiny: Tiny) -> bool:
    """Whether the pod of the K that the status names exists."""
    effective = str(tiny.resource.status()["k"]["effective"])
    return any(
        pod["metadata"]["annotations"].get(names.K_ANNOTATION) == effective
        and "deletionTimestamp" not in pod["metadata"]
        for pod in tiny.resource.pods()
    )


def _let_flow(seconds: float) -> None:
    time.sleep(seconds)  # not for something to happen: nothing may happen meanwhile


def _speed(traffic: Traffic, beyond: float) -> float:
    """Tokens per second from now on: over one span, or up to three, all counted, until it is beyond what is hoped for.

    Other programs on the machine take processor time when they like, hence the longer look; no span is left out.
    """
    wait_for(lambda: traffic.rate(2) > 0, "tokens", 60)
    begun, tokens, speed = time.monotonic(), traffic.meter.total, 0.0
    for _ in range(3):
        _let_flow(_MEASURED)
        speed = (traffic.meter.total - tokens) / (time.monotonic() - begun)
        if speed > beyond:
            break
    return speed


def _speed_until_lowered(traffic: Traffic, tiny: Tiny) -> float:
    wait_for(lambda: traffic.rate(2) > 0, "tokens", 60)
    begun, tokens = time.monotonic(), traffic.meter.total
    tiny.resource.wait(_lowered, "K lowered", 120, every=0.1)
    return (traffic.meter.total - tokens) / (time.monotonic() - begun)


def test_k_is_lowered(story: Rollback) -> None:
    assert story.before["status"]["k"]["effective"] == 4
    assert story.after["status"]["k"]["effective"] == 0
    assert story.after["status"]["k"]["desired"] == 4


def test_the_engine_runs_with_the_lowered_k_as_a_new_revision(story: Rollback) -> None:
    assert story.after["status"]["revision"] != story.before["status"]["revision"]
    labels = story.pod_after["metadata"]["labels"]
    assert labels[names.REVISION_LABEL] == story.after["status"]["revision"]
    assert "--speculative-config" not in story.pod_after["spec"]["containers"][0]["args"]


def test_the_spec_is_untouched(story: Rollback) -> None:
    assert story.after["spec"] == story.before["spec"]
    assert story.after["metadata"]["generation"] == story.before["metadata"]["generation"]


def test_the_reason_is_a_condition_with_the_figures(story: Rollback) -> None:
    found = condition(story.after, "SpeculationHealthy")
    assert (found["status"], found["reason"]) == ("False", "KLowered")
    assert "acceptance" in found["message"]


def test_the_resource_serves_all_the_same(story: Rollback) -> None:
    assert condition(story.after, "Ready")["status"] == "True"


def test_the_history_tells_it_once(story: Rollback) -> None:
    told = [entry for entry in story.after["status"]["history"] if "fromK" in entry]
    moves = [(entry["reason"], entry["fromK"], entry["toK"]) for entry in told]
    assert moves[-1] == ("DraftsDoNotPay", 4, 0)
    assert moves.count(moves[-1]) == 1


def test_an_event_tells_it_once(story: Rollback) -> None:
    found = [event for event in story.events if event["reason"] == "DraftsDoNotPay"]
    assert len(found) == 1
    assert found[0]["type"] == "Warning"


def test_a_drop_after_proved_acceptance_is_no_fault(story: Rollback) -> None:
    assert story.after["status"]["control"]["proved"] is True
    assert not story.after["status"]["control"].get("fault")


def test_speed_comes_back_under_the_same_traffic(story: Rollback) -> None:
    assert story.fast > 1.1 * story.slow, f"{story.slow:.0f} tok/s at K=4, {story.fast:.0f} at K=0"


def test_nothing_flaps_afterwards(story: Rollback) -> None:
    assert story.later["status"]["k"]["effective"] == 0
    assert story.later["status"]["revision"] == story.after["status"]["revision"]
    assert story.later["status"]["history"] == story.after["status"]["history"]
    assert story.pod_later["metadata"]["uid"] == story.pod_after["metadata"]["uid"]


def test_the_killed_operator_left_one_engine_and_one_deployment_that_asks_for_it(story: Rollback, tiny: Tiny) -> None:
    deployments = tiny.resource.json("get", "deployments", "-l", names.selector_text("tiny"))["items"]
    asking = [entry["metadata"]["labels"][names.REVISION_LABEL] for entry in deployments if entry["spec"]["replicas"]]
    assert asking == [story.later["status"]["revision"]]
    assert len(tiny.resource.pods()) == 1


def test_prometheus_scrapes_operator_and_engine(story: Rollback, prometheus: Prometheus) -> None:
    """This engine has an API key, which Prometheus has not: vLLM's does not close /metrics."""
    for monitor in ("gemmaspec-operator", "gemmaspec-engines"):
        up = prometheus.over(f'max by (job) (up{{job="gemmaspec-system/{monitor}"}})', story.begun, story.ended)
        assert [value for _, value in up[0]["values"]].count("1") >= 3
    assert prometheus.broken_rules() == []


def test_every_panel_of_the_dashboard_has_data(story: Rollback, prometheus: Prometheus) -> None:
    assert prometheus.without_data(queries(DASHBOARD), story.begun, story.ended) == []


def test_prometheus_tells_the_same_story(story: Rollback, prometheus: Prometheus) -> None:
    (k,) = prometheus.over('max by (name) (gemmaspec_k_effective{name="tiny"})', story.begun, story.ended)
    values = [float(value) for _, value in k["values"]]
    assert (values[0], values[-1]) == (4, 0)
    counted = prometheus.instant('max by (reason) (gemmaspec_rollbacks_total{name="tiny"})')
    assert {entry["metric"]["reason"]: entry["value"][1] for entry in counted}["DraftsDoNotPay"] == "1"


def test_an_alert_fires_on_the_rollback_and_resolves_after_it(
    story: Rollback, prometheus: Prometheus, tiny: Tiny
) -> None:
    assert prometheus.fired(ROLLED_BACK, "tiny", story.begun, story.ended)
    assert prometheus.firing(ROLLED_BACK, "tiny")
    tiny.resource.ask_for_k(story.after["status"]["k"]["effective"])  # what the runbook advises: this traffic stays
    try:
        wait_for(lambda: not prometheus.firing(ROLLED_BACK, "tiny"), "the alert resolved", 60)
        assert tiny.serving_pod()["metadata"]["uid"] == story.pod_later["metadata"]["uid"], "nothing restarts for it"
    finally:
        tiny.resource.ask_for_k(None)
