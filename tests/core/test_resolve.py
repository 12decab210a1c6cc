"""A recipe below, the user's spec above: who wins, and that nothing but Stalling ever comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmaspec.api import crd
from gemmaspec.api.spec import GemmaSpecDeploySpec, Method, Mode
from gemmaspec.core.plan import Owner, plan
from gemmaspec.core.problem import Stalling
from gemmaspec.core.recipe import Recipe
from gemmaspec.core.resolve import DEFAULT_PORT, Resolved, overlay, resolve
from gemmaspec.recipes import load
from tests.simulated.schema import values

IMAGE = "vllm/vllm-openai@sha256:" + "a" * 64
RECIPE: dict[str, Any] = {
    "model": {"target": "org/target", "revision": "abc", "chat": {"templateKwargs": {"a": 1, "b": 2}}},
    "engine": {
        "image": IMAGE,
        "vllm": "0.28.0",
        "scheduling": {"maxNumSeqs": 4, "prefixCaching": True},
        "extraArgs": ["--seed=1", "--async-scheduling", "--block-size=16"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    },
    "speculative": {"method": "mtp", "drafter": {"model": "org/drafter", "revision": "def"}, "k": 4},
    "nodes": {"selector": {"a": "1"}, "accelerator": "GB10"},
}
RECIPES = {"one": Recipe(name="one", version=3, summary="", spec=RECIPE)}


def resolved(**spec: Any) -> Resolved:
    return resolve({"recipe": "one", **spec}, RECIPES)


def refused(spec: dict[str, Any]) -> list[tuple[str, str, str]]:
    with pytest.raises(Stalling) as stalling:
        resolve(spec, RECIPES)
    return [(problem.reason, problem.field, problem.message) for problem in stalling.value.problems]


def test_a_recipe_alone() -> None:
    found = resolved()
    assert (found.target, found.image, found.method, found.k) == ("org/target", IMAGE, Method.MTP, 4)
    assert (found.port, found.control.mode, found.control.k_max) == (DEFAULT_PORT, Mode.ROLLBACK, 8)
    assert found.recipe is RECIPES["one"]
    assert found.vllm == (0, 28, 0)


def test_explicit_values_win_field_by_field() -> None:
    found = resolved(engine={"scheduling": {"maxNumSeqs": 1, "enforceEager": True}}, speculative={"k": 2})
    scheduling = found.spec.engine.scheduling if found.spec.engine else None
    assert scheduling is not None
    assert (scheduling.max_num_seqs, scheduling.prefix_caching, scheduling.enforce_eager) == (1, True, True)
    assert (found.k, found.method) == (2, Method.MTP)


@pytest.mark.parametrize("k", [0, 4, 8])
def test_an_explicit_zero_is_a_value(k: int) -> None:
    assert resolved(speculative={"k": k}).k == k


def test_env_merges_by_name() -> None:
    mine = [{"name": "B", "value": "mine"}, {"name": "C", "value": "3"}]
    merged = overlay(RECIPE, {"engine": {"env": mine}})
    assert merged["engine"]["env"] == [{"name": "A", "value": "1"}, *mine]


@pytest.mark.parametrize(
    ("mine", "left"),
    [
        (["--seed=2"], ["--async-scheduling", "--block-size=16", "--seed=2"]),
        (["--block_size=32"], ["--seed=1", "--async-scheduling", "--block_size=32"]),
        (["--max-logprobs=1"], ["--seed=1", "--async-scheduling", "--block-size=16", "--max-logprobs=1"]),
        ([], ["--seed=1", "--async-scheduling", "--block-size=16"]),
    ],
)
def test_extra_arguments_merge_by_flag(mine: list[str], left: list[str]) -> None:
    assert overlay(RECIPE, {"engine": {"extraArgs": mine}})["engine"]["extraArgs"] == left


def test_a_utilization_of_the_users_is_not_silenced_by_the_recipes_kv_cache() -> None:
    base = {"memory": {"kvCacheBytes": 8, "reserveGiB": 1}}
    assert overlay(base, {"memory": {"utilization": 0.5}})["memory"] == {"reserveGiB": 1, "utilization": 0.5}
    assert overlay(base, {"memory": {"utilizationMode": "Fixed", "utilization": 0.5}})["memory"].keys() == {
        "reserveGiB",
        "utilization",
        "utilizationMode",
    }
    both = {"utilization": 0.5, "kvCacheBytes": 9}
    assert overlay(base, {"memory": both})["memory"] == {"reserveGiB": 1, **both}


def test_a_selector_and_template_arguments_are_wholes() -> None:
    merged = overlay(RECIPE, {"nodes": {"selector": {"b": "2"}}, "model": {"chat": {"templateKwargs": {"c": 3}}}})
    assert merged["nodes"] == {"selector": {"b": "2"}, "accelerator": "GB10"}
    assert merged["model"]["chat"]["templateKwargs"] == {"c": 3}


@pytest.mark.parametrize("method", ["off", "ngram", "suffix"])
def test_methods_without_a_drafter_drop_the_recipes(method: str) -> None:
    found = resolved(speculative={"method": method})
    assert found.spec.speculative is not None
    assert found.spec.speculative.drafter is None
    assert found.k == (0 if method == "off" else 4)


def test_another_method_needs_a_drafter_of_its_own() -> None:
    assert refused({"recipe": "one", "speculative": {"method": "eagle3"}}) == [
        (
            "MissingField",
            "spec.speculative.drafter.model",
            "method eagle3 needs a draft model; set it, or set method: off",
        )
    ]
    found = resolved(speculative={"method": "dflash", "drafter": {"model": "other"}})
    assert found.spec.speculative and found.spec.speculative.drafter
    assert (found.spec.speculative.drafter.model, found.spec.speculative.drafter.revision) == ("other", None)


def test_a_commit_belongs_to_its_repository() -> None:
    assert overlay(RECIPE, {"model": {"target": "mine"}})["model"].get("revision") is None
    assert overlay(RECIPE, {"model": {"target": "org/target"}})["model"]["revision"] == "abc"
    assert overlay(RECIPE, {"model": {"target": "mine", "revision": "x"}})["model"]["revision"] == "x"
    assert overlay(RECIPE, {"model": {"revision": "x"}})["model"] == {**RECIPE["model"], "revision": "x"}


def test_an_unknown_recipe_names_the_known() -> None:
    assert refused({"recipe": "two"}) == [
        ("UnknownRecipe", "spec.recipe", "no recipe is called 'two'; choose one of: one")
    ]


@pytest.mark.parametrize(
    ("spec", "reason", "field", "said"),
    [
        ({}, "MissingField", "spec.model.target", "no target model"),
        ({"model": {"target": "m"}}, "ImageRequired", "spec.engine.image", "repository@sha256"),
        ({"recipe": "one", "engine": {"image": "a:b"}}, "ImageNotPinned", "spec.engine.image", "allowTag: true"),
        ({"recipe": "one", "speculative": {"k": 9}}, "InvalidSpec", "spec.speculative.k", "9 is above control.kMax 8"),
        (
            {"recipe": "one", "speculative": {"control": {"kMax": 3}}},
            "InvalidSpec",
            "spec.speculative.k",
            "4 is above control.kMax 3",
        ),
        (
            {"recipe": "one", "speculative": {"control": {"kMin": 5}}},
            "InvalidSpec",
            "spec.speculative.k",
            "4 is below control.kMin 5",
        ),
        (
            {"recipe": "one", "speculative": {"control": {"kMin": 9}}},
            "InvalidSpec",
            "spec.speculative.control.kMin",
            "9 is above control.kMax 8",
        ),
        (
            {"recipe": "one", "memory": {"utilizationMode": "Auto"}, "nodes": {"accelerator": "CPU"}},
            "InvalidSpec",
            "spec.memory.utilizationMode",
            "a CPU engine has none",
        ),
        ({"recipe": "one", "replicas": -1}, "InvalidSpec", "spec.replicas", "-1"),
        ({"recipe": "one", "model": {"target": " "}}, "InvalidSpec", "spec.model.target", "' '"),
        ({"recipe": "one", "speculative": {"method": "guess"}}, "InvalidSpec", "spec.speculative.method", "'guess'"),
    ],
)
def test_what_only_shows_after_the_merge(spec: dict[str, Any], reason: str, field: str, said: str) -> None:
    found = refused(spec)
    assert (reason, field) in [(problem[0], problem[1]) for problem in found]
    assert any(said in problem[2] for problem in found)


def test_all_problems_are_told_at_once() -> None:
    assert len(refused({"speculative": {"method": "mtp", "k": 4}})) == 3


def test_a_published_recipe_with_nothing_else_resolves_or_says_what_it_needs() -> None:
    for name in load():
        assert reasons({"recipe": name}) <= {"ImageRequired", "ImageNotPinned", "PatchRequired"}, name


def reasons(spec: dict[str, Any]) -> set[str]:
    """Why a spec stalls; nothing where it does not."""
    try:
        found = resolve(spec, {**load(), **RECIPES})
    except Stalling as stalling:
        return {problem.reason for problem in stalling.problems}
    owner = Owner("ns", "name", "uid")
    planned = plan(owner, found, found.k, {})
    return set() if planned == plan(owner, found, found.k, {}) else {"two plans differ"}


SPEC = crd.structural(GemmaSpecDeploySpec)
PARTS = {name: values(SPEC["properties"][name]) for name in SPEC["properties"] if name != "recipe"}
SPECS = st.fixed_dictionaries({}, optional={**PARTS, "recipe": st.sampled_from([*load(), "one", "none-such"])})


@given(SPECS)
@settings(max_examples=150)
def test_nothing_but_stalling_comes_out(spec: dict[str, Any]) -> None:
    known = {"InvalidSpec", "MissingField", "UnknownRecipe", "ImageRequired", "ImageNotPinned", "PatchRequired"}
    assert reasons(spec) <= known | {"EngineModeUnavailable"}


COMPLETE = {"model": {"target": "m"}, "engine": {"image": IMAGE}}


@given(SPECS)
@settings(max_examples=100)
def test_nothing_but_stalling_comes_out_of_a_complete_spec(spec: dict[str, Any]) -> None:
    """Like the above, with what most draws lack: the plan is then reached."""
    spec = spec | {"recipe": "one"}
    spec["engine"] = spec.get("engine", {}) | COMPLETE["engine"]
    spec.pop("speculative", None)
    assert reasons(spec) <= {"InvalidSpec", "ImageNotPinned"}


@given(SPECS)
@settings(max_examples=60)
def test_overlay_is_idempotent_and_keeps_what_is_explicit(spec: dict[str, Any]) -> None:
    once = overlay(RECIPE, spec)
    assert overlay(once, spec) == once
    assert overlay(RECIPE, {}) == RECIPE
    assert overlay({}, spec) == spec
    for name in ("memory", "cache", "rollout", "service"):
        if name in spec:
            assert once[name] == spec[name]
