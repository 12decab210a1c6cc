"""``gemmaspec doctor``: what is missing, and the command that mends it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from gemmaspec.cli import output as outputs
from gemmaspec.cli.access import Access, ContextOption, KubeconfigOption
from gemmaspec.cli.output import Output, OutputOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gemmaspec.adapters.reader import Reader
    from gemmaspec.cli.checkup import Finding, Seen, Unseen

Value = TypeVar("Value")

_MARKS: Final = {"ok": ("✓", "green"), "note": ("!", "yellow"), "missing": ("✗", "red"), "unseen": ("?", "dim")}


def doctor(
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Look only at the resources there.", show_default=False),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell what of cluster, definition, operator, nodes and metrics is missing, and what mends it.

    Ends with 1 where something is missing; what you may not see is no fault.
    """
    from gemmaspec.cli.checkup import Grade, findings
    from gemmaspec.recipes import load

    async def question(reader: Reader, own: str) -> Seen:
        return await look(reader, namespace, own)

    found = findings(Access(namespace, context, kubeconfig).ask(question), load())
    if output is not Output.TEXT:
        outputs.write([{**asdict(entry), "grade": str(entry.grade)} for entry in found], output)
    else:
        from rich.console import Console

        Console(highlight=False).print(report(found))
    if any(entry.grade is Grade.MISSING for entry in found):
        raise typer.Exit(1)


async def look(reader: Reader, namespace: str | None, own: str) -> Seen:
    """See what a checkup looks at. namespace: of the resources; None for all, or for ``own`` where one may not see all.

    Raises ApiFailure where the API server does not answer at all, or does not know us.
    """
    from gemmaspec.cli.checkup import Seen, Unseen, key_secret

    version = await reader.version()
    operators = await _seen(reader.operators())
    resources = await _seen(_or_none(reader.visible_resources(namespace, own)))
    key: bool | Unseen | None = None
    metrics: str | Unseen | None = None
    if isinstance(operators, Unseen):
        key = metrics = operators
    elif operators:
        where, secret = operators[0]["metadata"]["namespace"], key_secret(operators[0])
        metrics = await _seen(reader.operator_metrics(where))
        key = await _seen(reader.has_secret(where, secret)) if secret else None
    return Seen(
        server=reader.server,
        version=version,
        served=await _seen(reader.is_served()),
        definition=await _seen(_or_none(reader.definition())),
        operators=operators,
        key=key,
        metrics=metrics,
        monitors=await _seen(reader.pod_monitors()),
        nodes=await _seen(reader.nodes()),
        runtime_classes=await _seen(reader.runtime_classes()),
        resources=[] if resources is None else resources,
    )


async def _seen(answer: Awaitable[Value]) -> Value | Unseen:
    from gemmaspec.adapters.cluster import ApiFailure
    from gemmaspec.cli.checkup import Unseen

    try:
        return await answer
    except ApiFailure as failure:
        return Unseen(failure.message, failure.status == 403)


async def _or_none(answer: Awaitable[Value]) -> Value | None:
    from gemmaspec.adapters.cluster import Missing

    try:
        return await answer
    except Missing:
        return None


def report(found: Sequence[Finding]) -> RenderableType:
    """The findings as a table, each with what mends it below."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for entry in found:
        mark, style = _MARKS[entry.grade]
        table.add_row(Text(mark, style), Text(entry.subject), Text(entry.found))
        if entry.remedy and entry.grade is not entry.grade.OK:
            table.add_row("", "", Text(f"→ {entry.remedy}", "cyan"))
    return table
