"""Mode Engine: vLLM's own adaptive verification, where a vLLM has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemmaspec.core import live
from gemmaspec.core.arguments import engine_arguments
from gemmaspec.core.problem import Stalling
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load

SPEC: dict[str, Any] = {
    "model": {"target": "google/gemma-4-31B-it"},
    "engine": {"image": "r@sha256:" + "a" * 64, "vllm": "0.32.0"},
    "speculative": {"method": "mtp", "drafter": {"model": "d/d"}, "k": 4, "control": {"mode": "Engine"}},
    "nodes": {"accelerator": "Any"},
}


def resolved(**change: Any) -> Resolved:
    merged = {key: {**SPEC[key], **change.get(key, {})} for key in SPEC}
    return resolve(merged, load())


def config(found: Resolved) -> dict[str, Any]:
    arguments = engine_arguments(found, found.k)
    return dict(json.loads(arguments[arguments.index("--speculative-config") + 1]))


def test_vllm_is_told_and_no_agent_comes_along() -> None:
    found = resolved()
    assert config(found)["enable_adaptive_verification"] is True
    assert config(found)["num_speculative_tokens"] == 4
    assert not live.is_live(found, steerable=True)
    assert live.problem(found, steerable=True) is None


def test_other_modes_do_not_mention_it() -> None:
    speculative = {**SPEC["speculative"], "control": {"mode": "Fixed"}}
    assert "enable_adaptive_verification" not in config(resolved(speculative=speculative))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": {"vllm": "0.29.1"}}, "since 0.30, and this is 0.29.1"),
        ({"engine": {"vllm": None}}, "spec.engine.vllm"),
        ({"speculative": {"method": "ngram", "drafter": None}}, "this is ngram"),
        ({"engine": {"scheduling": {"enforceEager": True}}}, "enforceEager is set"),
        ({"nodes": {"accelerator": "CPU"}}, "a CPU has none"),
        ({"speculative": {"control": {"mode": "Engine", "actuator": "Live"}}}, "choose one of them"),
    ],
)
def test_where_it_can_not_be_had_the_spec_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Stalling) as stalling:
        resolved(**change)
    (problem,) = stalling.value.problems
    assert (problem.reason, problem.field) == ("EngineModeUnavailable", "spec.speculative.control.mode")
    assert said in str(problem)
