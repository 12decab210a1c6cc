"""``gemmaspec explain``: what a condition or a reason means and what to do, without a cluster."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from gemmaspec.cli import output as outputs
from gemmaspec.cli.conditions import CONDITIONS, Condition
from gemmaspec.cli.output import Output
from gemmaspec.cli.reasons import REASONS, Reason

Entry = TypeVar("Entry", Condition, Reason)


def _known(incomplete: str) -> list[str]:
    return sorted(name for name in {**CONDITIONS, **REASONS} if name.startswith(incomplete))


def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CONDITION|REASON",
            help="A condition, or the reason of a condition, event or termination message.",
            autocompletion=_known,
        ),
    ],
    output: Annotated[Output, typer.Option("--output", "-o", help="Format.")] = Output.TEXT,
) -> None:
    """Tell what a condition or a reason means and what to do."""
    condition, reason = _entry(CONDITIONS, name), _entry(REASONS, name)
    if condition is None and reason is None:
        typer.echo(f"{name} is no condition and no reason that this release gives{_hint(name)}", err=True)
        raise typer.Exit(2)
    if output is not Output.TEXT:
        told = {"condition": condition, "reason": reason}
        found = {kind: asdict(entry) for kind, entry in told.items() if entry is not None}
        outputs.write(found if condition is not None else found["reason"], output)
        return
    if condition is not None:
        _show_condition(condition)
    if reason is not None:
        _show(reason)


def _entry(known: Mapping[str, Entry], name: str) -> Entry | None:
    return {key.lower(): entry for key, entry in known.items()}.get(name.lower())


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, [*CONDITIONS, *REASONS], n=3, cutoff=0.4)
    if name.startswith("GemmaSpec"):
        return "; alerts are explained in docs/alerts.md"
    return f"; did you mean {' or '.join(near)}?" if near else ": docs/runbook.md lists all"


def _show_condition(entry: Condition) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{entry.name}[/bold]  [dim]condition; {entry.well} when all is well[/dim]")
    for status, meaning in (("True", entry.true), ("False", entry.false), ("Unknown", entry.unknown)):
        console.print(f"{status}: {meaning}", markup=False)
    console.print("Do: `gemmaspec status NAME` shows its reason, and `gemmaspec explain REASON` what to do.")


def _show(entry: Reason) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{entry.name}[/bold]  [dim]reason: {entry.group}[/dim]")
    console.print(entry.meaning, markup=False)
    if entry.remedy:
        console.print(f"Do: {entry.remedy}", markup=False)
