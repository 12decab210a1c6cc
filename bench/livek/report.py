"""Table, plot and raw figures of a run."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

OUT: Final = Path(__file__).resolve().parents[1] / "results"
# Student's t, 97.5 %, by degrees of freedom 1 to 30 (standard table).
T: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
Row = dict[str, Any]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval; NaN for a single value."""
    if len(values) < 2:
        return statistics.fmean(values), math.nan
    return statistics.fmean(values), T[min(len(values) - 2, len(T) - 1)] * statistics.stdev(values) / len(values) ** 0.5


def share(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """All of the first over all of the second, and half the width of its 95 % interval; the pairs are turns.

    By the delta method. A mean of the turns' own ratios would lie too high: a slow turn of the second weighs more than
    a fast one.
    """
    mine, other = (statistics.fmean(column) for column in zip(*pairs, strict=True))
    ratio = mine / other
    return ratio, interval([(a - ratio * b) / other for a, b in pairs])[1]


def rates(rows: list[Row], unit: str) -> dict[tuple[str, str], list[float]]:
    """(policy, phase) → the figure of each turn."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["policy"], row["phase"]), []).append(row[unit])
    return found


def shares(rows: list[Row], unit: str = "tok_s") -> dict[str, list[tuple[float, float]]]:
    """Per turn: adaptive and the best static K of each phase, and the best single K of both phases.

    Which K is the best is taken from all turns: a maximum of single noisy ones would flatter the static side.
    """
    found = rates(rows, unit)
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    static = sorted({policy for policy, _ in found} - {"adaptive"})
    result: dict[str, list[tuple[float, float]]] = {}
    for phase in phases:
        best = max(static, key=lambda k: statistics.fmean(found[k, phase]))
        result[f"{phase}: of {best}"] = list(zip(found["adaptive", phase], found[best, phase], strict=True))
    turns = range(min(len(values) for values in found.values()))

    def whole(policy: str, i: int) -> float:
        return statistics.fmean(found[policy, phase][i] for phase in phases)

    best = max(static, key=lambda k: statistics.fmean(whole(k, i) for i in turns))
    result[f"whole run: of {best}"] = [(whole("adaptive", i), whole(best, i)) for i in turns]
    return result


def write(rows: list[Row], machine: Row, rounds: int, seconds: float, status: Row) -> None:
    """livek.json, livek.svg and livek.md."""
    OUT.mkdir(exist_ok=True)
    kept = {name: status[name] for name in ("overhead", "exceptions", "steps")}
    raw = {"machine": machine, "secondsPerPhase": seconds, "rows": rows, "status": kept}
    (OUT / "livek.json").write_text(json.dumps(raw, indent=1) + "\n")
    found = rates(rows, "tok_s")
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    policies = sorted({policy for policy, _ in found}, key=lambda name: (name == "adaptive", name))
    lines = ["# Adaptive K against every static K, real engine on a CPU", ""]
    lines += [
        f"`python -m bench.livek --rounds {rounds} --seconds {seconds:g}`: tiny pair, vLLM 0.32 on a CPU (V1,",
        f"synchronous), 4 streams, {seconds:g} s of each policy in a phase, in turns of 5 s on one engine under one",
        "stream of traffic, the same requests for all policies of a turn;",
        f"machine: `{json.dumps(machine)}`. ± is a 95 % interval over turns.",
        "",
    ]
    lines += [
        "| policy | " + " | ".join(f"{phase}, tok/s" for phase in phases) + " |",
        "|" + "---|" * (len(phases) + 1),
    ]
    for policy in policies:
        cells = ["{:.1f} ± {:.1f}".format(*interval(found[policy, phase])) for phase in phases]
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| adaptive | tok/s | tokens per second of the engine's processor time |",
        "|---|---|---|",
    ]
    by_unit = [{name: share(pairs) for name, pairs in shares(rows, unit).items()} for unit in ("tok_s", "tok_cpu_s")]
    for (name, clock), (other, cpu) in zip(*(unit.items() for unit in by_unit), strict=True):
        both = name if name == other else f"{name} (processor time: {other})"
        cells = [f"{100 * mean:.1f} ± {100 * half:.1f} %" for mean, half in (clock, cpu)]
        lines.append(f"| {both} | " + " | ".join(cells) + " |")
    lines += ["", f"Steps of `adaptive` by K: {_chosen(rows, phases)}.", "", "![tokens per second](livek.svg)"]
    (OUT / "livek.md").write_text("\n".join(lines) + "\n")
    _plot(found, policies, phases)


def _chosen(rows: list[Row], phases: list[str]) -> str:
    """What `adaptive` did: the share of its steps at each K, phase by phase."""
    said = []
    for phase in phases:
        steps: Counter[str] = Counter()
        for row in rows:
            if (row["policy"], row["phase"]) == ("adaptive", phase):
                steps.update(row["steps"])
        shares = (f"{100 * steps[k] / max(steps.total(), 1):.0f} % at {k}" for k in sorted(steps, key=int))
        said.append(f"{phase}: " + ", ".join(shares))
    return "; ".join(said)


def _plot(found: dict[tuple[str, str], list[float]], policies: list[str], phases: list[str]) -> None:
    figure, axis = plt.subplots(figsize=(7, 4))
    width = 0.8 / len(phases)
    for i, phase in enumerate(phases):
        points = [interval(found[policy, phase]) for policy in policies]
        places = [j + (i - (len(phases) - 1) / 2) * width for j in range(len(policies))]
        axis.bar(places, [p[0] for p in points], width, yerr=[p[1] for p in points], capsize=3, label=phase)
    axis.set_xticks(range(len(policies)), policies)
    axis.set_ylabel("tokens per second")
    axis.legend(title="text")
    figure.tight_layout()
    figure.savefig(OUT / "livek.svg")


def write_overhead(rows: list[Row], machine: Row, seconds: float) -> None:
    """livek-overhead.json: live and plain, pair by pair."""
    OUT.mkdir(exist_ok=True)
    pairs: dict[int, dict[str, float]] = {}
    for row in rows:
        if "round" in row:
            pairs.setdefault(row["round"], {})[row["engine"]] = row["tok_s"]
    mean, half = interval([pair["live"] / pair["plain"] for pair in pairs.values()])
    raw = {"machine": machine, "secondsPerPhase": seconds, "liveOverPlain": [mean, half], "rows": rows}
    (OUT / "livek-overhead.json").write_text(json.dumps(raw, indent=1) + "\n")
    print(f"live / plain at the same K: {100 * mean:.2f} ± {100 * half:.2f} % over {len(pairs)} pairs")
