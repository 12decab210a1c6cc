"""How long the rest of a sweep will take, by what its turns have taken so far."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence

from gemmaspec.core.bench.sweep import Turn

# From what is most alike to what is least.
_LIKE: tuple[Callable[[Turn], Hashable], ...] = (
    lambda turn: (turn.concurrency, turn.workload.name, turn.k),
    lambda turn: (turn.concurrency, turn.workload.name),
    lambda turn: turn.concurrency,
)


def seconds_left(done: Sequence[tuple[Turn, float]], rest: Iterable[Turn]) -> float | None:
    """Seconds; None before anything was measured.

    A turn is taken to last as its likes did. Of a concurrency that was not measured yet, an answer is taken to last
    as those of the last one did: what the queue adds is not known.
    """
    if not done:
        return None
    tables = [_means(done, like) for like in _LIKE]
    last, seconds = done[-1]
    pace = seconds / last.workload.tokens
    total = 0.0
    for turn in rest:
        known = (table.get(like(turn)) for table, like in zip(tables, _LIKE, strict=True))
        total += next((mean for mean in known if mean is not None), pace * turn.workload.tokens)
    return total


def _means(done: Sequence[tuple[Turn, float]], like: Callable[[Turn], Hashable]) -> dict[Hashable, float]:
    groups: dict[Hashable, list[float]] = {}
    for turn, seconds in done:
        groups.setdefault(like(turn), []).append(seconds)
    return {key: statistics.fmean(values) for key, values in groups.items()}
