"""Fields that no object shows: each moves some decision, or it would be ignored in silence.

The oracle of the fuzz campaign takes it as an act when what decisions are made with differs. This is what entitles it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from gemmaspec.core import analysis, live, trial
from gemmaspec.core.canary import Phase, Rollout
from gemmaspec.core.observation import Child, Ended
from gemmaspec.core.recipe import Prior
from gemmaspec.core.resolve import Resolved, resolve
from tests.core.test_analysis import GOOD, NOW, RATES, STARTING, seen
from tests.fuzz.campaign import schema
from tests.fuzz.oracle import acts_in_decisions, means_the_same
from tests.simulated.serving import SimulatedServing, Traffic, linear

ACCEPTED, REFUSED = Traffic((0.85, 0.8, 0.75, 0.7)), Traffic((0.1, 0.1, 0.1, 0.1))
PRIOR = Prior(acceptance=(0.85, 0.8, 0.75, 0.7), step_milliseconds={0: 100.0, 1: 120.0, 4: 180.0})
QUICK = {"recovery": {"holdSeconds": 300, "maxHoldSeconds": 1200}}
SPEC: dict[str, Any] = {
    "model": {"target": "/models/target"},
    "engine": {"image": "example.org/vllm:1", "allowTag": True},
    "speculative": {"method": "mtp", "drafter": {"model": "/models/drafter"}, "k": 4, "control": QUICK},
    "nodes": {"accelerator": "CPU"},
}
# Rendered into the pod: the oracle sees them in the children.
RENDERED = {"rollout.drainSeconds", "rollout.startupSeconds", "rollout.maxRestarts"}


def at(path: str, value: Any) -> dict[str, Any]:
    """The spec with a value at the path."""
    *above, last = path.split(".")
    made: dict[str, Any] = {**SPEC}
    node = made
    for step in above:
        node[step] = dict(node.get(step, {}))
        node = node[step]
    node[last] = value
    return made


def moves(spec: Mapping[str, Any]) -> Any:
    """What the operator does to K in an hour and a half of traffic that turns bad, good and bad again."""
    control = spec["speculative"]["control"]
    serving = SimulatedServing(step_ms=linear(100.0, 20.0), prior=PRIOR, control=control, scrape=20.0)
    for seconds, traffic in ((600, ACCEPTED), (3600, REFUSED), (1200, ACCEPTED), (900, REFUSED)):
        serving.advance(seconds, traffic)
    return [(move.at, move.reason, move.after) for move in serving.moves]


def bound(spec: Mapping[str, Any]) -> Any:
    """Every K that an engine moved live is started for."""
    return live.grid(resolve({**spec, "engine": SPEC["engine"]}, {}))


def actuator(spec: Mapping[str, Any]) -> Any:
    """How K is moved, as the spec asks for it."""
    return resolve(spec, {}).control.actuator


def verdicts(spec: Mapping[str, Any]) -> Any:
    """What is said of revisions on trial: fresh, slow, restarted, never ready, with few drafts and with many."""
    rules = analysis.rules(resolve(spec, {}))
    restarted = replace(STARTING, restarts=3, ended=Ended("EngineFailed", "ValueError", 1))
    trials = [
        seen(),
        seen(300, speeds=[30.0] * 30),
        seen(1000, speeds=[30.0] * 30),
        seen(1000, rates=tuple(0.8 * rate for rate in RATES), speeds=[24.0] * 30),
        replace(seen(), pods=(restarted,)),
        replace(seen(), pods=(replace(STARTING, created_at=NOW - 400),)),
    ]
    moments = (NOW - 90, NOW, NOW + 300, NOW + 3000)
    return [
        (verdict.answer, verdict.reason, verdict.again)
        for one in trials
        for verdict in (analysis.judge(rules, one, GOOD, now) for now in moments)
    ]


def asks(spec: Mapping[str, Any]) -> Any:
    """Whether an idle engine is to be asked something before its revision is judged."""
    return trial.waits(resolve(spec, {}), Rollout("new", "new"), None)


def boxes(spec: Mapping[str, Any]) -> Any:
    """Boxes of each revision on trial, and how many engines may be missing."""
    resolved = resolve({**spec, "replicas": 4}, {})
    known = Rollout("new", "new", good="old", stable="old", phase=Phase.ANALYSING, since=0.0)
    return trial.goal(resolved, "new", known), trial.unavailable(resolved, known)


def records(spec: Mapping[str, Any]) -> Any:
    """Earlier revisions whose records are kept, of ten."""
    children = [
        Child("Deployment", f"d{i}", f"u{i}", "1", "uid", _made(f"r{i}", f"2026-01-{i + 1:02}T00:00:00Z"))
        for i in range(10)
    ]
    facts = _Kept(resolve(spec, {}))
    return trial.remembered(children, facts)  # type: ignore[arg-type]  # reads three of the many facts


class _Kept:
    """Of a pass' facts, those that say which records are kept."""

    revision = "r9"
    rollout = Rollout("p", "p", stable="r9")

    def __init__(self, resolved: Resolved) -> None:
        self.resolved = resolved


def _made(revision: str, when: str) -> dict[str, Any]:
    return {"metadata": {"labels": {"gemmaspec.io/revision": revision}, "creationTimestamp": when}}


CONTROL, ANALYSIS = "speculative.control.", "rollout.analysis."
# Field, two values, and what differs between them.
DECIDES: dict[str, tuple[Any, Any, Callable[[Mapping[str, Any]], Any]]] = {
    CONTROL + "mode": ("Fixed", "Rollback", moves),
    CONTROL + "kMin": (0, 2, moves),
    CONTROL + "kMax": (4, 8, bound),
    CONTROL + "actuator": ("Restart", "Live", actuator),
    CONTROL + "windowSeconds": (60, 600, moves),
    CONTROL + "minDrafts": (400, 1_000_000, moves),
    CONTROL + "minDwellSeconds": (300, 10_000, moves),
    CONTROL + "minGain": (0.1, 1.0, moves),
    CONTROL + "recovery.holdSeconds": (300, 900, moves),
    CONTROL + "recovery.maxHoldSeconds": (300, 1200, moves),
    ANALYSIS + "initialDelaySeconds": (0, 60, verdicts),
    ANALYSIS + "minDrafts": (100, 5000, verdicts),
    ANALYSIS + "maxLossPercent": (1, 50, verdicts),
    ANALYSIS + "failureLimit": (0, 5, verdicts),
    ANALYSIS + "progressDeadlineSeconds": (60, 6000, verdicts),
    ANALYSIS + "timeoutSeconds": (10, 1000, verdicts),
    ANALYSIS + "onInconclusive": ("Hold", "Promote", verdicts),
    ANALYSIS + "warmUp": ("Never", "WhenIdle", asks),
    "rollout.strategy": ("Canary", "AllAtOnce", boxes),
    "rollout.maxUnavailable": (1, 3, boxes),
    "rollout.revisionHistoryLimit": (1, 5, records),
}


def leaves(below: Mapping[str, Any], path: str) -> Iterator[str]:
    """Fields of the schema that hold a value."""
    if "properties" not in below:
        yield path
    for name, field in below.get("properties", {}).items():
        yield from leaves(field, f"{path}.{name}")


def test_every_field_of_control_and_rollout_is_here() -> None:
    properties = schema()["properties"]
    control = properties["speculative"]["properties"]["control"]
    found = {*leaves(control, "speculative.control"), *leaves(properties["rollout"], "rollout")}
    assert found == set(DECIDES) | RENDERED


@pytest.mark.parametrize("path", DECIDES)
def test_each_moves_a_decision(path: str) -> None:
    one, other, probe = DECIDES[path]
    assert probe(at(path, one)) != probe(at(path, other))


@pytest.mark.parametrize("path", DECIDES)
def test_the_oracle_takes_each_for_an_act(path: str) -> None:
    one, other, _ = DECIDES[path]
    assert not means_the_same(at(path, one), at(path, other))
    assert acts_in_decisions(at(path, one), at(path, other))


@pytest.mark.parametrize(
    ("path", "value"),
    [("service.annotations", {}), ("model.trustRemoteCode", False), ("memory.utilizationMode", "Fixed")],
)
def test_what_is_said_anew_is_the_same(path: str, value: object) -> None:
    assert means_the_same(SPEC, at(path, value))


def test_what_is_rendered_is_no_decision() -> None:
    other = at("rollout.startupSeconds", 600)
    assert not means_the_same(SPEC, other)
    assert not acts_in_decisions(SPEC, other)
