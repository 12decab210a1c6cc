"""Plots of the lab: scores per trace, K over time, delays of the mix detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .detectors import MixDelay
from .public import public_traces
from .report import Score, timeline


def draw(folder: Path, public: Sequence[Score], held: Sequence[Score], delays: Sequence[MixDelay]) -> list[Path]:
    """All plots, as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_scores(folder, public), _spread(folder, held or public), _timelines(folder), _delays(folder, delays)]


def _scores(folder: Path, scores: Sequence[Score]) -> Path:
    names = [n for n in dict.fromkeys(s.policy for s in scores) if n not in ("fixed", "threshold-off")]
    traces = list(dict.fromkeys(s.trace for s in scores))
    cell = {(s.trace, s.policy): s.percent for s in scores}
    figure, axes = plt.subplots(figsize=(12, 4.5), layout="constrained")
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        axes.bar([x + i * width for x in range(len(traces))], [cell[t, name] for t in traces], width, label=name)
    axes.set_xticks([x + 0.4 for x in range(len(traces))], traces, rotation=40, ha="right")
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_ylim(65, 112)
    axes.set_ylabel("% of the per-phase oracle")
    axes.legend(ncols=len(names), fontsize=8)
    return _save(figure, folder / "scores.png")


def _spread(folder: Path, scores: Sequence[Score]) -> Path:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name in dict.fromkeys(s.policy for s in scores):
        values = sorted(s.percent for s in scores if s.policy == name)
        axes.plot([100 * (i + 0.5) / len(values) for i in range(len(values))], values, label=name)
    axes.set_ylim(60, 112)
    axes.set_xlabel("% of traces at or below")
    axes.set_ylabel("% of the per-phase oracle")
    axes.axhline(100, color="black", linewidth=0.8)
    axes.legend(fontsize=8)
    return _save(figure, folder / "spread.png")


def _timelines(folder: Path) -> Path:
    wanted = ("26b-sweep", "eugr-343", "tiny-cpu", "swings")
    traces = [trace for trace in public_traces() if trace.name in wanted]
    figure, rows = plt.subplots(len(traces), 1, figsize=(11, 2.2 * len(traces)), layout="constrained")
    for axes, trace in zip(rows, traces, strict=True):
        chosen, best = timeline(trace, "adaptive")
        axes.plot(chosen, linewidth=0.5, label="adaptive")
        axes.plot(best, linewidth=1.5, label="oracle of the phase")
        axes.set_title(f"{trace.name}: {trace.note}", fontsize=9)
        axes.set_ylabel("K")
    rows[0].legend(fontsize=8)
    rows[-1].set_xlabel("step")
    return _save(figure, folder / "timelines.png")


def _delays(folder: Path, delays: Sequence[MixDelay]) -> Path:
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    labels = [f"{d.before}→{d.after}\n{d.drafts_per_request}/req" for d in delays]
    places = range(len(delays))
    axes.bar([x - 0.2 for x in places], [d.bound for d in delays], 0.4, label="Lorden's bound")
    axes.bar([x + 0.2 for x in places], [d.delay for d in delays], 0.4, label="mean delay")
    axes.set_xticks(list(places), labels, fontsize=6)
    axes.set_ylabel("drafts")
    axes.legend(fontsize=8)
    return _save(figure, folder / "mix-delays.png")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
