"""The report as one HTML file that can be mailed, posted or opened without a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

import yaml

from gemmaspec.bench import figure
from gemmaspec.core.bench import advice
from gemmaspec.core.bench.result import Basis, Cell, Interval, Result

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1a1a1a; --faint: #595959; --line: #dddddd; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #f0f0f0; --faint: #b0b6bd; --line: #3a4048; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
       margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { border: 1px solid var(--line); border-radius: .3rem; overflow-x: auto; padding: .7rem 1rem; }
.faint { color: var(--faint); }
"""
HEADINGS = (
    "workload",
    "clients",
    "batch",
    "K",
    "tok/s",
    "per stream",
    "speedup",
    "theory",
    "tok/step",
    "step ms",
    "TTFT s",
    "prompt tok/s",
)
DERIVED_NOTE = "d: derived from what the source published; the other figures stand there"


def render(result: Result) -> str:
    """The whole page. Raises CannotDraw."""
    images = {name: base64.b64encode(figure.png(result, theme)).decode() for name, theme in figure.THEMES.items()}
    said = result.advice.sentence if result.advice is not None else ""
    source = f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{images["dark"]}">'
    image = f'<img alt="{html.escape(said or result.title)}" src="data:image/png;base64,{images["light"]}">'
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(result.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(result.title)}</h1>",
        f"<p>{html.escape(said)}</p>" if said else "",
        f"<picture>{source}{image}</picture>",
        *_advice(result),
        "<h2>Figures</h2>",
        f'<div class="wide">{_table(result.cells)}</div>',
        *(f'<p class="faint">{html.escape(note)}</p>' for note in notes(result)),
        f'<p class="faint">{html.escape(figure.footing(result))}</p>',
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def notes(result: Result) -> list[str]:
    """What is told below the table."""
    return [*([DERIVED_NOTE] if is_derived(result.cells) else []), *result.notes]


def _advice(result: Result) -> Iterable[str]:
    found = result.advice
    if found is None:
        return
    yield "<h2>Recommendation</h2>"
    rows = [
        (str(choice.batch), str(choice.k), advice.percent(choice.gain), advice.percent(choice.over_zero))
        for choice in found.schedule
    ]
    yield _html_table(("running batch", "K", f"gain over K = {found.current}", "gain over K = 0"), rows)
    if found.patch is not None:
        yield f"<pre>{html.escape(yaml.safe_dump(found.patch, sort_keys=False))}</pre>"


def _table(cells: Sequence[Cell]) -> str:
    return _html_table(HEADINGS, [row(cell) for cell in cells])


def row(cell: Cell) -> tuple[str, ...]:
    """A cell as texts, in the order of the headings of the tables."""
    return (
        cell.workload,
        str(cell.concurrency),
        number(cell.batch, 1),
        "–" if cell.k is None else str(cell.k),
        interval(cell.tokens_per_second, 1) + _mark(cell, "tokensPerSecond"),
        number(cell.stream_tokens_per_second, 1) + _mark(cell, "streamTokensPerSecond"),
        interval(cell.speedup, 2) + _mark(cell, "speedup"),
        number(cell.theory, 2),
        _per_step(cell),
        number(cell.step_milliseconds, 1),
        number(cell.ttft_seconds, 2),
        number(cell.prompt_tokens_per_second, 0),
    )


def _per_step(cell: Cell) -> str:
    """The bonus token included. A source that leaves it out is added one to; one that includes it said just this."""
    if cell.tokens_per_step is not None or cell.mean_accepted is None:
        return number(cell.tokens_per_step, 2)
    added = cell.basis_of("meanAccepted") is Basis.PUBLISHED
    return number(1.0 + cell.mean_accepted, 2) + (" d" if added else "")


def _mark(cell: Cell, figure: str) -> str:
    return " d" if cell.basis_of(figure) is Basis.DERIVED else ""


def is_derived(cells: Iterable[Cell]) -> bool:
    """Whether any figure of the table is marked as derived."""
    return any(text.endswith(" d") for cell in cells for text in row(cell)[1:])


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(value: Interval | None, digits: int) -> str:
    """A mean, with half the width of its interval where that is known."""
    if value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ±{(value.high - value.low) / 2:.{digits}f}"


def _html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
