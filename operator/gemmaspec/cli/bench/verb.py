"""``gemmaspec bench``: measure an engine at every K, read a result, compare two."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gemmaspec.cli import completion
from gemmaspec.cli import output as outputs
from gemmaspec.cli.access import Access, ContextOption, KubeconfigOption, NamespaceOption
from gemmaspec.cli.output import Output, OutputOption
from gemmaspec.core.bench import sweep as sweeps
from gemmaspec.core.bench.sweep import BadSweep, Sweep, Workload

if TYPE_CHECKING:
    from gemmaspec.cli.bench.session import Place
    from gemmaspec.core.bench.result import Result

INTERRUPTED: Final = 130
FILES: Final = ("bench.json", "bench.png", "bench-dark.png", "bench.html")


class MethodName(StrEnum):
    """Which prompts."""

    SOURCES = "sources"
    LLAMA_BENCHY = "llama-benchy"
    BOTH = "both"


def bench(
    name: Annotated[
        str | None, typer.Argument(help="Name of the GemmaSpecDeploy to measure.", autocompletion=completion.names)
    ] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
    url: Annotated[str, typer.Option("--url", help="An engine's address instead of a resource.")] = "",
    agent_url: Annotated[str, typer.Option("--agent-url", help="With --url: address of its agent's port.")] = "",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="With --agent-url: file with the agent's token.")
    ] = None,
    method: Annotated[MethodName, typer.Option("--method", help="Which prompts are measured.")] = MethodName.SOURCES,
    prompts: Annotated[str, typer.Option("--prompts", help="YAML file of your own prompts, name: text, instead.")] = "",
    concurrency: Annotated[str, typer.Option("--concurrency", help="Requests at once, by commas.")] = "1,4,8",
    ks: Annotated[
        str, typer.Option("--ks", help="Values of K, by commas, as far as the engine has them.")
    ] = "0,1,2,4,8",
    runs: Annotated[int, typer.Option("--runs", help="Runs of each measurement.")] = sweeps.RUNS,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of each answer.")] = sweeps.TOKENS,
    temperature: Annotated[float, typer.Option("--temperature", help="Of sampling.")] = sweeps.TEMPERATURE,
    out: Annotated[
        Path | None, typer.Option("--out", help=f"Folder for {', '.join(FILES)}.", show_default=False)
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Of the report.")] = "",
    read: Annotated[
        str, typer.Option("--read", help="Show a result instead of measuring: a file, or a published one's name.")
    ] = "",
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", help="Two results side by side: files, or names of published ones.", metavar="A B"),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="List the sources' published results.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, where K moves by restarts.")] = False,
) -> None:
    """Measure an engine at every K and recommend one; show a result, or compare two."""
    from gemmaspec.bench.figure import CannotDraw
    from gemmaspec.bench.runner import Failed
    from gemmaspec.core.bench.result import NoResult

    try:
        if published:
            _list(output)
        elif compare is not None:
            _compare(compare, output)
        elif read:
            _tell(_found(read), output, out)
        else:
            access = Access(namespace, context, kubeconfig)
            asked = _asked(method, prompts, concurrency, ks, runs, tokens, temperature)
            place = _place(name, url, agent_url, token_file)
            _measure(access, place, asked, title, output, out, yes)
    except (BadSweep, NoResult, CannotDraw, Failed) as problem:
        typer.echo(f"Error: {problem}", err=True)
        raise typer.Exit(1) from problem


def _place(name: str | None, url: str, agent_url: str, token_file: Path | None) -> Place:
    if bool(name) == bool(url):
        raise BadSweep("name a resource, or an engine with --url: one of them (`gemmaspec top` lists resources)")
    if name and (agent_url or token_file):
        raise BadSweep("--agent-url and --token-file go with --url; of a resource they are found")
    token = ""
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadSweep(
                f"--token-file {token_file} can't be read: {error}; docs/bench.md tells what is in it"
            ) from error
    from gemmaspec.cli.bench.session import Place

    return Place(name or "", url, agent_url, token)


def _asked(
    method: MethodName, file: str, concurrency: str, ks: str, runs: int, tokens: int, temperature: float
) -> tuple[Sweep, str]:
    """The sweep as asked for, K apart from what the engine has, and a word on its prompts."""
    from gemmaspec.bench import prompts

    sources = prompts.own(tokens) if method is not MethodName.LLAMA_BENCHY else ()
    depths = prompts.depths() if method is not MethodName.SOURCES else ()
    workloads: tuple[Workload, ...] = prompts.from_file(file, tokens) if file else (*sources, *depths)
    where = Path(file).name if file else "the project's own"
    values = _numbers("--ks", ks)
    sweep = Sweep(workloads, _numbers("--concurrency", concurrency), values, runs, temperature)
    return sweep, prompts.described(workloads, where)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadSweep(f"{option} is {text!r}; it takes whole numbers by commas, such as 0,1,2,4") from error


def _measure(
    access: Access,
    place: Place,
    asked: tuple[Sweep, str],
    title: str,
    output: Output,
    out: Path | None,
    yes: bool,
) -> None:
    from gemmaspec.bench.runner import Failed
    from gemmaspec.cli.access import Unanswered
    from gemmaspec.cli.bench.session import Session

    session = Session(place, asked, title, yes)
    problem: str | None = None
    code = 0
    try:
        if place.url:
            asyncio.run(session.at_address())
        else:
            asyncio.run(access.work(session.at_resource, None))
    except Failed as failure:
        problem, code = str(failure), 1
    except Unanswered as failure:
        problem, code = str(failure), 1
    except KeyboardInterrupt:
        problem, code = "interrupted; K was let go", INTERRUPTED
    if session.runs:
        _tell(session.result(problem), output, out)
    if problem:
        typer.echo(f"Error: {problem}", err=True)
        raise typer.Exit(code)


def _tell(result: Result, output: Output, out: Path | None) -> None:
    """Print, and write the files where a folder is given."""
    if out is not None:
        _write(result, out)
    if output is not Output.TEXT:
        outputs.write(result.body(), output)
        return
    from rich.console import Console

    from gemmaspec.cli.bench.screen import shown

    console = Console(highlight=False)
    console.print(shown(result, console.width))


def _write(result: Result, out: Path) -> None:
    from gemmaspec.bench import figure, page
    from gemmaspec.core.bench.result import text

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / FILES[0]).write_text(text(result), encoding="utf-8")
        (out / FILES[1]).write_bytes(figure.png(result, figure.LIGHT))
        (out / FILES[2]).write_bytes(figure.png(result, figure.DARK))
        (out / FILES[3]).write_text(page.render(result), encoding="utf-8")
    except OSError as error:
        raise BadSweep(f"--out {out} can't be written: {error}") from error
    typer.echo(f"{', '.join(FILES)} in {out}", err=True)


def _list(output: Output) -> None:
    from gemmaspec.bench.published import load

    found = load()
    if output is not Output.TEXT:
        outputs.write({name: result.body() for name, result in found.items()}, output)
        return
    for name, result in found.items():
        typer.echo(f"{name}\n  {result.title}\n  {result.source}")


def _found(name: str) -> Result:
    """A result by its file, or by the name of a published one. Raises NoResult."""
    from gemmaspec.bench.published import load
    from gemmaspec.core.bench.result import NoResult, parse

    known = load()
    if name in known:
        return known[name]
    try:
        return parse(Path(name).read_bytes(), name)
    except OSError as error:
        names = ", ".join(known)
        raise NoResult(f"{name} is no file ({error.strerror}), and none of the published results: {names}") from error


def _compare(names: Sequence[str], output: Output) -> None:
    from gemmaspec.core.bench.comparison import compare

    first, second = map(_found, names)
    pairs = compare(first, second)
    if output is not Output.TEXT:
        rows = [
            {
                "workload": pair.workload,
                "concurrency": pair.concurrency,
                "k": pair.k,
                "figure": pair.figure,
                "first": pair.first.value,
                "firstBasis": None if pair.first.value is None else str(pair.first.basis),
                "second": pair.second.value,
                "secondBasis": None if pair.second.value is None else str(pair.second.basis),
                "ratio": pair.ratio,
            }
            for pair in pairs
        ]
        outputs.write({"first": first.title, "second": second.title, "figures": rows}, output)
        return
    from rich.console import Console

    from gemmaspec.cli.bench.screen import compared

    Console(highlight=False).print(compared(first, second, pairs))
