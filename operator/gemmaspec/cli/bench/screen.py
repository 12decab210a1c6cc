"""A result on the terminal, and the progress of a sweep."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gemmaspec.core.bench import advice
from gemmaspec.core.bench.comparison import Figure, Pair
from gemmaspec.core.bench.result import Basis, Result

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gemmaspec.bench.runner import Progress

# What is left out first where a terminal is too narrow: the JSON and the report have it all.
_SPARED: Final = ("prompt tok/s", "per stream", "tok/step", "TTFT s", "step ms", "batch", "theory")
_GAP: Final = 2
# Marks of figures that were not measured here.
_MARKS: Final = {Basis.MEASURED: "", Basis.PUBLISHED: " p", Basis.DERIVED: " d"}
_NAMES: Final = {
    "tokensPerSecond": "tok/s",
    "streamTokensPerSecond": "tok/s per stream",
    "speedup": "speedup",
    "meanAccepted": "mean accepted",
    "ttftSeconds": "TTFT s",
    "stepMilliseconds": "step ms",
}


def shown(result: Result, width: int) -> RenderableType:
    """Table and recommendation: a pure function of the result and of the terminal's columns."""
    from rich.console import Group
    from rich.text import Text

    from gemmaspec.bench.page import notes

    parts: list[RenderableType] = [Text(result.title, "bold"), _table(result, width)]
    parts += [Text(note, "dim") for note in notes(result)]
    return Group(*parts, *_advice(result))


def _table(result: Result, width: int) -> RenderableType:
    from rich.table import Table

    from gemmaspec.bench.page import HEADINGS, row

    rows = [row(cell) for cell in result.cells]
    at = _columns([HEADINGS, *rows], width)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for column in at:
        table.add_column(HEADINGS[column], justify="left" if column == 0 else "right", no_wrap=True)
    for line in rows:
        table.add_row(*(line[column] for column in at))
    return table


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Those that hold anything, as many as there is room for."""
    from rich.cells import cell_len

    headings = rows[0]
    kept = [at for at in range(len(headings)) if any(line[at] != "–" for line in rows[1:])]
    wide = {at: max(cell_len(line[at]) for line in rows) + _GAP for at in kept}
    for spared in map(headings.index, _SPARED):
        if sum(wide[at] for at in kept) - _GAP > width and spared in kept:
            kept.remove(spared)
    return kept


def _advice(result: Result) -> Sequence[RenderableType]:
    from rich.text import Text

    found = result.advice
    if found is None:
        return ()
    lines = [Text(""), Text(found.sentence, "bold")]
    for choice in found.schedule:
        gain = "" if choice.k == found.current else f"; over K={found.current}: {advice.percent(choice.gain)}"
        lines.append(Text(f"  batch {choice.batch}: K={choice.k}, over K=0: {advice.percent(choice.over_zero)}{gain}"))
    if found.patch is not None:
        import yaml

        lines += [Text("kubectl patch gsd NAME --type merge --patch-file FILE, with", "dim")]
        lines.append(Text(yaml.safe_dump(found.patch, sort_keys=False).rstrip()))
    return lines


def compared(first: Result, second: Result, pairs: Sequence[Pair]) -> RenderableType:
    """Two results side by side. p: published by the source, d: derived from what it published."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("workload", "clients", "K", "figure", "A", "B", "B / A"):
        table.add_column(heading, justify="left" if heading in ("workload", "figure") else "right", no_wrap=True)
    for pair in pairs:
        ratio = "–" if pair.ratio is None else f"{pair.ratio:.2f}"
        k = "–" if pair.k is None else str(pair.k)
        table.add_row(
            pair.workload, str(pair.concurrency), k, _NAMES[pair.figure], _side(pair.first), _side(pair.second), ratio
        )
    told = [Text(f"A: {first.title}"), Text(f"B: {second.title}")]
    told += [Text(f"{name}: {result.source}", "dim") for name, result in (("A", first), ("B", second)) if result.source]
    marks = {figure.basis for pair in pairs for figure in (pair.first, pair.second) if figure.value is not None}
    note = "p: published by the source; d: derived from what it published"
    return Group(*told, table, *([Text(note, "dim")] if marks - {Basis.MEASURED} else []))


def _side(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:.4g}{_MARKS[figure.basis]}"


class Bar:
    """The progress of a sweep, on standard error: a bar with the time left, or a line now and then for a log."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = console
        self._plain = not console.is_terminal
        self._said = -1
        self._progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=self._plain,
        )
        self._task = self._progress.add_task("warming up", total=None, left="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._progress.stop()

    def told(self, progress: Progress) -> None:
        """A measurement was made."""
        turn = progress.turn
        words = "done" if turn is None else f"{turn.workload.name}, {turn.concurrency} at once"
        words += "" if turn is None or turn.k is None else f", K={turn.k}"
        left = "" if progress.left is None else f"{duration(progress.left)} left"
        self._progress.update(self._task, description=words, completed=progress.done, total=progress.total, left=left)
        tenth = 10 * progress.done // progress.total
        if self._plain and tenth != self._said:
            self._said = tenth
            self._console.print(f"{progress.done}/{progress.total} measurements{', ' + left if left else ''}")


def duration(seconds: float) -> str:
    """As people say it.

    >>> duration(42), duration(100), duration(5400)
    ('42 s', '2 min', '1 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
