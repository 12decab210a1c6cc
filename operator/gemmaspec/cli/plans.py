"""``gemmaspec plan``: what a resource becomes, without a cluster."""

from __future__ import annotations

import json
import re
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from gemmaspec.adapters.files import engine_files
from gemmaspec.api import identity
from gemmaspec.core import names
from gemmaspec.core.plan import Owner, Plan, plan
from gemmaspec.core.problem import Stalling
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load

# The uid that the API server would give; objects of a plan are for reading and dry runs.
NO_UID = "00000000-0000-0000-0000-000000000000"
NUMERIC = re.compile(r"[-+.]?[0-9][0-9a-fA-FeEox_.+-]*$")


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml where it is: the engine files are text of some 200 kB, and it writes them twenty times as fast."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML quotes what YAML 1.1 would read as a number; kubectl reads 12e4567890 and 0764925533, which hashes may be.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if NUMERIC.match(text) else None)


Dumper.add_representer(str, _text)


class Output(StrEnum):
    """What to print."""

    ALL = "all"
    COMMAND = "command"
    OBJECTS = "objects"
    YAML = "yaml"
    JSON = "json"


def plan_file(
    file: Annotated[
        str, typer.Option("--file", "-f", help="File with GemmaSpecDeploy resources; - for standard input.")
    ],
    output: Annotated[
        Output,
        typer.Option("--output", "-o", help="Objects, the engine's command line, or both; objects for programs."),
    ] = Output.ALL,
) -> None:
    """Print the objects and the engine's command line that resources become. Needs no cluster."""
    failed = False
    found: list[dict[str, Any]] = []
    for document in _documents(file):
        try:
            resolved, planned = _plan(document)
        except Stalling as stalling:
            for problem in stalling.problems:
                typer.echo(f"{document['metadata']['name']}: {problem}", err=True)
            failed = True
            continue
        if output is Output.JSON:
            found += _objects(resolved, planned)
            continue
        if output in (Output.ALL, Output.COMMAND):
            prefix = "# " if output is Output.ALL else ""
            typer.echo(f"{prefix}{command_line(resolved, planned)}")
        if output is not Output.COMMAND:
            text = yaml.dump_all(_objects(resolved, planned), Dumper=Dumper, sort_keys=False, width=120)
            typer.echo(f"---\n{text}", nl=False)
    if output is Output.JSON:
        typer.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": found}, indent=2, ensure_ascii=False))
    if failed:
        raise typer.Exit(1)


def _documents(file: str) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document]
    except (OSError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{file} can't be read: {error}") from error
    found = [entry for entry in documents if isinstance(entry, dict) and entry.get("kind") == identity.KIND]
    if not found:
        raise typer.BadParameter(f"{file} holds no {identity.KIND}")
    return found


def _plan(document: dict[str, Any]) -> tuple[Resolved, Plan]:
    metadata = document.get("metadata") or {}
    owner = Owner(metadata.get("namespace") or "default", metadata.get("name", "unnamed"), NO_UID)
    resolved = resolve(document.get("spec") or {}, load())
    return resolved, plan(owner, resolved, resolved.k, engine_files())


def command_line(resolved: Resolved, planned: Plan) -> str:
    """The engine's start as one would type it."""
    containers = planned.deployment["spec"]["template"]["spec"]["containers"]
    engine = next(entry for entry in containers if entry["name"] == names.ENGINE_CONTAINER)
    variables = (resolved.spec.engine.env if resolved.spec.engine else None) or []
    shown = [f"{variable.name}={shlex.quote(variable.value)}" for variable in variables if variable.value is not None]
    return " ".join([*shown, "python3 -m vllm.entrypoints.openai.api_server", shlex.join(engine["args"])])


def _objects(resolved: Resolved, planned: Plan) -> list[dict[str, Any]]:
    deployment = planned.deployment
    wanted = {**deployment, "spec": {**deployment["spec"], "replicas": resolved.spec.replicas}}
    return [*planned.shared, planned.config, wanted]
