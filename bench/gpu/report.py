"""Tables and plots from the raw rows of a GPU run: ``python bench/gpu/report.py RESULTS.jsonl``."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

OUT: Final = Path(__file__).resolve().parents[1] / "results"
# Student's t, 97.5 %, by degrees of freedom 1 to 11 (standard table): intervals of a handful of repeats.
T: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
Row = dict[str, Any]
CERTAIN: Final = ("-d", "-e")
"""Stations that compare engines with every draft accepted."""
CHOOSING: Final = ("verification", "adaptive")
"""Policies that are no static K: vLLM's adaptive verification, and ours."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    if len(values) < 2:
        return statistics.fmean(values), math.nan
    half = T[min(len(values) - 2, len(T) - 1)] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some fields, in order of first appearance."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return dict(found)


def _number(value: float, half: float) -> str:
    digits = 2 if value < 100 else 0
    return f"{value:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def sweep_table(rows: list[Row]) -> list[str]:
    """Step time and tokens per second of each K and concurrency."""
    lines = []
    for (station,), own in grouped(rows, "station").items():
        counts = sorted({row["streams"] for row in own})
        lines += [f"### K × streams, {station.split('-')[0].upper()}", ""]
        lines += ["| K | " + " | ".join(f"{n} streams: step ms | tok/s" for n in counts) + " |"]
        lines += ["|" + "---|" * (2 * len(counts) + 1)]
        for k in sorted({row["k"] for row in own}):
            cells = ["no speculation" if k < 0 else str(k)]
            for n in counts:
                here = [row for row in own if (row["k"], row["streams"]) == (k, n)]
                cells += (
                    [_number(*interval([row[name] for row in here])) for name in ("step_ms", "tok_s")]
                    if here
                    else ["–"] * 2
                )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def order_table(rows: list[Row]) -> list[str]:
    """Step time of each K as the first on fresh streams, and on the same streams some seconds later."""
    if not rows:
        return []
    lines = ["### The same K on fresh streams and later on the same streams", ""]
    lines += ["| station | streams | K | first: step ms | later: step ms | later / first | tokens a step, one window |"]
    lines += ["|" + "---|" * 7]
    for (station, streams), own in grouped((row for row in rows if row["k"] >= 0), "station", "streams").items():
        first: dict[int, list[Row]] = defaultdict(list)
        later: dict[int, list[Row]] = defaultdict(list)
        for turn in grouped(own, "repeat").values():
            for place, row in enumerate(turn):
                (later if place else first)[row["k"]].append(row)
        for k in sorted(first):
            fresh, aged = (statistics.fmean(row["step_ms"] for row in cells[k]) for cells in (first, later))
            drawn = [row["tok_s"] * row["mean_ms"] / 1000 / streams for row in first[k] + later[k]]
            cells = [station, str(streams), str(k), f"{fresh:.2f}", f"{aged:.2f}", f"{aged / fresh:.2f}"]
            lines.append("| " + " | ".join([*cells, f"{min(drawn):.2f} to {max(drawn):.2f}"]) + " |")
    return [*lines, ""]


def compare_table(rows: list[Row]) -> list[str]:
    """The live engine held at K against an engine started so, pair by pair."""
    lines = ["### Live engine held at K against an engine started that way", ""]
    lines += ["| station | K | streams | order | pairs | step time | tok/s |", "|---|---|---|---|---|---|---|"]
    for (station, k, streams, order), own in grouped(rows, "station", "k", "streams", "order").items():
        by_repeat = grouped(own, "repeat").values()
        pairs = [{row["who"]: row for row in pair} for pair in by_repeat]
        pairs = [pair for pair in pairs if len(pair) == 2]
        if not pairs:
            continue
        steps = interval([100 * (pair["live"]["mean_ms"] / pair["plain"]["mean_ms"] - 1) for pair in pairs])
        rates = interval([100 * (_rate(pair["live"]) / _rate(pair["plain"]) - 1) for pair in pairs])
        figures = [f"{mean:+.2f} ± {half:.2f} %" for mean, half in (steps, rates)]
        lines.append("| " + " | ".join([station, str(k), str(streams), order, str(len(pairs)), *figures]) + " |")
    return [*lines, ""]


def _rate(row: Row) -> float:
    """Tokens per second. Where every draft is accepted a step brings K + 1 tokens a stream, and whole steps tell it:
    what a window of two seconds counts at one stream is off by a step at its edges, half a percent.
    """
    if row["station"].endswith(CERTAIN):
        return float(1000 * row["streams"] * (row["k"] + 1) / row["mean_ms"])
    return float(row["tok_s"])


def cost_table(rows: list[Row]) -> list[str]:
    """What the agent took of each step: the account at the station's end."""
    if not rows:
        return []
    last = {(row["station"], row["who"], row["streams"]): row for row in rows}
    lines = ["### The agent's own time in a step, µs", ""]
    lines += [
        "Held: between two steps, where the device may wait for it. All: that and what runs beside the device. By the",
        "clock.",
        "",
    ]
    head = ["station", "K", "streams", "steps", "held, median", "held, 99 %", "all, median", "all, 99 %"]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (station, who, streams), row in sorted(last.items()):
        figures = [f"{row[name]:.0f}" for name in ("heldP50Us", "heldP99Us", "allP50Us", "allP99Us")]
        decided = "adaptive" if who == "adaptive" else "held"
        lines.append("| " + " | ".join([station, decided, str(streams), str(row["steps"]), *figures]) + " |")
    return [*lines, ""]


def phase_table(rows: list[Row]) -> list[str]:
    """Tokens per second of each policy in each phase, and what adaptive reaches of the best static K."""
    lines: list[str] = []
    for (station,), own in grouped(rows, "station").items():
        policies = sorted({row["policy"] for row in own}, key=lambda name: (name in CHOOSING, name))
        static = [name for name in policies if name not in CHOOSING]
        mean = {
            key: statistics.fmean(r["tok_s"] for r in group) for key, group in grouped(own, "phase", "policy").items()
        }
        lines += [f"### Adaptive against every static K, {station}", ""]
        lines += ["| phase | " + " | ".join(policies) + " | adaptive / best static of the phase |"]
        lines += ["|" + "---|" * (len(policies) + 2)]
        for (phase,) in grouped(own, "phase"):
            best = max(mean[phase, name] for name in static)
            cells = [f"{mean[phase, name]:.0f}" for name in policies] + [
                f"{100 * mean[phase, 'adaptive'] / best:.1f} %"
            ]
            lines.append("| " + " | ".join([phase, *cells]) + " |")
        lines += ["", *_whole_run(own, static), ""]
    return lines


SINCE: Final = (0, 1, 3, 10, 30, 60)
"""Seconds since the text turned: where what a turn costs is looked for."""


def alternate_table(rows: list[Row]) -> list[str]:
    """Text that turns: every static K, adaptive, and what it reaches of each phase's best, repeat by repeat."""
    lines: list[str] = []
    for (station, streams), own in grouped(rows, "station", "streams").items():
        found = grouped(own, "phase", "policy")
        kinds = list(dict.fromkeys(row["phase"] for row in own))
        static = sorted({row["policy"] for row in own} - {"adaptive"})
        for cells in found.values():  # longer ones, where there are, instead of the scouting
            if any(row["repeat"] >= 0 for row in cells):
                cells[:] = [row for row in cells if row["repeat"] >= 0]
        best = {}
        for kind in kinds:
            asked = [k for k in static if found[kind, k][0]["repeat"] >= 0]
            best[kind] = max((_mean(found[kind, k], "tok_s"), k) for k in asked)[1]
        one = max(static, key=lambda k: sum(_mean(found[kind, k], "tok_s") for kind in kinds))
        lines += [f"### Text that turns, {station}, {streams} stream{'s' if streams > 1 else ''}", ""]
        lines += ["| phase | " + " | ".join([*static, "adaptive"]) + " |", "|" + "---|" * (len(static) + 2)]
        for kind in kinds:
            figures = [
                f"{_mean(group, 'tok_s'):.0f} ({len(group)} × {group[0]['seconds']:.0f} s)"
                for group in (found[kind, policy] for policy in [*static, "adaptive"])
            ]
            lines.append(f"| {kind} | " + " | ".join(figures) + " |")
        lines += ["", "| adaptive of | tok/s, as drawn | at the expected acceptance |", "|---|---|---|"]
        for name, both in _ratios(found, kinds, best, one).items():
            lines.append(f"| {name} | " + " | ".join("{:.1f} ± {:.1f} %".format(*interval(f)) for f in both) + " |")
        lines += ["", *_since(found, kinds, best), ""]
    return lines


def _mean(cells: list[Row], name: str) -> float:
    return statistics.fmean(row[name] for row in cells)


def _expected(row: Row) -> float:
    """Tokens per second, had each step brought what steps of its K bring on average at these rates."""
    drawn = sum(tokens for _, tokens in row["perK"].values())
    mean = sum(requests * row["expected"][k] for k, (requests, _) in row["perK"].items())
    return float(row["tok_s"] * mean / drawn)


def _ratios(
    found: dict[tuple[Any, ...], list[Row]], kinds: list[str], best: dict[str, str], one: str
) -> dict[str, tuple[list[float], list[float]]]:
    """Per cent, of each repeat of adaptive: of each phase's best static K, and of the best single one."""
    figures: dict[str, tuple[list[float], list[float]]] = {}
    ways = (lambda row: float(row["tok_s"]), _expected)
    mine = [{row["repeat"]: row for row in found[kind, "adaptive"]} for kind in kinds]
    repeats = sorted(set.intersection(*map(set, mine)))  # one that was cut off does not count

    def level(way: Any, kind: str, policy: str) -> float:
        return statistics.fmean(map(way, found[kind, policy]))

    phases = [
        [[100 * way(own[repeat]) / level(way, kind, best[kind]) for repeat in repeats] for way in ways]
        for kind, own in zip(kinds, mine, strict=True)
    ]
    for kind, both in zip(kinds, phases, strict=True):
        figures[f"the best of {kind} text, {best[kind]}"] = (both[0], both[1])
    means = [[statistics.fmean(pair) for pair in zip(*(both[i] for both in phases), strict=True)] for i in (0, 1)]
    figures["the best of each phase, mean"] = (means[0], means[1])
    shares: list[list[float]] = []
    for way in ways:
        single = sum(level(way, kind, one) for kind in kinds)
        shares.append([100 * sum(way(own[repeat]) for own in mine) / single for repeat in repeats])
    figures[f"the best single K of the whole run, {one}"] = (shares[0], shares[1])
    return figures


def _since(found: dict[tuple[Any, ...], list[Row]], kinds: list[str], best: dict[str, str]) -> list[str]:
    """Where in a phase adaptive loses."""
    shortest = min(len(row["perSecond"]) - 1 for kind in kinds for row in found[kind, "adaptive"])
    spans = [(begin, end) for begin, end in itertools.pairwise(SINCE) if begin < shortest]
    lines = ["| seconds since the text turned | " + " | ".join(f"{a} to {b}" for a, b in spans) + " |"]
    lines += ["|" + "---|" * (len(spans) + 1)]
    for kind in kinds:
        level = statistics.fmean(statistics.fmean(row["perSecond"][:-1]) for row in found[kind, best[kind]])
        cells = [
            100 * statistics.fmean(statistics.fmean(row["perSecond"][a:b]) for row in found[kind, "adaptive"]) / level
            for a, b in spans
        ]
        lines.append(f"| {kind}: % of {best[kind]} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    return lines


def _whole_run(own: list[Row], static: list[str]) -> list[str]:
    """Tokens of whole rounds: phases of equal length count by what they brought relative to the phase's best."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for group in grouped(own, "repeat").values():
        phases = grouped(group, "phase")
        for policy in [*static, *CHOOSING]:
            shares = []
            for rows in phases.values():
                rate = {row["policy"]: row["tok_s"] for row in rows}
                if policy in rate and set(static) <= set(rate):
                    shares.append(rate[policy] / max(rate[name] for name in static))
            if len(shares) == len(phases):
                ratios[policy].append(100 * statistics.fmean(shares))
    mean, half = interval(ratios["adaptive"])
    return [
        "Mean share of the phase's best static K over a whole round (per round: "
        + "; ".join(f"{name} {', '.join(f'{value:.1f}' for value in values)} %" for name, values in ratios.items())
        + ")"
        + (f"; `adaptive`: {mean:.1f} ± {half:.1f} %." if half < math.inf else ".")
    ]


def plot(rows: list[Row], out: Path) -> None:
    """Tokens per second against K, one panel a model, one line a concurrency."""
    stations = list(grouped(rows, "station").items())
    if not stations:
        return
    figure, axes = plt.subplots(1, len(stations), figsize=(5.5 * len(stations), 4), squeeze=False)
    for axis, ((station,), own) in zip(axes[0], stations, strict=True):
        for (streams,), here in sorted(grouped([row for row in own if row["k"] >= 0], "streams").items()):
            ks = sorted({row["k"] for row in here})
            points = [interval([row["tok_s"] for row in here if row["k"] == k]) for k in ks]
            axis.errorbar(ks, [p[0] for p in points], [p[1] for p in points], marker="o", capsize=3, label=f"{streams}")
        axis.set(title=station.split("-")[0].upper(), xlabel="K", ylabel="tokens per second", yscale="log")
        axis.legend(title="streams")
    figure.tight_layout()
    figure.savefig(out)


def plot_turns(rows: list[Row], out: Path) -> None:
    """Tokens of each second: adaptive through the turns of the text, and the best static K of each phase."""
    groups = list(grouped(rows, "station", "streams").items())
    if not groups:
        return
    figure, axes = plt.subplots(1, len(groups), figsize=(6.5 * len(groups), 4), squeeze=False)
    for axis, ((station, streams), own) in zip(axes[0], groups, strict=True):
        seconds: list[int] = []
        for row in own:
            if row["policy"] == "adaptive":
                whole = row["perSecond"][: int(row["seconds"])]
                begin = len(seconds)
                seconds += whole
                static = [
                    r for r in own if r["repeat"] >= 0 and r["phase"] == row["phase"] and r["policy"] != "adaptive"
                ]
                level = max(_mean(cells, "tok_s") for cells in grouped(static, "policy").values())
                axis.plot([begin, len(seconds)], [level, level], color="black", linewidth=1)
                axis.text(begin, level, f" {row['phase']} text", verticalalignment="bottom", fontsize="small")
        axis.plot([second + 0.5 for second in range(len(seconds))], seconds, linewidth=0.8)
        axis.set(title=f"{station}, {streams} stream{'s' if streams > 1 else ''}", xlabel="seconds under adaptive")
        axis.set(ylabel="tokens per second; black: best static K", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    """Writes bench/results/NAME.md, NAME-sweep.svg and NAME.jsonl."""
    parser = argparse.ArgumentParser(description="Report of a GPU run")
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--machine", default="", help="what it ran on")
    parser.add_argument("--name", default="gpu", help="of the files written")
    arguments = parser.parse_args()
    raw = b"".join(file.read_bytes() for file in arguments.results)
    rows = [json.loads(line) for line in raw.splitlines() if line.strip()]
    by_kind = {
        kind: [row for row in rows if row["kind"] == kind]
        for kind in ("sweep", "compare", "costs", "phases", "alternate", "error", "status")
    }
    OUT.mkdir(exist_ok=True)
    lines = ["# Live K on a GPU", "", f"{arguments.machine} `bench/gpu/README.md` says how. ± is a 95 % interval.", ""]
    lines += sweep_table(by_kind["sweep"]) + order_table(by_kind["sweep"])
    lines += compare_table(by_kind["compare"]) if by_kind["compare"] else []
    lines += cost_table(by_kind["costs"]) + phase_table(by_kind["phases"])
    lines += alternate_table(by_kind["alternate"])
    for row in by_kind["status"]:
        facts = {name: row[name] for name in ("overhead", "exceptions")} | {"graphs": row["engine"]["graphs"]}
        lines.append(f"- {row['station']}: `{json.dumps(facts)}`")
    lines += [f"- error in {row['station']}: {row['error'].splitlines()[0]}" for row in by_kind["error"]]
    (OUT / f"{arguments.name}.md").write_text("\n".join(lines) + "\n")
    plot(by_kind["sweep"], OUT / f"{arguments.name}-sweep.svg")
    plot_turns(by_kind["alternate"], OUT / f"{arguments.name}.svg")
    (OUT / f"{arguments.name}.jsonl").write_bytes(raw)


if __name__ == "__main__":
    main()
