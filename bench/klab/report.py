"""Plays every policy over every trace and writes the table, the JSON and the plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gemmaspec_engine.policy import NAMES, make

from .generate import VALIDATION, random_trace
from .public import public_traces
from .simulate import Outcome, oracle, play
from .trace import Run, Trace, expand

START, END = "<!-- klab:start -->", "<!-- klab:end -->"


@dataclass(frozen=True)
class Score:
    """One policy on one trace, averaged over seeds."""

    trace: str
    policy: str
    percent: float
    worst_phase: float
    changes: float
    regret_ms: float


def best_static(run: Run) -> float:
    """The score of the best single K, chosen in hindsight."""
    grid = run.trace.grid
    plays = (play(make("fixed", k_max=run.trace.k_max, ks=run.trace.ks, k=k), run) for k in grid)
    return max(outcome.score for outcome in plays)


def _score(trace: Trace, policy: str, outcomes: Sequence[Outcome]) -> Score:
    return Score(
        trace=trace.name,
        policy=policy,
        percent=100 * statistics.mean(o.score for o in outcomes),
        worst_phase=100 * min(min(o.phase_scores) for o in outcomes),
        changes=statistics.mean(o.changes / o.steps for o in outcomes),
        regret_ms=statistics.mean(o.regret_ms / o.steps for o in outcomes),
    )


def play_trace(job: tuple[Trace, tuple[int, ...], tuple[str, ...]], late: int = 0) -> list[Score]:
    """All policies, and the best static K, over one trace with each of its seeds; results come `late` steps late."""
    trace, seeds, names = job
    runs = [expand(trace, seed) for seed in seeds]
    scores = []
    for name in names:
        made = (make(name, k_max=trace.k_max, ks=trace.ks) for _ in runs)
        scores.append(
            _score(trace, name, [play(policy, run, lag=late) for policy, run in zip(made, runs, strict=True)])
        )
    static = 100 * statistics.mean(best_static(run) for run in runs)
    scores.append(Score(trace.name, "best static K", static, 0.0, 0.0, 0.0))
    return scores


def play_all(
    jobs: Iterable[tuple[Trace, tuple[int, ...], tuple[str, ...]]], workers: int, late: int = 0
) -> list[Score]:
    """Every job, in `workers` processes."""
    play_one = partial(play_trace, late=late)
    if workers <= 1:
        return [score for job in jobs for score in play_one(job)]
    with ProcessPoolExecutor(workers) as pool:
        return [score for scores in pool.map(play_one, jobs) for score in scores]


def jobs(held_out: int, seeds: int, names: tuple[str, ...] = NAMES, steps: float = 900.0) -> list[Any]:
    """The public traces with `seeds` seeds each, and `held_out` random ones."""
    public = [(trace, tuple(range(seeds)), names) for trace in public_traces()]
    random = [
        (random_trace(VALIDATION + i, steps=steps if i % 2 == 0 else steps / 3), (VALIDATION + i,), names)
        for i in range(held_out)
    ]
    return public + random


def summary(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Mean, worst and fifth percentile per policy."""
    result = {}
    for name in dict.fromkeys(score.policy for score in scores):
        values = sorted(score.percent for score in scores if score.policy == name)
        result[name] = {
            "mean": round(statistics.mean(values), 2),
            "worst": round(values[0], 2),
            "p5": round(values[len(values) // 20], 2),
            "changesPerStep": round(statistics.mean(s.changes for s in scores if s.policy == name), 4),
        }
    return result


def markdown(public: Sequence[Score], held: Sequence[Score]) -> str:
    """The table of the documents: traces down, policies across, percent of the per-phase oracle."""
    names = list(dict.fromkeys(score.policy for score in public))
    cell = {(score.trace, score.policy): score.percent for score in public}
    notes = {trace.name: trace.note for trace in public_traces()}
    lines = ["| trace | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for trace in dict.fromkeys(score.trace for score in public):
        row = [f"{cell[trace, name]:.1f}" for name in names]
        row[names.index("adaptive")] = f"**{cell[trace, 'adaptive']:.1f}**"
        lines.append(f"| {trace} | " + " | ".join(row) + " |")
    for label, scores in (("public", public), (f"{len({s.trace for s in held})} random", held)):
        if not scores:
            continue
        figures = summary(scores)
        lines += [
            f"| {label}: {key} | " + " | ".join(f"{figures[n][key]:.1f}" for n in names) + " |"
            for key in ("mean", "worst")
        ]
    lines += ["", *(f"- `{name}`: {note}." for name, note in notes.items())]
    return "\n".join(lines)


def promises(found: dict[str, Any], microseconds: dict[str, Any]) -> str:
    """What the detectors and the calls promise, beside what was measured."""
    alarms, mix = found["falseAlarms"], found["mixFalseAlarms"]
    faults = "; ".join(f"{100 * row['rate']:g} %: {row['median']} / {row['p95']}" for row in found["faultDelays"])
    speed = microseconds["adaptive"]
    one, eight = (speed[batch]["choose"] + speed[batch]["observe"] for batch in ("1", "8"))
    nats = f"strongest evidence {alarms['highest_nats']:.1f} of {alarms['needed_nats']:.1f} nats"
    healthy = "healthy traffic (mean .4, concentration 20, 100 drafts a request)"
    engines = f"{alarms['drafts']:,} drafts of {alarms['engines']:,} engines whose test is kept from settling"
    rows = [
        ("", "measured"),
        ("---", "---"),
        (f"false alarms of a fault: {healthy}, {engines}", f"{alarms['alarms']}; {nats}"),
        ("drafts to the verdict on a fault, 50 drafts a request: median / 95th percentile", faults),
        (
            "delay of a change of mix against the bound: five changes at 10, 30 and 100 drafts a request",
            f"at most {found['mixDelayWorst']['worstRatio']:.2f} ×",
        ),
        (
            f"drafts between false alarms of a change, {mix['promised']:,.0f} promised",
            f"{mix['meanBetween']:,.0f}",
        ),
        ("`choose` + `observe` of `adaptive`, medians at 1 and 8 requests", f"{one:.0f} and {eight:.0f} µs"),
    ]
    return "\n".join(f"| {left} | {right} |" for left, right in rows)


def rewrite(document: Path, text: str) -> None:
    """Replace what stands between the markers of a document.

    Raises:
        ValueError: the document has no markers.
    """
    old = document.read_text(encoding="utf-8")
    if START not in old or END not in old:
        raise ValueError(f"{document} has no {START} … {END}")
    head, rest = old.split(START, 1)
    document.write_text(f"{head}{START}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


def show(public: Sequence[Score], held: Sequence[Score]) -> None:
    """The same as a table in the terminal."""
    names = list(dict.fromkeys(score.policy for score in public))
    table = Table(title="% of the per-phase oracle")
    table.add_column("trace")
    for name in names:
        table.add_column(name, justify="right")
    cell = {(score.trace, score.policy): score.percent for score in public}
    for trace in dict.fromkeys(score.trace for score in public):
        table.add_row(trace, *(f"{cell[trace, name]:.1f}" for name in names))
    for label, scores in (("public", public), ("random", held)):
        if scores:
            table.add_section()
            figures = summary(scores)
            for key in ("mean", "worst", "p5", "changesPerStep"):
                table.add_row(f"{label} {key}", *(f"{figures[name][key]:.4g}" for name in names))
    Console(width=160).print(table)


def dump(path: Path, data: dict[str, Any]) -> None:
    """Write JSON for people and diffs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def timeline(trace: Trace, policy: str, seed: int = 0) -> tuple[list[int], list[int]]:
    """The K of each step, and the oracle's K of its phase."""
    run = expand(trace, seed)
    outcome = play(make(policy, k_max=trace.k_max, ks=trace.ks), run)
    best = oracle(run)
    return outcome.chosen, [best[phase][0] for phase in run.segment]
