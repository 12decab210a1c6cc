"""``gemmaspec explain``: what a reason means and what to do, without a cluster."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
import yaml
from rich.console import Console

from gemmaspec.cli.reasons import REASONS, Reason


class Output(StrEnum):
    """How the answer is written."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


def explain(
    reason: Annotated[str, typer.Argument(help="Reason of a condition, event or termination message.")],
    output: Annotated[Output, typer.Option("--output", "-o", help="Format.")] = Output.TEXT,
) -> None:
    """Tell what a reason means and what to do."""
    found = {name.lower(): entry for name, entry in REASONS.items()}.get(reason.lower())
    if found is None:
        near = difflib.get_close_matches(reason, REASONS, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ": docs/runbook.md lists all"
        typer.echo(f"REASON: {reason} is none that this release gives{hint}", err=True)
        raise typer.Exit(2)
    if output is Output.JSON:
        typer.echo(json.dumps(asdict(found), indent=2))
    elif output is Output.YAML:
        typer.echo(yaml.safe_dump(asdict(found), sort_keys=False), nl=False)
    else:
        _show(found)


def _show(entry: Reason) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{entry.name}[/bold]  [dim]{entry.group}[/dim]")
    console.print(entry.meaning, markup=False)
    if entry.remedy:
        console.print(f"Do: {entry.remedy}", markup=False)
