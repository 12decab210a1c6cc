"""``gemmaspec recipes``: what is published, where it comes from, what its source measured."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
import yaml

from gemmaspec.core.recipe import Recipe
from gemmaspec.recipes import load


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def _names(incomplete: str) -> list[str]:
    return sorted(name for name in load() if name.startswith(incomplete))


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Recipe to explain; without it all are listed.", autocompletion=_names)
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print.")] = Format.TABLE,
) -> None:
    """List the published recipes, or explain one."""
    found = load()
    if name is not None and name not in found:
        raise typer.BadParameter(f"no recipe is called {name!r}; choose one of: {', '.join(sorted(found))}")
    chosen = [found[name]] if name else list(found.values())
    if output is Format.JSON:
        typer.echo(json.dumps([recipe.model_dump(mode="json", by_alias=True) for recipe in chosen], indent=2))
    elif output is Format.YAML or name:
        typer.echo(explain(chosen[0]) if name and output is Format.TABLE else _yaml(chosen), nl=False)
    else:
        _table(chosen)


def explain(recipe: Recipe) -> str:
    """One recipe in full."""
    needs = []
    if recipe.image_required:
        needs.append("engine.image")
    if recipe.patch_required:
        needs.append(f"engine.patches with {recipe.patch_required}")
    head = [
        f"{recipe.name} (version {recipe.version})",
        recipe.summary,
        f"source: {recipe.source}",
        f"you add: {', '.join(needs) or 'nothing'}",
        *(f"note: {note}" for note in recipe.notes),
    ]
    body = recipe.model_dump(mode="json", by_alias=True, include={"spec", "prior", "figures"}, exclude_defaults=True)
    return "\n".join(head) + "\n\n" + yaml.safe_dump(body, sort_keys=False, width=120)


def _yaml(chosen: list[Recipe]) -> str:
    return yaml.safe_dump_all(
        [recipe.model_dump(mode="json", by_alias=True) for recipe in chosen], sort_keys=False, width=120
    )


def _table(chosen: list[Recipe]) -> None:
    from rich.console import Console  # a tenth of a second that no other command has to spend
    from rich.table import Table

    table = Table("recipe", "K", "you add", "summary", box=None, header_style="bold", pad_edge=False)
    for recipe in chosen:
        needs = ["image"] * recipe.image_required + ["patch"] * bool(recipe.patch_required)
        k = (recipe.spec.get("speculative") or {}).get("k", 0)
        table.add_row(recipe.name, str(k), ", ".join(needs) or "–", recipe.summary)
    Console().print(table)
