"""What a sweep recommends: a K for each running batch, with what it gains and how sure that is.

Batches are those that the engine really ran: eight clients of an engine with four sequences measure its queue, and
count as a batch of four. All kinds of text count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemmaspec.core.bench import figures
from gemmaspec.core.bench.interval import stratified
from gemmaspec.core.bench.result import Advice, Choice, Interval, Run

# (workload, concurrency) -> K -> runs
_Strata = Mapping[tuple[str, int], Mapping[int, Sequence[Run]]]


def advise(runs: Sequence[Run], current: int, sequences: int | None = None, live: bool = True) -> Advice | None:
    """The recommendation; None where K was not swept, or without K = 0.

    Args:
        runs: of the sweep.
        current: K that the spec asks for; where it was not measured, the largest measured one below it.
        sequences: most sequences that the engine runs at once.
        live: whether K is moved without a restart, so that it can follow the batch.
    """
    measured = sorted({entry.k for entry in runs if entry.k is not None})
    if len(measured) < 2 or measured[0] != 0:
        return None
    now = max(k for k in measured if k <= max(current, 0))
    choices = [_choice(batch, strata, now, measured) for batch, strata in sorted(_batches(runs).items())]
    schedule = [choice for choice in choices if choice is not None]
    if not schedule:
        return None
    return Advice(
        current=now,
        schedule=schedule,
        vllm_schedule=_ranges(schedule, sequences),
        patch=_patch(schedule, now, max(measured), live),
        sentence=_sentence(schedule, now, live),
    )


def _batches(runs: Sequence[Run]) -> dict[int, dict[tuple[str, int], dict[int, list[Run]]]]:
    """Runs by the batch that they came to at K = 0, for all K of a concurrency alike."""
    seen: dict[int, list[float]] = {}
    for entry in runs:
        if entry.batch is not None:
            seen.setdefault(entry.concurrency, []).append(entry.batch)
    found: dict[int, dict[tuple[str, int], dict[int, list[Run]]]] = {}
    for entry in runs:
        if entry.k is None:
            continue
        batches = seen.get(entry.concurrency)
        batch = max(1, round(sum(batches) / len(batches))) if batches else entry.concurrency
        stratum = found.setdefault(batch, {}).setdefault((entry.workload, entry.concurrency), {})
        stratum.setdefault(entry.k, []).append(entry)
    return found


def _choice(batch: int, strata: _Strata, now: int, measured: Sequence[int]) -> Choice | None:
    gains = {k: _gain(strata, k, now) for k in measured}
    known = {k: gain for k, gain in gains.items() if gain is not None}
    if now not in known:
        return None
    best = max(sorted(known), key=lambda k: known[k].mean)
    low = known[best].low
    sure = best == now or (low is not None and low > 0.0)
    chosen = best if sure else now
    over_zero = _gain(strata, chosen, 0)
    if over_zero is None:
        return None
    unsure = {} if sure else {"likely": best, "likely_gain": known[best]}
    return Choice(batch=batch, k=chosen, gain=known[chosen], over_zero=over_zero, **unsure)


def _gain(strata: _Strata, k: int, base: int) -> Interval | None:
    """Relative gain in tokens per second of a K over another, all kinds of text alike."""
    if k == base:
        return Interval(mean=0.0, low=0.0, high=0.0)
    logs = [figures.log_ratios(by_k[k], by_k[base]) for by_k in strata.values() if k in by_k and base in by_k]
    if not any(logs):
        return None
    mean, half = stratified(logs)
    gain = figures.exponential(mean, half)
    return Interval(
        mean=round(gain.mean - 1.0, 4),
        low=None if gain.low is None else round(gain.low - 1.0, 4),
        high=None if gain.high is None else round(gain.high - 1.0, 4),
    )


def _ranges(schedule: Sequence[Choice], sequences: int | None) -> list[list[int]]:
    """Inclusive ranges [first, last, K] that cover every batch: a batch between two measured ones goes by the nearer
    one, by ratio.
    """
    last = max(sequences or 0, schedule[-1].batch)
    found: list[list[int]] = []
    for batch in range(1, last + 1):
        nearest = min(schedule, key=lambda choice: (abs(math.log(choice.batch / batch)), choice.batch))
        if found and found[-1][2] == nearest.k:
            found[-1][1] = batch
        else:
            found.append([batch, batch, nearest.k])
    return found


def _patch(schedule: Sequence[Choice], now: int, top: int, live: bool) -> dict[str, Any] | None:
    """Merge patch of the spec. kMax stays what the engine was started for, so that nothing restarts."""
    ks = {choice.k for choice in schedule}
    if ks == {now}:
        return None
    speculative: dict[str, Any] = {"k": max(ks)}
    if live:
        speculative["control"] = {"kMax": top}
        if len(ks) > 1:
            speculative["control"] |= {"mode": "Adaptive", "kMin": 0}
    elif len(ks) > 1:
        speculative["k"] = schedule[0].k
    return {"spec": {"speculative": speculative}}


def _sentence(schedule: Sequence[Choice], now: int, live: bool) -> str:
    moved = [choice for choice in schedule if choice.k != now]
    if not moved:
        unsure = [choice for choice in schedule if choice.likely is not None]
        may = [f"K={choice.likely} may be better at batch {choice.batch}" for choice in unsure]
        more = f" ({', '.join(may)}: more runs would tell)" if may else ""
        return f"K={now} stays: no other K is surely better{more}"
    parts = [f"K={choice.k} at batch {choice.batch} ({percent(choice.gain)} over K={now})" for choice in moved]
    kept = [str(choice.batch) for choice in schedule if choice.k == now]
    words = ", ".join(parts) + (f"; K={now} stays at batch {', '.join(kept)}" if kept else "")
    if len({choice.k for choice in schedule}) > 1 and not live:
        words += "; this engine moves K by restart, so the patch goes by the smallest batch"
    return words


def percent(gain: Interval) -> str:
    """A relative gain with its interval, as people read it."""
    if gain.low is None or gain.high is None:
        return f"{100 * gain.mean:+.0f} %"
    return f"{100 * gain.mean:+.0f} %, 95 %: {100 * gain.low:+.0f} to {100 * gain.high:+.0f}"
