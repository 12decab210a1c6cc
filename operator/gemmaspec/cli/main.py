"""``gemmaspec``: the command line, also found by kubectl as ``kubectl gemmaspec``."""

from __future__ import annotations

from typing import Annotated

import typer

from gemmaspec import __version__
from gemmaspec.cli import doctor, explain, lookup, plans, published, setk, top
from gemmaspec.cli.bench import verb as bench

app = typer.Typer(
    name="gemmaspec",
    help="Gemma 4 with speculative decoding on GB10 nodes: see what runs and why, plan, read recipes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("status")(lookup.status)
app.command("history")(lookup.history)
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.command("set-k")(setk.set_k)
app.command("plan")(plans.plan_file)
app.command("recipes")(published.recipes)
app.command("explain")(explain.explain)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Gemma 4 with speculative decoding on GB10 nodes."""
    del version


if __name__ == "__main__":
    app()
