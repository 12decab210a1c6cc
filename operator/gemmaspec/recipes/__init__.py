"""Published recipes: one YAML file each, versioned, with what its source measured.

A file may hold ``variants``: the same recipe without speculation (``-nomtp``), with the rival drafter
(``-dflash``), on a current release (``-modern``). A variant's ``replace`` stands for whole parts of the spec, its
``spec`` is merged over the recipe's (null removes a field), and its other keys replace the recipe's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from gemmaspec.core.recipe import Recipe, Recipes

_SUMMARY = {
    "nomtp": "the baseline without speculation",
    "dflash": "with the DFlash drafter of z-lab",
    "modern": "on a current vLLM release, without patches",
}


@cache
def load() -> Recipes:
    """Every recipe of this release by name. Raises ValueError for a file that is no recipe."""
    found: dict[str, Recipe] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".yaml"):
            continue
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        if file.name != f"{raw['name']}.yaml":
            raise ValueError(f"{file.name} holds the recipe {raw['name']!r}: name and file must agree")
        for recipe in expand(raw):
            found[recipe.name] = recipe
    return found


def expand(raw: Mapping[str, Any]) -> Iterator[Recipe]:
    """The recipe of a file, and its variants."""
    base = {key: value for key, value in raw.items() if key != "variants"}
    yield Recipe.model_validate(base)
    for suffix, change in (raw.get("variants") or {}).items():
        own = {key: value for key, value in change.items() if key not in ("replace", "spec", "notes")}
        spec = merged({**base["spec"], **change.get("replace", {})}, change.get("spec", {}))
        if "speculative" in change.get("replace", {}):
            own = {**_of_the_target(base), **own}
        yield Recipe.model_validate(
            {
                **base,
                **own,
                "name": f"{base['name']}-{suffix}",
                "summary": f"{base['summary'].rstrip('.')}; {_SUMMARY[suffix]}.",
                "notes": change.get("notes") or base.get("notes", ()),
                "spec": spec,
            }
        )


def _of_the_target(base: Mapping[str, Any]) -> dict[str, Any]:
    """What the source measured that holds for another drafter too: the time of a step without speculation."""
    times = base.get("prior", {}).get("stepMilliseconds", {})
    figures = base.get("figures", {})
    return {
        "prior": {"stepMilliseconds": {0: times[0]}} if 0 in times else {},
        "figures": {key: value for key, value in figures.items() if key == "tokensPerSecondWithout"},
    }


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``; lists add up, null removes."""
    result = dict(base)
    for key, value in top.items():
        below = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        elif isinstance(value, list) and isinstance(below, list):
            result[key] = [*below, *value]
        else:
            result[key] = value
    return result
