"""A recipe: a published, versioned set of defaults, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from gemmaspec.api.schema import Model


class Prior(Model):
    """What the recipe's source measured; where judging starts before this engine has told its own figures."""

    acceptance: tuple[float, ...] = Field((), description="Conditional acceptance by position, from 0.")
    step_milliseconds: dict[int, float] = Field(
        default_factory=dict, description="Time of one step by K at one running request."
    )


class Recipe(Model):
    """A set of defaults for ``spec``, where it comes from, and what its source measured."""

    name: str
    version: int
    summary: str
    source: str = ""
    notes: tuple[str, ...] = ()
    image_required: bool = Field(False, description="The source's image is under no digest that can be named.")
    patch_required: str = Field("", description="Module that the source replaces in the image; empty for none.")
    spec: dict[str, Any]
    prior: Prior = Field(default_factory=lambda: Prior.model_validate({}))
    figures: dict[str, float] = Field(default_factory=dict, description="Tokens per second that the source reports.")


Recipes = Mapping[str, Recipe]
