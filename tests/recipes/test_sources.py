"""Each recipe against its source's own command line, argument by argument."""

import json
import shlex
from pathlib import Path

import pytest

from gemmaspec.core.arguments import engine_arguments
from gemmaspec.core.pod import environment
from gemmaspec.core.problem import Stalling
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load

DATA = Path(__file__).parents[1] / "data" / "recipes"
SOURCES = sorted(path.stem for path in DATA.glob("*.args"))
DIGEST = "registry.example/vllm@sha256:" + "a" * 64
PATCH = {
    "module": "vllm.model_executor.models.gemma4_mtp",
    "sha256": "b" * 64,
    "source": {"url": "https://files.example/gemma4_mtp.py"},
}

# Where a recipe departs from its source's letters, and why.
DEPARTURES = {
    ("gemma4-31b-nvfp4-gptq", "model"): "google/gemma-4-31B-it-assistant",  # the source misspells the repository
    ("gemma4-31b-int4-autoround", "method"): "mtp",  # gemma4_mtp is what the pull request called it
}
# What the operator adds to every engine.
OURS = {"--host": "0.0.0.0", "--port": "8000", "--shutdown-timeout": "30"}


def options(tokens: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    name = "--model"
    for token in tokens:
        if token.startswith("--"):
            name, _, value = token.partition("=")
            assert name not in found, f"{name} is given twice"
            found[name] = value or None
        else:
            found[name] = token
    return found


def resolved(name: str) -> Resolved:
    return resolve({"recipe": name, "engine": {"image": DIGEST, "patches": [PATCH]}}, load())


@pytest.mark.parametrize("name", SOURCES)
def test_recipe_equals_its_source(name: str) -> None:
    source = options(shlex.split((DATA / f"{name}.args").read_text()))
    recipe = resolved(name)
    ours = options(engine_arguments(recipe, recipe.k))

    said = json.loads(str(source.pop("--speculative-config")))
    for key in said:
        said[key] = DEPARTURES.get((name, key), said[key])
    assert json.loads(str(ours.pop("--speculative-config"))) == said

    for flag in ("--default-chat-template-kwargs",):
        if flag in source:
            assert json.loads(str(ours.pop(flag))) == json.loads(str(source.pop(flag)))
    assert ours == OURS | source


def test_every_published_recipe_has_its_source() -> None:
    roots = {name for name in load() if name.rsplit("-", 1)[-1] not in ("nomtp", "dflash", "modern")}
    assert roots - {"tiny-cpu"} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_recipe_says_where_it_is_from_and_what_was_measured(name: str) -> None:
    recipe = load()[name]
    assert recipe.source
    assert recipe.notes
    assert recipe.figures["tokensPerSecondWith"] > recipe.figures["tokensPerSecondWithout"] > 0
    assert 0 < min(recipe.prior.acceptance) <= max(recipe.prior.acceptance) < 1
    assert {0, recipe.spec["speculative"]["k"]} <= recipe.prior.step_milliseconds.keys()


def test_environment_of_the_nvfp4_source() -> None:
    variables = {entry["name"]: entry.get("value") for entry in environment(resolved("gemma4-26b-nvfp4"))}
    assert variables["TORCH_CUDA_ARCH_LIST"] == "12.1a"
    assert variables["VLLM_SKIP_P2P_CHECK"] == "1"
    assert variables["FLASHINFER_JIT_LOG_LEVEL"] == "ERROR"
    assert "--moe-backend" not in engine_arguments(resolved("gemma4-26b-nvfp4"), 4)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("suffix", ["nomtp", "dflash", "modern"])
def test_variants_differ_in_what_they_are_about_only(name: str, suffix: str) -> None:
    base, variant = resolved(name), resolved(f"{name}-{suffix}")
    ours = options(engine_arguments(variant, variant.k))
    theirs = options(engine_arguments(base, base.k))
    drafts = ours.pop("--speculative-config", None)
    theirs.pop("--speculative-config")
    backend = ours.pop("--attention-backend", None)
    assert ours == theirs
    if suffix == "nomtp":
        assert (drafts, variant.k) == (None, 0)
    elif suffix == "dflash":
        config = json.loads(str(drafts))
        assert config["method"] == "dflash"
        assert config["model"].startswith("z-lab/")
        assert backend == "triton_attn"  # FlashAttention 4 leaves out GB10's SM 12.1
        assert variant.prior.acceptance == ()  # another drafter's acceptance says nothing
    else:
        assert variant.recipe is not None
        assert not variant.recipe.patch_required
        assert variant.vllm is not None
        assert variant.vllm >= (0, 28)


@pytest.mark.parametrize("name", sorted(load()))
def test_what_the_user_must_add_is_asked_for(name: str) -> None:
    recipe = load()[name]
    if name == "tiny-cpu":
        assert resolve({"recipe": name}, load()).k == 4
        return
    with pytest.raises(Stalling) as stalling:
        resolve({"recipe": name}, load())
    reasons = {problem.reason for problem in stalling.value.problems}
    assert ("ImageRequired" in reasons) == recipe.image_required
    assert ("PatchRequired" in reasons) == bool(recipe.patch_required)
    assert reasons <= {"ImageRequired", "PatchRequired", "ImageNotPinned"}
    assert all(problem.field and len(str(problem)) > 40 for problem in stalling.value.problems)


def test_the_misspelt_drafter_is_told() -> None:
    notes = " ".join(load()["gemma4-31b-nvfp4-gptq"].notes)
    assert "google/gemma4-31b-it-assistant" in notes
    assert "google/gemma-4-31B-it-assistant" in notes
