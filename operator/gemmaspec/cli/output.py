"""How a command writes its answer: text for people, JSON or YAML for programs."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml


class Output(StrEnum):
    """How the answer is written."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Format.")]


def write(answer: Any, output: Output) -> None:
    """Print an answer for programs."""
    if output is Output.JSON:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(answer, sort_keys=False, allow_unicode=True, width=120), nl=False)
