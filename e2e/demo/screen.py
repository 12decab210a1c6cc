"""Draws the board: one live picture on a terminal, plain lines anywhere else (a log, CI)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from demo.board import Board, Step
from demo.record import Point, Record

_BARS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 24  # characters of an acceptance bar
_PLAIN_EVERY: Final = 5.0  # seconds between two lines of figures
_MARKS: Final = {"waiting": ("·", "dim"), "done": ("✓", "bold green"), "failed": ("✗", "bold red")}
_TONES: Final = {"True": "green", "False": "red", "Unknown": "yellow"}


@contextmanager
def screen(board: Board, console: Console) -> Iterator[None]:
    """Shows the board while the context lasts."""
    if not console.is_terminal:
        with _plain(board):
            yield
        return
    picture = _Picture(board)
    with Live(picture, console=console, refresh_per_second=4, transient=False):
        yield


@contextmanager
def _plain(board: Board) -> Iterator[None]:
    stopping = threading.Event()
    board.heard = lambda text: print(text, file=sys.stderr, flush=True)

    def figures() -> None:
        while not stopping.wait(_PLAIN_EVERY):
            if board.points and board.points[-1].text and board.points[-1].serving:
                board.heard("  " + line(board.points[-1]))

    thread = threading.Thread(target=figures, name="figures", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(2)


def line(point: Point) -> str:
    """A point in one line of text."""
    rates = " ".join(f"{100 * rate:.0f}%" for rate in point.accepted) or "no drafts"
    speed = "–" if point.tokens_per_second is None else f"{point.tokens_per_second:.0f}"
    serving = "" if point.serving else ", no engine serves"
    return f"{point.text or 'no'} traffic: {speed} tok/s, K {point.k}, accepted by position: {rates}{serving}"


class _Picture:
    """The live picture, made anew at each refresh."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> RenderableType:
        board = self._board
        upper = Table.grid(expand=True, padding=(0, 2))
        upper.add_column(ratio=5)
        upper.add_column(ratio=4)
        upper.add_row(self._steps(), Group(*_measured(board)))
        parts: list[RenderableType] = [upper]
        if board.messages:
            lines = [Text(message, style="dim", no_wrap=True, overflow="ellipsis") for message in board.messages]
            parts += [Text(""), *lines]
        return Panel(Group(*parts), title="GemmaSpecDeploy: the whole line, on real parts", border_style="cyan")

    def _steps(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=2)
        table.add_column(ratio=1)
        table.add_column(justify="right", width=8)
        for step in self._board.steps:
            table.add_row(self._mark(step), _title(step), f"{step.seconds:.1f} s" if step.begun else "")
        return table

    def _mark(self, step: Step) -> RenderableType:
        if step.state == "running":
            return self._spinner
        sign, style = _MARKS[step.state]
        return Text(sign, style=style)


def _title(step: Step) -> Text:
    text = Text(step.title, style="dim" if step.state == "waiting" else "")
    if step.detail:
        text.append(f"\n{step.detail}", style="red" if step.state == "failed" else "dim")
    return text


def _measured(board: Board) -> list[RenderableType]:
    if not board.view.resource:
        return []
    parts: list[RenderableType] = [_k(board), Text("")]
    point = board.points[-1] if board.points else None
    if point is not None and (point.text or point.accepted):
        parts += [*_acceptance(point), Text(""), _speed(board.points), Text("")]
    return [*parts, _conditions(board)]


def _k(board: Board) -> Text:
    k = board.view.status.get("k", {})
    text = Text("K ", style="bold")
    lowered = k.get("effective") != k.get("desired")
    text.append(f" {k.get('effective', '–')} ", style="bold white on red" if lowered else "bold white on green")
    text.append(f"  asked for: {k.get('desired', '–')}", style="dim")
    if board.view.engine_k is None:
        text.append("  no engine serves", style="yellow")
    return text


def _acceptance(point: Point) -> list[RenderableType]:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", width=12)
    table.add_column()
    table.add_column(justify="right", width=5)
    for position, rate in enumerate(point.accepted):
        filled = round(rate * _WIDTH)
        bar = Text("█" * filled, style="green" if rate >= 0.5 else "red")
        bar.append("░" * (_WIDTH - filled), style="dim")
        table.add_row(f"position {position}", bar, f"{100 * rate:.0f} %")
    heading = Text("drafts accepted up to", style="bold")
    return [heading, table if point.accepted else Text("no drafts are made", style="dim")]


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The last values as a line of blocks, scaled to their greatest."""
    shown = list(values)[-width:]
    most = max(shown, default=0.0)
    if most <= 0:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(len(_BARS) - 1, int(value / most * len(_BARS)))] for value in shown)


def _speed(points: Sequence[Point]) -> Text:
    speeds = [point.tokens_per_second or 0.0 for point in points if point.text]
    recent = speeds[-5:]
    text = Text("tokens/s ", style="bold")
    text.append(f"{sum(recent) / len(recent) if recent else 0.0:6.0f}  ", style="bold cyan")
    text.append(f"({points[-1].text or 'no'} traffic)\n", style="dim")
    return text.append(sparkline(speeds), style="cyan")


def _conditions(board: Board) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for entry in board.conditions:
        # kstatus: these two are good when False
        inverse = entry["type"] in ("Reconciling", "Stalled")
        status = {"True": "False", "False": "True"}.get(entry["status"], "Unknown") if inverse else entry["status"]
        table.add_row(entry["type"], Text(entry["status"], style=_TONES[status]), Text(entry["reason"], style="dim"))
    return table


def summary(record: Record) -> Table:
    """The measured phases, as a table."""
    table = Table(
        "phase", "text", "K", "drafts", "accepted up to position 0, 1, …", "tokens/s", title="What was measured"
    )
    for phase in record.phases:
        rates = " ".join(f"{100 * rate:.0f} %" for rate in phase.accepted) or "–"
        speed = f"{phase.tokens_per_second:.0f}"
        table.add_row(phase.name, phase.text, str(phase.k), str(phase.drafts), rates, speed)
    return table
