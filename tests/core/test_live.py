"""Live K: when it is chosen, what the engine is started with, what agents are told, what is published."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from gemmaspec.adapters.engine import ScrapeError, parse_report
from gemmaspec.api.spec import Accelerator
from gemmaspec.core import agenthealth, control, live
from gemmaspec.core.acceptance import Window
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.arguments import engine_arguments
from gemmaspec.core.control import Evidence
from gemmaspec.core.observation import Observation, Pod, Resource
from gemmaspec.core.owner import Owner
from gemmaspec.core.plan import plan
from gemmaspec.core.reconcile import Decision, Settings, Steer, reconcile
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load
from gemmaspec_engine import compat

KEY = b"a key of at least sixteen bytes"
OWNER = Owner("llm", "tiny", "uid-1")
FILES = {"gemmaspec_engine/launch.py": "pass\n"}


def spec(actuator: str = "Live", mode: str = "Rollback", k: int = 4, **control_fields: Any) -> dict[str, Any]:
    fields = {"actuator": actuator, "mode": mode, **control_fields}
    return {"recipe": "tiny-cpu", "speculative": {"k": k, "control": fields}}


def resolved(**fields: Any) -> Resolved:
    return resolve(spec(**fields), load())


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_auto_takes_live_only_where_version_and_device_were_tested_together() -> None:
    assert live.is_live(resolved(actuator="Auto"), steerable=True)
    assert not live.is_live(resolved(actuator="Auto"), steerable=False)
    assert not live.is_live(resolved(actuator="Restart"), steerable=True)
    other = resolve(spec("Auto") | {"engine": {"vllm": "0.28.0"}}, load())
    assert not live.is_live(other, steerable=True)
    box = {"recipe": "gemma4-26b-nvfp4-modern", "engine": {"image": "r@sha256:" + "a" * 64}}
    assert not live.is_live(resolve(box, load()), steerable=True), "nothing has run on a GB10"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "GEMMASPEC_KEY_FILE"),
        ({"engine": {"vllm": "0.19.1"}}, "not tried with vLLM 0.19.1"),
        ({"engine": {"extraArgs": ["--compilation-config={}"]}}, "--compilation-config"),
    ],
)
def test_live_that_can_not_be_had_stalls_with_the_reason(change: dict[str, Any], said: str) -> None:
    problem = live.problem(resolve(spec() | change, load()), steerable=bool(change))
    assert problem is not None
    assert problem.reason == "LiveUnavailable"
    assert said in str(problem)


def test_a_vllm_that_the_plug_in_mends_runs_with_the_runner_that_is_mended() -> None:
    def runner(version: str, accelerator: str) -> str | None:
        fields = {"engine": {"vllm": version}, "nodes": {"accelerator": accelerator}}
        found = live.environment("token", resolve(spec() | fields, load()))
        return found.get("VLLM_USE_V2_MODEL_RUNNER")

    assert runner("0.26.0", "Any") == "1"
    assert runner("0.32.0", "Any") is None, "its default is the right one"
    assert runner("0.26.0", "CPU") is None


def test_auto_takes_live_for_no_pair_that_was_not_tested() -> None:
    """Every version of the matrix and one beyond, on every device."""
    took = set()
    for version in [*(entry.version for entry in compat.RELEASES), "0.34.0"]:
        for accelerator in Accelerator:
            fields = {"engine": {"vllm": version}, "nodes": {"accelerator": str(accelerator)}}
            found = resolve(spec("Auto") | fields, load())
            if live.is_live(found, steerable=True):
                took.add((version, str(accelerator)))
    assert took == {("0.32.0", "CPU")}


def test_k_0_is_a_k_like_others_where_the_engine_was_started_for_more() -> None:
    assert live.is_live(resolved(k=0, mode="Fixed", kMax=4), steerable=True)
    assert not live.is_live(resolved(k=0, mode="Fixed", actuator="Auto"), steerable=True)


def test_adaptive_needs_live() -> None:
    problem = live.problem(resolved(actuator="Restart", mode="Adaptive"), steerable=True)
    assert problem is not None
    assert "use mode Rollback" in str(problem)
    assert live.problem(resolved(actuator="Auto", mode="Adaptive"), steerable=True) is None


def test_the_engine_is_started_for_every_k_of_the_grid() -> None:
    arguments = engine_arguments(resolved(), 4, live=True)
    config = json.loads(option(arguments, "--speculative-config"))
    assert config["num_speculative_tokens"] == 4
    assert sorted(k for _, _, k in config["num_speculative_tokens_per_batch_size"]) == [0, 1, 2, 4]
    assert option(arguments, "--scheduler-cls") == live.SCHEDULER
    assert "--compilation-config" not in arguments, "no graphs on a CPU"


def test_a_revision_depends_on_the_grid_and_not_on_the_k_of_the_moment() -> None:
    wide = resolved(mode="Adaptive", k=2, kMax=4)
    other = resolved(mode="Adaptive", k=3, kMax=4)
    secret = live.token(KEY, OWNER.uid)
    assert plan(OWNER, wide, 2, FILES, secret).revision == plan(OWNER, other, 0, FILES, secret).revision
    assert plan(OWNER, wide, 2, FILES, secret).revision != plan(OWNER, resolved(k=2), 2, FILES, secret).revision
    edited = plan(OWNER, resolved(mode="Fixed", k=1, kMax=4), 1, FILES, secret).revision
    assert edited == plan(OWNER, resolved(mode="Fixed", k=4, kMax=4), 4, FILES, secret).revision


def test_the_pod_holds_the_hash_of_the_token_and_never_the_token() -> None:
    secret = live.token(KEY, OWNER.uid)
    text = json.dumps(plan(OWNER, resolved(), 4, FILES, secret).deployment)
    assert secret not in text
    assert hashlib.sha256(secret.encode()).hexdigest() in text
    assert secret != live.token(KEY, "uid-2")


def test_liveness_is_by_tokens_with_the_agent_and_by_health_without() -> None:
    def probe(agent: str | None) -> dict[str, Any]:
        template = plan(OWNER, resolved(), 4, FILES, agent).deployment["spec"]["template"]
        found: dict[str, Any] = template["spec"]["containers"][0]["livenessProbe"]["httpGet"]
        return found

    assert probe("token") == {"path": "/livez", "port": "agent"}
    assert probe(None) == {"path": "/health?or=parked", "port": "http"}


def report(
    time: float = 100.0, k: int = 4, settings: Wanted | None = None, steps: dict[int, int] | None = None, **fields: Any
) -> Report:
    told: dict[str, Any] = {"live": True, "reason": "", "positions": ((1000, 900), (900, 800)), "requests": 9}
    return Report(
        time=time, k=k, settings=settings or Wanted("Rollback", 4, 0, 4), steps=steps or {}, **(told | fields)
    )


def observation(status: dict[str, Any], reports: tuple[Report, ...], body: dict[str, Any]) -> Observation:
    pod = Pod("p", "pod-1", "r", 4, "10.0.0.1", "n1", "Running", True, False, True, 0, live=True)
    return Observation(
        resource=Resource(OWNER, 1, False, body, status), now=200.0, pods=(pod,), agents={"pod-1": reports}
    )


def steered(status: dict[str, Any], reports: tuple[Report, ...], body: dict[str, Any]) -> list[Wanted]:
    settings = Settings(load(), FILES, key=KEY, live_files=FILES)
    decision = reconcile(observation(status, reports, body), settings)
    return [action.wanted for action in decision.actions if isinstance(action, Steer)]


def test_an_agent_with_other_settings_is_told_once_and_one_that_follows_is_left_alone() -> None:
    wanted = Wanted("Rollback", 4, 0, 4)
    assert steered({}, (report(settings=Wanted("Fixed", 4, 0, 4)),), spec()) == [wanted]
    assert steered({}, (report(settings=wanted),), spec()) == []
    assert steered({}, (), spec()) == [], "one that has not spoken is not steered blindly"
    assert steered({}, (report(settings=Wanted("Fixed", 4, 0, 4), live=False),), spec()) == []


def test_a_fault_takes_the_drafts_from_every_agent() -> None:
    body = spec()
    engine = reconcile(observation({}, (), body), Settings(load(), FILES, key=KEY, live_files=FILES)).status
    assert engine is not None
    fault = {**engine["control"], "fault": True, "changedAt": "1970-01-01T00:03:00Z"}
    status = {**engine, "control": fault, "k": {**engine["k"], "effective": 0}}
    rejected = report(k=4, positions=((300, 0),))
    assert steered(status, (rejected,), body) == [Wanted("Fixed", 0, 0, 4)]
    held = replace(rejected, settings=Wanted("Fixed", 4, 0, 4), until=3600.0)
    assert steered(status, (held,), body) == [Wanted("Fixed", 0, 0, 4)], "what was held for a while ends, too"


def test_a_revision_on_trial_is_judged_and_steered_by_its_own_agents() -> None:
    settings = Settings(load(), FILES, key=KEY, live_files=FILES)
    body = spec() | {"replicas": 2}
    first = reconcile(observation({}, (), body), settings).status
    assert first is not None
    kept = {"perPosition": [0.9, 0.9, 0.9, 0.9], "tokensPerStep": 4.1, "drafts": 2000}
    rollout = first["rollout"] | {"phase": "Analysing", "goodPin": "g", "keptAcceptance": kept}
    rollout["keptK"] = {"desired": 4, "effective": 4}
    status = {**first, "rollout": rollout, "lastGoodRevision": "old"}
    seen = observation(status, (), body)
    both = (("p1", first["revision"]), ("p0", "old"))
    pods = tuple(replace(seen.pods[0], uid=name, name=name, revision=revision) for name, revision in both)
    others = Wanted("Fixed", 4, 0, 4)

    def decide(positions: tuple[tuple[int, int], ...]) -> Decision:
        told = {"p1": (report(settings=others, positions=positions),), "p0": (report(settings=others),)}
        return reconcile(replace(seen, pods=pods, agents=told), settings)

    assert [action.pod.uid for action in decide(((1, 0),)).actions if isinstance(action, Steer)] == ["p1"]
    verdict = decide(((400, 0),)).status
    assert verdict is not None
    assert (verdict["rollout"]["phase"], verdict["rollout"]["reason"]) == ("RolledBack", "DraftRejected")
    assert verdict["k"]["effective"] == 4


def evidence(drafts: float, accepted: float, requests: float) -> Evidence:
    ever = Window(k=4, drafts=drafts, accepted=(accepted,), requests=requests)
    return Evidence(ever, ever, lambda: ever, lambda _: ever, ever, settled=True)


def watch(state: control.ControlState, seen: Evidence, running: tuple[int, str] | None, now: float) -> control.Change:
    return control.watch(resolved().control, state, "e", 4, seen, running, now)


def test_a_broken_drafter_is_a_fault_and_a_drop_after_proof_is_none() -> None:
    fresh = control.start("e", 4)
    broken = watch(fresh, evidence(300, 0, 5), (4, ""), 100.0)
    assert (broken.reason, broken.state.fault, broken.state.effective) == ("DraftRejected", True, 0)
    proved = watch(fresh, evidence(300, 200, 5), (4, ""), 100.0).state
    assert proved.proved
    assert watch(proved, evidence(9000, 10, 50), (0, "drafts do not pay"), 500.0).reason == ""


def test_the_published_k_follows_the_engines_at_most_once_a_minute() -> None:
    state = replace(control.start("e", 4), proved=True, changed_at=100.0)
    none = evidence(0, 0, 0)
    assert watch(state, none, (2, "why"), 130.0).state.effective == 4
    later = watch(state, none, (2, "why"), 161.0).state
    assert (later.effective, later.reason, later.changed_at) == (2, "why", 161.0)
    assert watch(later, none, (4, ""), 230.0).state.reason == ""
    assert watch(later, none, None, 900.0).state == later, "agents that do not speak change nothing"


def test_the_running_k_is_what_most_steps_verified() -> None:
    first, last = report(0, steps={4: 100}), report(50, k=1, steps={4: 130, 1: 500}, reason="prose")
    assert live.running_k([(first, last)]) == (1, "prose")
    assert live.running_k([(report(0, k=2),)]) == (2, "the agents in the engines chose it")
    assert live.running_k([(), ()]) is None


def test_conditional_rates_come_from_the_agents() -> None:
    first, last = report(0, positions=((0, 0), (0, 0))), report(60, positions=((1000, 800), (400, 100)))
    seen = live.unbiased(Window(k=4, drafts=1000.0, accepted=(800.0, 100.0)), [(first, last)])
    assert seen.conditional == (0.8, 0.25)
    assert live.unbiased(Window(k=4, drafts=10.0), []) == Window(k=4, drafts=10.0)


def test_a_status_is_read_strictly() -> None:
    told = {
        "live": True,
        "reason": "",
        "k": {"now": 2, "reason": "r", "mode": "Adaptive", "k": 4, "kMin": 0, "kMax": 4, "fallback": None},
        "acceptance": {"requests": 3, "positions": [{"drafted": 10, "accepted": 4, "recent": 0.4}]},
        "steps": {"perK": {"2": {"steps": 7}}},
        "engine": {"graphs": {"FULL": 7}},
    }
    read = parse_report(json.dumps(told).encode(), 5.0)
    wanted = Wanted("Adaptive", 4, 0, 4)
    assert read == Report(5.0, True, "r", 2, wanted, ((10, 4),), 3, {2: 7}, graphs={"FULL": 7}, recent=(0.4,))
    for broken in (b"", b"[]", b"<html>", json.dumps({**told, "k": {}}).encode()):
        with pytest.raises(ScrapeError):
            parse_report(broken, 5.0)


def published(
    status: dict[str, Any], now: float, agents: dict[str, tuple[Report, ...]], silent: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """``.status`` after a pass over two engines, pod-1 and pod-2."""
    pods = tuple(
        Pod(f"tiny-{n}", f"pod-{n}", "r", 4, f"10.0.0.{n}", "n1", "Running", True, False, True, 0, live=True)
        for n in (1, 2)
    )
    resource = Resource(OWNER, 1, False, spec(mode="Adaptive"), status)
    seen = Observation(resource, now, pods=pods, agents=agents, silent=silent)
    found = reconcile(seen, Settings(load(), FILES, key=KEY, live_files=FILES)).status
    assert found is not None
    return dict(found)


def ks(status: dict[str, Any]) -> list[tuple[str, int]]:
    return [(entry["pod"], entry["effective"]) for entry in status["k"].get("replicas", ())]


def test_k_is_told_of_each_engine_and_renewed_at_most_once_a_minute() -> None:
    told = {"pod-1": (report(190, k=4),)}
    status = published({}, 200.0, told)
    assert ks(status) == [("tiny-1", 4)], "of an engine whose agent has not spoken nothing is known"
    told["pod-2"] = (report(205, k=2),)
    status = published(status, 210.0, told)
    assert ks(status) == [("tiny-1", 4), ("tiny-2", 2)]
    told["pod-1"] = (report(225, k=0),)
    assert published(status, 230.0, told)["k"]["replicas"] == status["k"]["replicas"]
    later = published(status, 271.0, told)
    assert ks(later) == [("tiny-1", 0), ("tiny-2", 2)]
    assert published(later, 9999.0, {})["k"]["replicas"] == later["k"]["replicas"], "silence changes nothing"


def condition(status: dict[str, Any]) -> tuple[str, str, str]:
    found = next(entry for entry in status["conditions"] if entry["type"] == "SpeculationHealthy")
    return found["status"], found["reason"], found["message"]


def test_an_agent_that_fell_back_is_told_of_until_it_is_mended() -> None:
    failed = report(190, fallback="choose: ValueError: no K")
    status, reason, message = condition(published({}, 200.0, {"pod-1": (report(190),), "pod-2": (failed,)}))
    assert (status, reason) == ("False", "AgentFailed")
    assert "tiny-2" in message
    assert "choose: ValueError: no K" in message
    assert condition(published({}, 200.0, {"pod-1": (report(190),)}))[1] != "AgentFailed"


def test_an_agent_that_does_not_answer_is_told_of_and_moves_nothing() -> None:
    heard = {"pod-1": (report(190),), "pod-2": (report(80),)}
    before = published({}, 200.0, heard)
    after = published(before, 200.0, heard, silent=frozenset({"pod-2"}))
    status, reason, message = condition(after)
    assert (status, reason) == ("Unknown", "AgentSilent")
    assert "tiny-2" in message
    assert after["k"] == before["k"]
    assert condition(published(after, 210.0, {}))[1] == "AgentSilent", "an operator that has just started asked nobody"
    assert condition(published(before, 210.0, {}))[1] != "AgentSilent"
    assert condition(published(after, 210.0, heard))[1] != "AgentSilent"


GPU = {"nodes": {"accelerator": "Any"}, "engine": {"scheduling": {"enforceEager": False}}}


@pytest.mark.parametrize(
    ("change", "graphs", "told", "said"),
    [
        (GPU, {"FULL": 100, "PIECEWISE": 900}, False, "PIECEWISE"),
        (GPU, {"FULL": 10, "NONE": 600, "PIECEWISE": 300}, False, "NONE"),
        (GPU, {"FULL": 550, "NONE": 450}, False, ""),
        (GPU, {"FULL": 550, "NONE": 450}, True, "NONE"),
        (GPU, {"FULL": 700, "NONE": 300}, True, ""),
        (GPU, {"NONE": 100}, False, ""),
        (GPU, {}, False, ""),
        ({}, {"NONE": 1000}, False, ""),
        (GPU | {"engine": {"scheduling": {"enforceEager": True}}}, {"NONE": 1000}, False, ""),
    ],
)
def test_decode_steps_without_graphs_on_a_gpu_are_told(
    change: dict[str, Any], graphs: dict[str, int], told: bool, said: str
) -> None:
    pod = Pod("tiny-1", "pod-1", "r", 4, "10.0.0.1", "n1", "Running", True, False, True, 0, live=True)
    found = agenthealth.graphs_missing(
        resolve(spec() | change, load()), (pod,), {"pod-1": (report(graphs=graphs),)}, told
    )
    assert said in found
    assert bool(found) == bool(said)


def test_missing_graphs_become_a_condition() -> None:
    pod = Pod("tiny-1", "pod-1", "r", 4, "10.0.0.1", "n1", "Running", True, False, True, 0, live=True)
    eager = {"pod-1": (report(190, graphs={"NONE": 5000}),)}
    seen = Observation(Resource(OWNER, 1, False, spec() | GPU, {}), 200.0, pods=(pod,), agents=eager)
    status = reconcile(seen, Settings(load(), FILES, key=KEY, live_files=FILES)).status
    assert status is not None
    assert condition(dict(status))[:2] == ("False", "GraphsMissing")


def test_an_agent_that_may_not_move_k_is_told_of() -> None:
    refused = report(190, live=False, reason="the V2 model runner of vLLM 0.28.0 cannot follow a K schedule")
    status, reason, message = condition(published({}, 200.0, {"pod-1": (refused,)}))
    assert (status, reason) == ("False", "AgentOnlyWatches")
    assert message == f"the agent in tiny-1 only watches: {refused.reason}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": {"vllm": "0.28.0"}}, "not tested with vLLM 0.28.0 on cpu"),
        ({"nodes": {"accelerator": "GB10"}}, "not tested with vLLM 0.32.0 on NVIDIA GB10"),
        ({"nodes": {"accelerator": "Any"}}, "on a GPU that is not named"),
        ({"engine": {"vllm": "0.99.0"}}, "not tried with vLLM 0.99.0"),
        ({}, ""),
    ],
)
def test_the_status_says_why_auto_took_restart(change: dict[str, Any], said: str) -> None:
    body = spec("Auto") | change
    found = reconcile(observation({}, (), body), Settings(load(), FILES, key=KEY, live_files=FILES)).status
    assert found is not None
    told = found["k"].get("actuatorReason", "")
    assert said in told
    assert bool(said) == (found["k"]["actuator"] == "Restart")
