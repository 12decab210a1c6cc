"""Resolve a spec: the recipe's values below, the user's above, the defaults under both.

The stored spec never changes; the result is a value that the plan is a function of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gemmaspec.api import flags
from gemmaspec.api.spec import (
    DEFAULT_K_MAX,
    Accelerator,
    Actuator,
    GemmaSpecDeploySpec,
    Method,
    Mode,
    UtilizationMode,
)
from gemmaspec.core import labels, verification
from gemmaspec.core.problem import Problem, Stalling
from gemmaspec.core.recipe import Prior, Recipe, Recipes

DEFAULT_PORT = 8000
# A field of the recipe that means nothing beside another value of the field before it: a commit of another
# repository, a drafter for another method, a size of the KV cache that would silence a utilization.
DEPENDENT = {
    "model": (("target", "revision"),),
    "memory": (("utilization", "kvCacheBytes"), ("utilizationMode", "kvCacheBytes")),
    "speculative": (("method", "drafter"),),
    "speculative.drafter": (("model", "revision"),),
}
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
# Total memory of a GB10 node as its kernel reports it; `nvidia.com/gpu.memory` is absent there.
GB10_MEMORY_GIB = 121.7
# What most published GB10 recipes use; vLLM's own 0.9 leaves a unified-memory host too little.
DEFAULT_UTILIZATION = 0.85


@dataclass(frozen=True)
class ControlSettings:
    """Resolved ``speculative.control``. Times in seconds."""

    mode: Mode
    k_min: int
    k_max: int
    actuator: Actuator
    window_seconds: int
    min_drafts: int
    min_dwell_seconds: int
    min_gain: float
    hold_seconds: int
    max_hold_seconds: int


@dataclass(frozen=True)
class Resolved:
    """A spec that a plan can be made of: complete, and without contradictions that the schema can't see.

    given: what the user wrote, the recipe's values not merged in. asker: SHA-256 of the token by which the operator may
    ask engines that an API key closes; empty where none is needed, or the operator has no key.
    """

    spec: GemmaSpecDeploySpec
    recipe: Recipe | None
    target: str
    image: str
    method: Method
    k: int
    control: ControlSettings
    accelerator: Accelerator
    port: int
    given: Mapping[str, Any]
    asker: str = ""

    @property
    def vllm(self) -> tuple[int, ...] | None:
        """vLLM version as numbers, or None where the spec names none."""
        text = self.spec.engine.vllm if self.spec.engine else None
        return parse_version(text) if text else None

    @property
    def utilization(self) -> float | None:
        """Share of the device's memory that the engine plans with; None where vLLM's own default or Auto decides."""
        memory = self.spec.memory
        if memory and memory.utilization_mode is UtilizationMode.AUTO:
            return None
        if memory and memory.utilization is not None:
            return memory.utilization
        return DEFAULT_UTILIZATION if self.accelerator is Accelerator.GB10 else None

    @property
    def prior(self) -> Prior:
        """What the recipe's source measured; empty without a recipe."""
        return self.recipe.prior if self.recipe else Prior.model_validate({})


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``0.28.1rc2+cu130`` gives ``(0, 28, 1)``."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", text)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def resolve(spec: Mapping[str, Any], recipes: Recipes) -> Resolved:
    """Merge the recipe below the stored ``spec`` and fill in defaults.

    Raises Stalling with every problem found, when the result can't be run.
    """
    recipe = _recipe(spec, recipes)
    merged = overlay(recipe.spec, spec) if recipe else dict(spec)
    try:
        parsed = GemmaSpecDeploySpec.model_validate(merged)
    except ValidationError as error:
        raise Stalling(*_schema_problems(error)) from error
    problems = [*_missing(parsed, recipe), *_contradictions(parsed), *labels.problems(parsed)]
    if problems:
        raise Stalling(*problems)
    speculative, nodes = parsed.speculative, parsed.nodes
    assert parsed.model and parsed.model.target and parsed.engine and parsed.engine.image
    method = (speculative.method if speculative else None) or Method.OFF
    asked = speculative.k if speculative and speculative.k is not None else 0
    return Resolved(
        spec=parsed,
        recipe=recipe,
        target=parsed.model.target,
        image=parsed.engine.image,
        method=method,
        k=0 if method is Method.OFF else asked,
        control=_control(parsed),
        accelerator=(nodes.accelerator if nodes else None) or Accelerator.GB10,
        port=parsed.service.port or DEFAULT_PORT,
        given=spec,
    )


def overlay(base: Mapping[str, Any], top: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """``top`` over ``base``: maps merge, ``env`` merges by name, ``extraArgs`` by flag, all else is replaced."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        here = f"{path}.{key}" if path else key
        if here in ("nodes.selector", "model.chat.templateKwargs"):
            merged[key] = value  # a whole: half of another's selector selects nothing anybody meant
        elif isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = overlay(below, value, here)
        elif here == "engine.env" and below:
            names = {entry["name"] for entry in value}
            merged[key] = [entry for entry in below if entry["name"] not in names] + list(value)
        elif here == "engine.extraArgs" and below:
            mine = {flags.flag_of(item) for item in value}
            merged[key] = [item for item in below if flags.flag_of(item) not in mine] + list(value)
        else:
            merged[key] = value
    for owner, dependent in DEPENDENT.get(path, ()):
        if dependent in base and dependent not in top and owner in top and top[owner] != base.get(owner):
            merged.pop(dependent, None)
    return merged


def _recipe(spec: Mapping[str, Any], recipes: Recipes) -> Recipe | None:
    name = spec.get("recipe")
    if not name:
        return None
    if name not in recipes:
        known = ", ".join(sorted(recipes))
        problem = Problem("UnknownRecipe", "spec.recipe", f"no recipe is called {name!r}; choose one of: {known}")
        raise Stalling(problem)
    return recipes[name]


def _schema_problems(error: ValidationError) -> list[Problem]:
    return [
        Problem(
            "InvalidSpec",
            "spec." + ".".join(str(part) for part in entry["loc"]),
            f"{entry['msg']} (value {entry['input']!r})",
        )
        for entry in error.errors()[:5]
    ]


def _missing(spec: GemmaSpecDeploySpec, recipe: Recipe | None) -> list[Problem]:
    problems = []
    patched = {patch.module for patch in (spec.engine.patches if spec.engine else None) or ()}
    if recipe and recipe.patch_required and recipe.patch_required not in patched:
        message = (
            f"recipe {recipe.name} needs {recipe.patch_required} replaced, and vLLM's own files are not shipped with "
            f"recipes; add the patch with its sha256. {_first_note(recipe)}"
        )
        problems.append(Problem("PatchRequired", "spec.engine.patches", message))
    if not (spec.model and spec.model.target):
        problems.append(Problem("MissingField", "spec.model.target", "no target model; set it"))
    if not (spec.engine and spec.engine.image):
        hint = f"; {_first_note(recipe)}" if recipe and recipe.notes else ""
        problems.append(
            Problem("ImageRequired", "spec.engine.image", f"no engine image; set it as repository@sha256:…{hint}")
        )
    speculative = spec.speculative
    drafts = speculative is not None and speculative.method is not None and speculative.method.needs_drafter
    if speculative and drafts and not (speculative.drafter and speculative.drafter.model):
        problems.append(
            Problem(
                "MissingField",
                "spec.speculative.drafter.model",
                f"method {speculative.method} needs a draft model; set it, or set method: off",
            )
        )
    return problems


def _first_note(recipe: Recipe) -> str:
    """The note that says what the recipe's source ran; the others are for `gemmaspec recipes`."""
    return recipe.notes[0] if recipe.notes else ""


def _contradictions(spec: GemmaSpecDeploySpec) -> list[Problem]:
    """What only shows after the recipe was merged in."""
    problems = []
    speculative = spec.speculative
    control = _control(spec)
    if speculative and speculative.k is not None and speculative.k > control.k_max:
        problems.append(
            Problem(
                "InvalidSpec",
                "spec.speculative.k",
                f"{speculative.k} is above control.kMax {control.k_max}; lower k or raise control.kMax",
            )
        )
    if control.k_min > control.k_max:
        problems.append(
            Problem(
                "InvalidSpec",
                "spec.speculative.control.kMin",
                f"{control.k_min} is above control.kMax {control.k_max}; lower kMin or raise control.kMax",
            )
        )
    if speculative and speculative.k and speculative.k < control.k_min:
        problems.append(
            Problem(
                "InvalidSpec",
                "spec.speculative.k",
                f"{speculative.k} is below control.kMin {control.k_min}; raise k or lower control.kMin",
            )
        )
    if speculative and speculative.k and speculative.method is None:
        problems.append(
            Problem("MissingField", "spec.speculative.method", "k without a method; set mtp for Gemma 4 assistants")
        )
    accelerator = spec.nodes.accelerator if spec.nodes else None
    automatic = spec.memory is not None and spec.memory.utilization_mode is UtilizationMode.AUTO
    if automatic and accelerator is Accelerator.CPU:
        problems.append(
            Problem(
                "InvalidSpec",
                "spec.memory.utilizationMode",
                "'Auto' computes a share of GPU memory, and a CPU engine has none; remove it, and size the KV "
                "cache with memory.kvCacheBytes",
            )
        )
    problems += verification.problems(spec)
    engine = spec.engine
    if engine and engine.image and not DIGEST.search(engine.image) and not engine.allow_tag:
        problems.append(
            Problem(
                "ImageNotPinned",
                "spec.engine.image",
                f"{engine.image!r} is not pinned by digest; use repository@sha256:…, or set engine.allowTag: true",
            )
        )
    return problems


def _control(spec: GemmaSpecDeploySpec) -> ControlSettings:
    control = spec.speculative.control if spec.speculative else None
    recovery = control.recovery if control else None

    def given(owner: Any, name: str, default: Any) -> Any:
        value = getattr(owner, name) if owner is not None else None
        return default if value is None else value

    return ControlSettings(
        mode=given(control, "mode", Mode.ROLLBACK),
        k_min=given(control, "k_min", 0),
        k_max=given(control, "k_max", DEFAULT_K_MAX),
        actuator=given(control, "actuator", Actuator.AUTO),
        window_seconds=given(control, "window_seconds", 120),
        min_drafts=given(control, "min_drafts", 400),
        min_dwell_seconds=given(control, "min_dwell_seconds", 300),
        min_gain=given(control, "min_gain", 0.1),
        hold_seconds=given(recovery, "hold_seconds", 1800),
        max_hold_seconds=given(recovery, "max_hold_seconds", 86_400),
    )
