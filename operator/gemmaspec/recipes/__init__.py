"""Published recipes: one YAML file each, versioned, with what its source measured."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml

from gemmaspec.core.recipe import Recipe, Recipes


@cache
def load() -> Recipes:
    """Every recipe of this release by name. Raises ValueError for a file that is no recipe."""
    found: dict[str, Recipe] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".yaml"):
            continue
        recipe = Recipe.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        if file.name != f"{recipe.name}.yaml":
            raise ValueError(f"{file.name} holds the recipe {recipe.name!r}: name and file must agree")
        found[recipe.name] = recipe
    return found
