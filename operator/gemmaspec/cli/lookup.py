"""``gemmaspec status`` and ``gemmaspec history``: one resource."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemmaspec.cli import completion, enginepod
from gemmaspec.cli import output as outputs
from gemmaspec.cli.access import Access, ContextOption, KubeconfigOption, NamespaceOption
from gemmaspec.cli.output import Output, OutputOption

if TYPE_CHECKING:
    from gemmaspec.adapters.reader import Reader

NameArgument = Annotated[str, typer.Argument(help="Name of the GemmaSpecDeploy.", autocompletion=completion.names)]


def status(
    name: NameArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one resource: pods, K and why, acceptance, speed, conditions, the last decisions."""

    async def question(reader: Reader, where: str) -> tuple[dict[str, Any], list[dict[str, Any]] | None]:
        return await reader.resource(where, name), await reader.pods(where, name)

    resource, pods = Access(namespace, context, kubeconfig).ask(question)
    engines = None if pods is None else enginepod.read(pods, resource.get("status") or {})
    if output is not Output.TEXT:
        answer = {**identity_of(resource), "status": resource.get("status") or {}}
        outputs.write({**answer, "pods": None if engines is None else [asdict(pod) for pod in engines]}, output)
        return
    from rich.console import Console

    from gemmaspec.cli.screen import screen

    console = Console(highlight=False)
    console.print(screen(resource, engines, time.time(), console.width))


def history(
    name: NameArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the decisions that were taken about one resource, oldest first (the status keeps 20)."""

    async def question(reader: Reader, where: str) -> dict[str, Any]:
        return await reader.resource(where, name)

    resource = Access(namespace, context, kubeconfig).ask(question)
    entries = (resource.get("status") or {}).get("history") or []
    if output is not Output.TEXT:
        outputs.write(entries, output)
    elif not entries:
        typer.echo("No decision was taken yet: K is as asked for, and no revision was judged.")
    else:
        from rich.console import Console

        from gemmaspec.cli.screen import decisions

        Console(highlight=False).print(decisions(entries, time.time()))


def identity_of(resource: dict[str, Any]) -> dict[str, Any]:
    """What tells a resource from others, and one spec of it from the next."""
    metadata = resource["metadata"]
    return {key: metadata.get(key) for key in ("name", "namespace", "generation")}
