"""``gemmaspec explain``: what a reason means and what to do, without a cluster."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from gemmaspec.cli import output as outputs
from gemmaspec.cli.output import Output
from gemmaspec.cli.reasons import REASONS, Reason


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
    if output is Output.TEXT:
        _show(found)
    else:
        outputs.write(asdict(found), output)


def _show(entry: Reason) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{entry.name}[/bold]  [dim]{entry.group}[/dim]")
    console.print(entry.meaning, markup=False)
    if entry.remedy:
        console.print(f"Do: {entry.remedy}", markup=False)
