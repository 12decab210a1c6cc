"""``gemmaspec top``: all resources in one table, renewed while one looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gemmaspec.cli import output as outputs
from gemmaspec.cli.access import Access, ContextOption, KubeconfigOption, Unanswered
from gemmaspec.cli.output import Output, OutputOption

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gemmaspec.adapters.reader import Reader

# The operator renews figures at most once a minute; a decision shows at once.
REFRESH_SECONDS: Final = 5.0
# Below this many columns target and reason give way.
WIDE: Final = 110

Resources = Sequence[Mapping[str, Any]]


def top(
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Only this namespace; without it all that you may see."),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="Print once and end, as -o json and yaml do.")] = False,
    every: Annotated[float, typer.Option("--every", min=1, help="Seconds between two looks.")] = REFRESH_SECONDS,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show all resources: K, acceptance, tokens per step, speed, whether they are ready. Ctrl-C ends it."""
    access = Access(namespace, context, kubeconfig)
    if output is not Output.TEXT:
        outputs.write([row(resource) for resource in access.ask(_question(namespace))], output)
        return
    from rich.console import Console

    console = Console(highlight=False)
    if once or not console.is_terminal:
        console.print(table(access.ask(_question(namespace)), time.time(), console.width))
        return
    try:
        _watch(access, every, console)
    except KeyboardInterrupt:
        return


def _question(namespace: str | None) -> Any:
    """All resources of the namespace, or of the cluster; of the context's namespace where one may not see all."""

    async def question(reader: Reader, own: str) -> Resources:
        return await reader.visible_resources(namespace, own)

    return question


def _watch(access: Access, every: float, console: Console) -> None:
    """Look again and again. A look that fails is told, and the last answer stays on the screen."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    shown: RenderableType = table(access.ask(_question(access.namespace)), time.time(), console.width)
    with Live(shown, console=console, auto_refresh=False, screen=True) as live:
        while True:
            try:
                resources = asyncio.run(access.answer(_question(access.namespace)))
                shown = table(resources, time.time(), console.width)
                live.update(shown, refresh=True)
            except Unanswered as problem:
                live.update(Group(shown, Text(f"\n{problem}", "red")), refresh=True)
            time.sleep(every)


def row(resource: Mapping[str, Any]) -> dict[str, Any]:
    """What the table shows of a resource; None where it is not known."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    k, acceptance = status.get("k") or {}, status.get("acceptance") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions", ())}
    told = conditions.get("Ready")
    if (stalled := conditions.get("Stalled")) and stalled["status"] == "True":
        told = stalled
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "ready": conditions["Ready"]["status"] if "Ready" in conditions else None,
        "readyReplicas": status.get("readyReplicas", 0),
        "replicas": (resource.get("spec") or {}).get("replicas", 1),
        "kDesired": k.get("desired"),
        "kEffective": k.get("effective"),
        "acceptance": acceptance.get("mean"),
        "tokensPerStep": acceptance.get("tokensPerStep"),
        "tokensPerSecond": (status.get("throughput") or {}).get("tokensPerSecond"),
        "measuredAt": acceptance.get("measuredAt"),
        "reason": told["reason"] if told else None,
        "target": status.get("target"),
    }


def table(resources: Resources, now: float, width: int) -> RenderableType:
    """The table, by namespace and name: a pure function. now: seconds since the epoch. width: columns."""
    from rich.table import Table
    from rich.text import Text

    from gemmaspec.cli import age

    if not resources:
        return Text("No GemmaSpecDeploy here: `gemmaspec recipes` lists what is published.")
    wide = width >= WIDE
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("resource", "ready", "K", "accepted", "tok/step", "tok/s", "measured", "reason"):
        shown.add_column(heading, overflow="fold", no_wrap=heading not in ("resource", "reason"))
    if wide:
        shown.add_column("target", overflow="fold")
    for entry in sorted(map(row, resources), key=lambda entry: (entry["namespace"], entry["name"])):
        style = {"True": "green", "False": "red"}.get(str(entry["ready"]), "dim")
        cells = [
            Text(f"{entry['namespace']}/{entry['name']}"),
            Text(f"{entry['readyReplicas']}/{entry['replicas']}", style),
            _k(entry["kDesired"], entry["kEffective"]),
            Text(_figure(entry["acceptance"], "{:.0%}")),
            Text(_figure(entry["tokensPerStep"], "{:.2f}")),
            Text(_figure(entry["tokensPerSecond"], "{:.1f}")),
            Text(f"{age.of(entry['measuredAt'], now)} ago" if entry["measuredAt"] else "–"),
            Text(entry["reason"] or "no operator has looked at it"),
        ]
        shown.add_row(*cells, *([Text(entry["target"] or "–")] if wide else []))
    return shown


def _k(desired: int | None, effective: int | None) -> Any:
    from rich.text import Text

    if effective is None or effective == desired:
        return Text(_figure(desired, "{}"))
    return Text(f"{_figure(desired, '{}')}→{effective}", "yellow")


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
