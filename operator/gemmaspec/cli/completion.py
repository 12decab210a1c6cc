"""Completion: names of resources, and the program by which kubectl completes the plugin's words."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from typing import TYPE_CHECKING, Final

import typer

from gemmaspec.cli.access import Access, Unanswered

if TYPE_CHECKING:
    from gemmaspec.adapters.reader import Reader

# Whoever presses Tab does not wait longer.
NAMES_SECONDS: Final = 5.0
PROGRAM: Final = "gemmaspec"
# What kubectl's completion (cobra's) reads after the candidates: they are not names of files.
_NO_FILES: Final = ":4"


def names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the resources in the namespace that the words before name; none where the cluster does not tell."""
    words = context.params
    access = Access(words.get("namespace"), words.get("context"), words.get("kubeconfig"))

    async def question(reader: Reader, where: str) -> list[str]:
        return [resource["metadata"]["name"] for resource in await reader.resources(where)]

    async def in_time() -> list[str]:
        return await asyncio.wait_for(access.answer(question), NAMES_SECONDS)

    try:
        return [name for name in asyncio.run(in_time()) if name.startswith(incomplete)]
    except (Unanswered, TimeoutError):
        return []


def kubectl() -> None:
    """``kubectl_complete-gemmaspec WORD...``: candidates for the last word, as kubectl's completion asks for them."""
    from gemmaspec.cli.main import app

    words = [PROGRAM, *sys.argv[1:]]
    # Typer's own interface to bash.
    os.environ |= {
        f"_{PROGRAM.upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    try:
        app(args=[], prog_name=PROGRAM)
    finally:
        typer.echo(f"\n{_NO_FILES}")
