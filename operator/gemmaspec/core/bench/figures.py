"""The figures of a measurement, and what they come to.

Speedup is measured against K = 0 of the same round. Theory is (1 + meanAccepted) · T(0) / T(K): the tokens of a step
by the time that it takes, both measured, with meanAccepted the accepted drafts alone. Sources mix two conventions: an
"acceptance length" of 3.68 holds the bonus token that every step brings, a "mean accepted" of 1.98 does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gemmaspec.core.bench.interval import half_width
from gemmaspec.core.bench.result import Cell, Interval, Run
from gemmaspec.core.bench.sweep import Turn


class Spoilt(ValueError):
    """A measurement that can't be used; the text says why."""


@dataclass(frozen=True)
class Stream:
    """One request: seconds from its sending to its first and to its last token, and tokens."""

    first: float
    last: float
    tokens: int
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Counters:
    """Counters of an engine at a moment. requests: by how many requests its decode steps were, summed."""

    steps: Mapping[int, float]
    requests: Mapping[int, float]
    tokens: Mapping[int, float]
    timed_seconds: Mapping[int, float]
    timed_steps: Mapping[int, float]
    drafted: tuple[float, ...]
    accepted: tuple[float, ...]
    generated: float


def run(
    turn: Turn,
    streams: Sequence[Stream],
    seconds: float,
    before: Counters,
    after: Counters,
    running: float | None = None,
) -> Run:
    """The figures of one measurement. running: mean number of running requests, where no agent counts steps.

    Raises:
        Spoilt: the engine restarted, or another K than the turn's took part.
    """
    if after.generated < before.generated:
        raise Spoilt("the engine's counters fell: it restarted during the measurement")
    steps = _moved(before.steps, after.steps)
    k = turn.k
    total = sum(steps.values())
    if k is not None and total > 0 and steps.get(k, 0.0) < 0.9 * total:
        ran = ", ".join(f"{count:.0f} at K={other}" for other, count in sorted(steps.items()) if count)
        raise Spoilt(f"K={k} was asked for, and decode steps were {ran}: somebody else moves K too")
    tokens = sum(stream.tokens for stream in streams)
    found = _of_steps(k, before, after)
    return Run(
        workload=turn.workload.name,
        concurrency=turn.concurrency,
        k=k,
        run=turn.run,
        seconds=round(seconds, 4),
        tokens=tokens,
        tokens_per_second=round(tokens / seconds, 3),
        stream_tokens_per_second=_rounded(_median(_pace(stream) for stream in streams), 3),
        ttft_seconds=_rounded(_median(stream.first for stream in streams), 4),
        prompt_tokens=max((stream.prompt_tokens for stream in streams), default=0) or None,
        prompt_tokens_per_second=_rounded(_median(_prefill(stream) for stream in streams), 2),
        drafted=[round(b - a) for a, b in _pairs(before.drafted, after.drafted)],
        accepted=[round(b - a) for a, b in _pairs(before.accepted, after.accepted)],
        other_tokens=max(0, round(after.generated - before.generated - tokens)),
        batch=_rounded(found.get("batch", running), 3),
        tokens_per_step=_rounded(found.get("tokens"), 4),
        step_milliseconds=_rounded(found.get("milliseconds"), 4),
    )


def _of_steps(k: int | None, before: Counters, after: Counters) -> dict[str, float]:
    """Batch, tokens per request, and milliseconds of the steps at ``k``, or of all steps."""

    def sum_of(earlier: Mapping[int, float], later: Mapping[int, float]) -> float:
        moved = _moved(earlier, later)
        return sum(moved.values()) if k is None else moved.get(k, 0.0)

    steps = sum_of(before.steps, after.steps)
    requests = sum_of(before.requests, after.requests)
    timed = sum_of(before.timed_steps, after.timed_steps)
    found = {}
    if steps and requests:
        found["batch"] = requests / steps
    if requests:
        found["tokens"] = sum_of(before.tokens, after.tokens) / requests
    if timed:
        found["milliseconds"] = 1000.0 * sum_of(before.timed_seconds, after.timed_seconds) / timed
    return found


def _moved(before: Mapping[int, float], after: Mapping[int, float]) -> dict[int, float]:
    return {k: count - before.get(k, 0.0) for k, count in after.items()}


def _pairs(before: Sequence[float], after: Sequence[float]) -> Iterable[tuple[float, float]]:
    return zip((*before, *(0.0 for _ in after[len(before) :])), after, strict=False)


def _pace(stream: Stream) -> float | None:
    passed = stream.last - stream.first
    return (stream.tokens - 1) / passed if passed > 0 and stream.tokens > 1 else None


def _prefill(stream: Stream) -> float | None:
    return stream.prompt_tokens / stream.first if stream.prompt_tokens and stream.first > 0 else None


def cells(runs: Iterable[Run]) -> list[Cell]:
    """Runs put together: by concurrency and workload in the order in which these first came, then by K."""
    groups: dict[tuple[str, int, int | None], list[Run]] = {}
    for entry in runs:
        groups.setdefault((entry.workload, entry.concurrency, entry.k), []).append(entry)
    places = list(dict.fromkeys(groups))
    names = list(dict.fromkeys(name for name, _, _ in places))
    clients = list(dict.fromkeys(concurrency for _, concurrency, _ in places))
    places.sort(key=lambda place: (clients.index(place[1]), names.index(place[0]), place[2] or 0))
    return [_cell(groups[place], groups.get((place[0], place[1], 0))) for place in places]


def _cell(group: Sequence[Run], base: Sequence[Run] | None) -> Cell:
    first = group[0]
    rate = [entry.tokens_per_second for entry in group]
    half = half_width(rate)
    mean = statistics.fmean(rate)
    milliseconds = _mean(entry.step_milliseconds for entry in group)
    per_step = _mean(entry.tokens_per_step for entry in group)
    return Cell(
        workload=first.workload,
        concurrency=first.concurrency,
        k=first.k,
        runs=len(group),
        tokens_per_second=Interval(
            mean=round(mean, 3),
            low=None if half is None else round(mean - half, 3),
            high=None if half is None else round(mean + half, 3),
        ),
        stream_tokens_per_second=_rounded(_mean(entry.stream_tokens_per_second for entry in group), 3),
        ttft_seconds=_rounded(_mean(entry.ttft_seconds for entry in group), 4),
        prompt_tokens_per_second=_rounded(_mean(entry.prompt_tokens_per_second for entry in group), 2),
        batch=_rounded(_mean(entry.batch for entry in group), 2),
        tokens_per_step=_rounded(per_step, 4),
        mean_accepted=None if per_step is None else round(max(0.0, per_step - 1.0), 4),
        acceptance=conditional(group),
        step_milliseconds=_rounded(milliseconds, 4),
        speedup=None if base is None else ratio(group, base),
        theory=_theory(per_step, milliseconds, base),
    )


def _theory(per_step: float | None, milliseconds: float | None, base: Sequence[Run] | None) -> float | None:
    alone = _mean(entry.step_milliseconds for entry in base or ())
    if per_step is None or not milliseconds or alone is None:
        return None
    return theory(per_step - 1.0, alone, milliseconds)


def theory(mean_accepted: float, alone: float, drafting: float) -> float:
    """Speedup of a K: (1 + meanAccepted) · T(0) / T(K). ``mean_accepted`` without the bonus token.

    >>> theory(1.98, 25.0, 50.0)
    1.49
    """
    return round((1.0 + mean_accepted) * alone / drafting, 4)


def conditional(group: Iterable[Run]) -> list[float]:
    """P(position i accepted | i-1 accepted), counts of all runs pooled; ends where nothing was drafted."""
    drafted: list[int] = []
    accepted: list[int] = []
    for entry in group:
        for i, (tried, hit) in enumerate(zip(entry.drafted, entry.accepted, strict=True)):
            if i == len(drafted):
                drafted.append(0)
                accepted.append(0)
            drafted[i] += tried
            accepted[i] += hit
    rates = []
    for tried, hit in zip(drafted, accepted, strict=True):
        if not tried:
            break
        rates.append(round(hit / tried, 4))
    return rates


def ratio(group: Sequence[Run], base: Sequence[Run]) -> Interval | None:
    """Tokens per second of ``group`` by those of ``base``, round by round; the mean is the geometric one."""
    logs = log_ratios(group, base)
    if not logs:
        return None
    return exponential(statistics.fmean(logs), half_width(logs))


def log_ratios(group: Sequence[Run], base: Sequence[Run]) -> list[float]:
    """Logarithms of the ratios of the rounds that both took part in."""
    against = {entry.run: entry.tokens_per_second for entry in base}
    return [
        math.log(entry.tokens_per_second / against[entry.run])
        for entry in group
        if against.get(entry.run, 0.0) > 0 and entry.tokens_per_second > 0
    ]


def exponential(mean: float, half: float | None) -> Interval:
    """From an interval of logarithms to one of ratios."""
    return Interval(
        mean=round(math.exp(mean), 4),
        low=None if half is None else round(math.exp(mean - half), 4),
        high=None if half is None else round(math.exp(min(mean + half, 50.0)), 4),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
