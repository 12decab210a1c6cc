"""The picture of a result: speed, speedup against theory, acceptance and step time, in a light and in a dark theme.

matplotlib is no dependency of the operator, whose image stays small: who draws installs the extra `report`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gemmaspec.core.bench.result import Basis, Cell, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE: Final = (11.0, 9.6)
DPI: Final = 150
# Of the heading, whose letters are bold: more would be cut.
HEADING_COLUMNS: Final = 90
# Columns: more concurrencies than these have no room for readable axes.
MOST_COLUMNS: Final = 4
# Points of one K stand beside each other, so that no interval hides another: this share of the axis apart.
_APART: Final = 0.018
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")


class CannotDraw(Exception):
    """There is no picture of it; the text says what to do."""


@dataclass(frozen=True)
class Theme:
    """Colours. lines: those of Okabe and Ito, which people tell apart whatever colours they see; lighter on dark."""

    paper: str
    ink: str
    faint: str
    grid: str
    lines: tuple[str, ...]


LIGHT: Final = Theme(
    "#ffffff",
    "#1a1a1a",
    "#595959",
    "#dddddd",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8f6b00", "#56b4e9", "#6a3d9a", "#444444"),
)
DARK: Final = Theme(
    "#15181c",
    "#f0f0f0",
    "#b0b6bd",
    "#3a4048",
    ("#56b4e9", "#ff9a4d", "#3ddbae", "#ee9fcb", "#f0e442", "#9ecfff", "#c9a6ff", "#cccccc"),
)
THEMES: Final = {"light": LIGHT, "dark": DARK}


def png(result: Result, theme: Theme) -> bytes:
    """The picture. Raises CannotDraw."""
    return _saved(result, theme, "png")


def svg(result: Result, theme: Theme) -> bytes:
    """The same as a vector. Raises CannotDraw."""
    return _saved(result, theme, "svg")


def _saved(result: Result, theme: Theme, form: str) -> bytes:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise CannotDraw("the plots need matplotlib: pip install '.[report]' in gemmaspec's repository") from error
    out = io.BytesIO()
    # Words stay words in a vector, and Japanese ones need a font that has them; names of workloads are ASCII mostly.
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 10, "svg.hashsalt": "gemmaspec"}):
        draw(result, theme).savefig(out, format=form, dpi=DPI, facecolor=theme.paper, metadata=_undated(form))
    return out.getvalue()


def _undated(form: str) -> dict[str, Any]:
    return {"Date": None} if form == "svg" else {}


def draw(result: Result, theme: Theme) -> Figure:
    """The picture as matplotlib's object. Raises CannotDraw for a result without measurements of speed."""
    from matplotlib.figure import Figure

    swept = [cell for cell in result.cells if cell.k is not None and _speed(cell) is not None]
    if not swept:
        raise CannotDraw("the result holds no speed by K: there is nothing to draw; measure with --ks")
    concurrencies = sorted({cell.concurrency for cell in swept})[:MOST_COLUMNS]
    picture = Figure(figsize=SIZE, layout="constrained", facecolor=theme.paper)
    parts = picture.subfigures(2, 1, height_ratios=(2, 1.05), squeeze=False)
    upper, lower = parts[0][0], parts[1][0]
    for part in (upper, lower):
        part.set_facecolor(theme.paper)
    rows = upper.subplots(2, len(concurrencies), sharex=True, squeeze=False)
    for column, concurrency in enumerate(concurrencies):
        here = [cell for cell in swept if cell.concurrency == concurrency]
        _rates(rows[0][column], here, theme, _heading(here))
        _speedups(rows[1][column], here, theme)
    rows[0][0].set_ylabel(f"tokens/s, all streams{_derived(swept, 'tokensPerSecond')}")
    rows[1][0].set_ylabel("speedup over K = 0")
    left, right = lower.subplots(1, 2)
    _acceptance(left, result.cells, {cell.workload for cell in swept}, theme)
    _steps(right, swept, theme)
    _legend(upper, result, swept, theme)
    picture.suptitle(heading(result), x=0.012, ha="left", fontsize=13, fontweight="bold", color=theme.ink)
    picture.supxlabel(footing(result), x=0.012, ha="left", fontsize=8, color=theme.faint)
    return picture


def _derived(cells: Sequence[Cell], name: str) -> str:
    """A word on a figure that no source published as it stands here."""
    told = {cell.basis_of(name) for cell in cells if name in cell.body()}
    return " (derived)" if Basis.DERIVED in told else ""


def heading(result: Result) -> str:
    """Title and what it came to, each in a line."""
    said = result.advice.sentence if result.advice is not None else ""
    return _wrapped(result.title, HEADING_COLUMNS) + (f"\n{_wrapped(said, HEADING_COLUMNS)}" if said else "")


def footing(result: Result) -> str:
    """On what and how it was measured."""
    engine, method = result.engine, result.method
    told = [
        f"target {engine.target}" if engine.target else "",
        f"drafter {engine.drafter}" if engine.drafter else "",
        f"vLLM {engine.vllm}" if engine.vllm else "",
        engine.hardware or "",
        f"K moved {'without restarts' if engine.actuator == 'Live' else 'by restarts'}" if engine.actuator else "",
        f"{method.runs} runs of {method.tokens} tokens" if method.runs and method.tokens else "",
        f"temperature {method.temperature:g}" if method.temperature is not None else "",
        "bars: 95\u00a0%\u00a0interval" if any(cell.runs > 1 for cell in result.cells) else "",
        result.source or result.started_at or "",
    ]
    return _wrapped(" · ".join(part for part in told if part), 170)


def _heading(cells: Sequence[Cell]) -> str:
    """How many clients, and how many requests the engine's steps really held."""
    clients = cells[0].concurrency
    batches = [cell.batch for cell in cells if cell.batch is not None]
    words = f"{clients} client{'s' if clients > 1 else ''}"
    return f"{words} (batch {sum(batches) / len(batches):.1f})" if batches else words


def _places(own: Sequence[Cell], all_cells: Sequence[Cell]) -> list[float]:
    """Where the points of a workload stand on an axis of K."""
    if all(cell.runs == 1 for cell in all_cells):
        return [float(cell.k or 0) for cell in own]
    names = list(dict.fromkeys(cell.workload for cell in all_cells))
    widest = max(cell.k or 0 for cell in all_cells) or 1
    beside = (names.index(own[0].workload) - (len(names) - 1) / 2) * _APART * widest if own else 0.0
    return [(cell.k or 0) + beside for cell in own]


def _lines(cells: Sequence[Cell], theme: Theme) -> list[tuple[str, str, str, list[Cell]]]:
    """(workload, colour, marker, its cells by K), the same for a workload in every part of the picture."""
    names = list(dict.fromkeys(cell.workload for cell in cells))
    found = []
    for at, name in enumerate(names):
        own = sorted((cell for cell in cells if cell.workload == name), key=lambda cell: cell.k or 0)
        found.append((name, theme.lines[at % len(theme.lines)], _MARKERS[at % len(_MARKERS)], own))
    return found


def _speed(cell: Cell) -> float | None:
    if cell.tokens_per_second is not None:
        return cell.tokens_per_second.mean
    return cell.stream_tokens_per_second


def _rates(axes: Axes, cells: Sequence[Cell], theme: Theme, title: str) -> None:
    _dress(axes, theme, cells)
    axes.set_title(title, loc="left", fontsize=10.5, color=theme.ink)
    for name, colour, marker, own in _lines(cells, theme):
        means = [(cell.tokens_per_second, _speed(cell) or 0.0) for cell in own]
        _line(axes, _places(own, cells), means, colour, marker, name)
    axes.set_ylim(0, None)


def _line(
    axes: Axes, places: Sequence[float], means: Sequence[tuple[Any, float]], colour: str, marker: str, name: str = ""
) -> None:
    """One workload's means, each with its interval where it has one. name: for the legend."""
    axes.errorbar(
        places,
        [mean for _, mean in means],
        yerr=_bars(means),
        color=colour,
        marker=marker,
        markersize=5.5,
        linewidth=1.8,
        capsize=3,
        elinewidth=1.2,
        label=name or None,
    )


def _bars(pairs: Sequence[tuple[Any, float]]) -> Any:
    low = [
        mean - interval.low if interval is not None and interval.low is not None else 0.0 for interval, mean in pairs
    ]
    high = [
        interval.high - mean if interval is not None and interval.high is not None else 0.0 for interval, mean in pairs
    ]
    # Two runs that differ much have an interval far wider than the axis: it is cut, not the axis stretched.
    return [
        [min(b, m) for b, (_, m) in zip(low, pairs, strict=True)],
        [min(b, m) for b, (_, m) in zip(high, pairs, strict=True)],
    ]


def _speedups(axes: Axes, cells: Sequence[Cell], theme: Theme) -> None:
    _dress(axes, theme, cells)
    axes.axhline(1.0, color=theme.faint, linewidth=1.0)
    for _, colour, marker, own in _lines(cells, theme):
        known = [cell for cell in own if cell.speedup is not None]
        means = [(cell.speedup, cell.speedup.mean) for cell in known if cell.speedup is not None]
        _line(axes, _places(known, cells), means, colour, marker)
        told = [cell for cell in own if cell.theory is not None]
        axes.plot(
            _places(told, cells),
            [cell.theory or 0.0 for cell in told],
            color=colour,
            linestyle=(0, (4, 3)),
            linewidth=1.3,
            marker=marker,
            markersize=5.5,
            markerfacecolor="none",
        )
    axes.set_ylim(0, None)
    axes.set_xlabel("K (draft tokens a step)")


def _acceptance(axes: Axes, cells: Sequence[Cell], named: Collection[str], theme: Theme) -> None:
    """Of the largest K, where all positions are drafted, with the fewest clients. named: workloads of the legend."""
    told = [cell for cell in cells if cell.acceptance]
    _plain(axes, theme)
    axes.set_title(
        f"conditional acceptance by position{_derived(told, 'acceptance')}", loc="left", fontsize=10.5, color=theme.ink
    )
    colours = {name: (colour, marker) for name, colour, marker, _ in _lines(cells, theme)}
    deepest = 1
    for name, (colour, marker) in colours.items():
        own = [cell for cell in told if cell.workload == name]
        if not own:
            continue
        most = min(own, key=lambda cell: (-len(cell.acceptance), cell.concurrency))
        deepest = max(deepest, len(most.acceptance))
        rates = [100 * rate for rate in most.acceptance]
        label = "" if name in named else f"{name} kinds of text" if name == "all" else name
        axes.plot(range(len(rates)), rates, color=colour, marker=marker, markersize=5.5, linewidth=1.8, label=label)
    axes.set_ylim(0, 104)
    axes.set_xticks(range(deepest))
    axes.set_xlim(-0.3, deepest - 0.7)
    if any(cell.workload not in named for cell in told):
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    axes.set_xlabel("draft position")
    axes.set_ylabel("P(accepted | the one\nbefore was), %")


def _steps(axes: Axes, cells: Sequence[Cell], theme: Theme) -> None:
    _dress(axes, theme, cells)
    axes.set_title("time of a decode step", loc="left", fontsize=10.5, color=theme.ink)
    concurrencies = sorted({cell.concurrency for cell in cells if cell.step_milliseconds is not None})
    if not concurrencies:
        axes.set_axis_off()
        axes.set_title("")
        axes.text(0.5, 0.5, "step times are not known", transform=axes.transAxes, ha="center", color=theme.faint)
        return
    for at, concurrency in enumerate(concurrencies[:MOST_COLUMNS]):
        by_k: dict[int, list[float]] = {}
        for cell in cells:
            if cell.concurrency == concurrency and cell.step_milliseconds is not None:
                by_k.setdefault(cell.k or 0, []).append(cell.step_milliseconds)
        ks = sorted(by_k)
        axes.plot(
            ks,
            [sum(by_k[k]) / len(by_k[k]) for k in ks],
            color=theme.ink,
            alpha=1.0 - 0.22 * at,
            linestyle=("-", "--", "-.", ":")[at],
            marker="o",
            markersize=4.5,
            linewidth=1.6,
            label=f"{concurrency} client{'s' if concurrency > 1 else ''}",
        )
    axes.set_ylim(0, None)
    axes.set_ylabel("ms")
    axes.set_xlabel("K (draft tokens a step)")
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)


def _legend(part: Any, result: Result, cells: Sequence[Cell], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    handles, labels = part.axes[0].get_legend_handles_labels()
    if any(cell.theory is not None for cell in cells):
        handles += [
            Line2D([], [], color=theme.faint, linewidth=1.8),
            Line2D([], [], color=theme.faint, linewidth=1.3, linestyle=(0, (4, 3))),
        ]
        labels += [str(result.basis), "(1 + mean accepted) · T(0)/T(K)"]
    part.legend(handles, labels, loc="outside upper left", ncols=6, frameon=False, labelcolor=theme.ink, fontsize=9.5)


def _dress(axes: Axes, theme: Theme, cells: Sequence[Cell]) -> None:
    _plain(axes, theme)
    ks = sorted({cell.k or 0 for cell in cells})
    axes.set_xticks(ks)
    axes.margins(x=0.06)


def _plain(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=9.5)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.grid(visible=True, axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)


def _wrapped(text: str, columns: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, columns))
