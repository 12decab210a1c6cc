"""The picture: tokens per second, acceptance by position and K over time, with what happened marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from demo.record import Mark, Phase, Point, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE: Final = (11.0, 7.2)  # inches
DPI: Final = 160
# Readable in grey and for every common kind of colour vision: one blue per position, light to dark.
_POSITIONS: Final = ("#08306b", "#2171b5", "#6baed6", "#9ecae1", "#c6dbef", "#deebf7", "#bdbdbd", "#969696")
_SPEED: Final = "#222222"
_K: Final = "#b2182b"
_NO_DRAFTS: Final = "K = 0:\nno drafts"
_TEXTS: Final = {
    "code": ("#eaf5ea", "good traffic\n(regular text)"),
    "prose": ("#fdf0e1", "bad traffic\n(hard to draft)"),
}
_GAP: Final = "#d9d9d9"
_GAP_NAMED: Final = 8.0  # seconds without an engine that deserve words
_SMOOTH: Final = 3  # points
_MARGIN: Final = 1.0  # seconds shown before the first traffic


def write(record: Record, folder: Path) -> None:
    """Write demo.png and demo.svg. Raises ValueError when there is nothing to show."""
    picture = draw(record)
    picture.savefig(folder / "demo.png", dpi=DPI)
    picture.savefig(folder / "demo.svg")


def draw(record: Record) -> Figure:
    """The picture of a record."""
    from matplotlib.figure import Figure  # takes a second to import: only when there is something to draw

    points = _shown(record)
    zero = points[0].time
    picture = Figure(figsize=SIZE, layout="constrained")
    upper, middle, lower = picture.subplots(3, 1, sharex=True, height_ratios=(5, 4, 1.6))
    for axes in (upper, middle, lower):
        _shade(axes, points, zero)
        _decisions(axes, record.marks, zero)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, points[-1].time - zero)
        axes.margins(x=0)
    _speed(upper, points, record.phases, zero)
    _acceptance(middle, points, zero)
    _k(lower, points, zero)
    _name_traffic(upper, points, zero)
    _name_decisions(upper, record.marks, zero)
    picture.suptitle(title(record), x=0.01, ha="left", fontsize=13, fontweight="bold")
    picture.supxlabel(subtitle(record), x=0.01, ha="left", fontsize=8, color="#666666")
    picture.align_ylabels()
    return picture


def title(record: Record) -> str:
    """What the picture shows, in one sentence."""
    before, after = record.phase("bad traffic, K as asked for"), record.phase("bad traffic, K lowered")
    if before is None or after is None:
        return "K, acceptance and speed over time"
    return (
        f"Acceptance fell, the operator moved K from {before.k} to {after.k}: "
        f"{before.tokens_per_second:.0f} → {after.tokens_per_second:.0f} tokens/s on the same traffic"
    )


def subtitle(record: Record) -> str:
    """On what it was measured."""
    machine = record.machine
    return (
        f"Gemma 4 tiny pair (12 layers, trained for this demo) with an MTP drafter, vLLM 0.32.0 on "
        f"{machine.get('cores', '?')} {machine.get('architecture', '')} CPU cores, Kubernetes "
        f"{machine.get('kubernetes', '?')}, one engine, four streams at temperature 0.\nMeasured: the clients' tokens, "
        "the engine's counters, the resource's status."
    )


def _shown(record: Record) -> list[Point]:
    first = next((point.time for point in record.points if point.text), None)
    if first is None:
        raise ValueError("no traffic was measured: there is nothing to draw")
    return [point for point in record.points if point.time >= first - _MARGIN]


def _spans(points: Sequence[Point], of: str) -> Iterator[tuple[object, float, float]]:
    """(value, begin, end) of each stretch in which an attribute stands."""
    begun = 0
    for at in range(1, len(points) + 1):
        if at == len(points) or getattr(points[at], of) != getattr(points[begun], of):
            last = points[min(at, len(points) - 1)].time
            yield getattr(points[begun], of), points[begun].time, last
            begun = at


def _shade(axes: Axes, points: Sequence[Point], zero: float) -> None:
    for text, begin, end in _spans(points, "text"):
        if text in _TEXTS:
            axes.axvspan(begin - zero, end - zero, color=_TEXTS[str(text)][0], linewidth=0, zorder=0)
    for serving, begin, end in _spans(points, "serving"):
        if not serving:
            axes.axvspan(
                begin - zero,
                end - zero,
                facecolor=_GAP,
                edgecolor="white",
                hatch="///",
                alpha=0.6,
                linewidth=0,
                zorder=1,
            )


def _decisions(axes: Axes, marks: Sequence[Mark], zero: float) -> None:
    for mark in marks:
        if mark.kind == "decision":
            axes.axvline(mark.time - zero, color=_K, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)


def _name_traffic(axes: Axes, points: Sequence[Point], zero: float) -> None:
    """Words over the stretches; a kind of traffic is named where it first flows."""
    top = axes.get_ylim()[1]
    named: set[object] = set()
    for text, begin, _ in _spans(points, "text"):
        if text in _TEXTS and text not in named:
            named.add(text)
            words = _TEXTS[str(text)][1]
            axes.text(begin - zero + 0.6, top * 0.98, words, va="top", fontsize=9, color="#555555", linespacing=1.1)
    for serving, begin, end in _spans(points, "serving"):
        if not serving and end - begin > _GAP_NAMED:
            words = f"the engine restarts\n({end - begin:.0f} s)"
            axes.text((begin + end) / 2 - zero, top * 0.5, words, ha="center", va="center", fontsize=9, color="#555555")


def _name_decisions(axes: Axes, marks: Sequence[Mark], zero: float) -> None:
    top = axes.get_ylim()[1]
    for mark in marks:
        if mark.kind == "decision":
            axes.text(mark.time - zero + 0.8, top * 0.86, mark.text, va="top", fontsize=9, fontweight="bold", color=_K)


def _smoothed(values: Sequence[float]) -> list[float]:
    half = _SMOOTH // 2
    windows = (values[max(0, at - half) : at + half + 1] for at in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _speed(axes: Axes, points: Sequence[Point], phases: Sequence[Phase], zero: float) -> None:
    times = [point.time - zero for point in points]
    axes.plot(
        times, _smoothed([point.tokens_per_second or 0.0 for point in points]), color=_SPEED, linewidth=1.6, zorder=4
    )
    for phase in phases:
        begin, end, speed = phase.begun - zero, phase.ended - zero, phase.tokens_per_second
        axes.hlines(speed, begin, end, color=_K, linewidth=2.4, alpha=0.85, zorder=5)
        axes.annotate(
            f"{speed:.0f}",
            ((begin + end) / 2, speed),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=11,
            fontweight="bold",
            color=_K,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            zorder=6,
        )
    axes.set_ylim(0, 1.25 * max([point.tokens_per_second or 0.0 for point in points] + [1.0]))
    axes.set_ylabel("tokens/s received\nby the clients")


def _acceptance(axes: Axes, points: Sequence[Point], zero: float) -> None:
    most = max((len(point.accepted) for point in points), default=0)
    times = [point.time - zero for point in points]
    for position in range(most):
        rates = [100 * p.accepted[position] if position < len(p.accepted) else float("nan") for p in points]
        colour = _POSITIONS[min(position, len(_POSITIONS) - 1)]
        axes.plot(times, rates, color=colour, linewidth=1.8, zorder=4, label=f"position {position}")
    axes.set_ylim(0, 104)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_ylabel("drafts accepted up\nto position i (%)")
    for k, begin, end in _spans([point for point in points if point.serving], "engine_k"):
        if k == 0 and end - begin > _GAP_NAMED:
            at = (begin + end) / 2 - zero
            axes.text(at, 50, _NO_DRAFTS, ha="center", va="center", fontsize=9, color="#555555")
    if most:
        axes.legend(loc="center", ncols=1, frameon=True, framealpha=0.9, fontsize=9, labelspacing=0.3)


def _k(axes: Axes, points: Sequence[Point], zero: float) -> None:
    known = [point for point in points if point.k is not None]
    times, ks = [point.time - zero for point in known], [point.k or 0 for point in known]
    axes.step(times, ks, where="post", color=_K, linewidth=2.2, zorder=4)
    most = max((point.k or 0 for point in points), default=1)
    axes.set_ylim(-0.4, most + 0.8)
    axes.set_yticks(sorted({0, most // 2, most}))
    axes.set_ylabel("K (draft\ntokens a step)")
    axes.set_xlabel("seconds since the traffic began")
