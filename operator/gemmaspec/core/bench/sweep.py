"""What is measured, and in which order.

All K of a round are measured one after the other, in an order that rotates from round to round, so that what the
machine does meanwhile meets all of them alike; they are compared within the round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

CONCURRENCIES: Final = (1, 4, 8)
GRID: Final = (0, 1, 2, 4, 8)
RUNS: Final = 3
TOKENS: Final = 600
TEMPERATURE: Final = 0.7
MOST_CONCURRENCY: Final = 256
MOST_RUNS: Final = 20
MOST_TOKENS: Final = 32_768
MOST_WORKLOADS: Final = 8
# llama-benchy's: a prompt of so many tokens behind a context of such a depth, and so many generated tokens.
PREFILL: Final = 2048
GENERATED: Final = 128
DEPTHS: Final = (0, 4096, 8192)


class BadSweep(ValueError):
    """A sweep that can't be made; the text names the field, its value, and what it takes."""


@dataclass(frozen=True)
class Workload:
    """What every request of a run asks for.

    text: the prompt; where ``prompt_tokens`` is set, it is repeated until the prompt is about so long. tokens: length
    of every answer.
    """

    name: str
    text: str
    tokens: int
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Turn:
    """One measurement: ``concurrency`` requests at once, answered in full."""

    workload: Workload
    concurrency: int
    k: int | None
    """None: whatever K the engine runs with."""
    run: int


@dataclass(frozen=True)
class Sweep:
    """All measurements. ``ks``: None alone where K is not moved."""

    workloads: tuple[Workload, ...]
    concurrencies: tuple[int, ...] = CONCURRENCIES
    ks: tuple[int | None, ...] = GRID
    runs: int = RUNS
    temperature: float = TEMPERATURE
    seldom: bool = False
    """K is moved as seldom as can be: each move is a restart."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def size(self) -> int:
        """Number of measurements."""
        return len(self.workloads) * len(self.concurrencies) * len(self.ks) * self.runs

    def moves(self, current: int | None) -> int:
        """How often K changes where it is moved seldom, from ``current`` and back to it."""
        path = (current, *self.ks, current)
        return sum(before != after for before, after in pairwise(path))

    @property
    def tokens(self) -> int:
        """Tokens that are generated in all."""
        each = sum(workload.tokens for workload in self.workloads)
        return each * sum(self.concurrencies) * len(self.ks) * self.runs

    def turns(self) -> Iterator[Turn]:
        """In order: K is outside of the workloads, since a change of it takes a moment."""
        if self.seldom:
            for k in self.ks:
                for concurrency in self.concurrencies:
                    for run in range(self.runs):
                        yield from (Turn(workload, concurrency, k, run) for workload in self.workloads)
            return
        for at, concurrency in enumerate(self.concurrencies):
            for run in range(self.runs):
                for k in rotated(self.ks, run + at):
                    for workload in self.workloads:
                        yield Turn(workload, concurrency, k, run)


def rotated(ks: Sequence[int | None], by: int) -> tuple[int | None, ...]:
    """The same values, beginning with another: after as many rounds as there are values each was at each place."""
    at = by % len(ks)
    return (*ks[at:], *ks[:at])


def fit(asked: Sequence[int], engine: Sequence[int]) -> tuple[int, ...]:
    """Those of ``asked`` that the engine has graphs for, 0 first: everything is judged against it.

    Raises:
        BadSweep: none of them, or 0 is none of the engine's.
    """
    found = tuple(sorted({0, *asked} & set(engine)))
    if 0 not in found or len(found) < 2:
        have = ", ".join(map(str, engine)) or "none"
        raise BadSweep(
            f"ks is {', '.join(map(str, asked)) or 'empty'}, and the engine was started for K = {have}: a sweep "
            "needs 0 and one more of these; name others, or set spec.speculative.control.kMax"
        )
    return found


def depth_name(depth: int) -> str:
    """A workload of llama-benchy's in its own words."""
    return f"pp{PREFILL}+tg{GENERATED}" + (f"@d{depth}" if depth else "")


def fitting(workloads: Sequence[Workload], context: int | None) -> tuple[tuple[Workload, ...], tuple[Workload, ...]]:
    """Workloads that a context length has room for, and those that it has not. Of a text two bytes are taken to be a
    token: vocabularies of 262,144 need half as many, a small one about so many. Raises BadSweep where none fits.
    """

    def length(workload: Workload) -> int:
        return (workload.prompt_tokens or len(workload.text.encode()) // 2) + workload.tokens

    room = [(entry, context is None or length(entry) <= context) for entry in workloads]
    if workloads and not any(fits for _, fits in room):
        least = min(map(length, workloads))
        raise BadSweep(
            f"tokens is {workloads[0].tokens}: with its prompt the shortest one needs {least}, and the engine takes "
            f"{context}; give fewer tokens, or shorter prompts"
        )
    return tuple(entry for entry, fits in room if fits), tuple(entry for entry, fits in room if not fits)


def _check(sweep: Sweep) -> None:
    _within("workloads", len(sweep.workloads), 1, MOST_WORKLOADS, "prompts")
    names = [workload.name for workload in sweep.workloads]
    if len(set(names)) < len(names):
        raise BadSweep(f"workloads are {', '.join(names)}: two have one name; give each its own")
    for workload in sweep.workloads:
        _within("tokens", workload.tokens, 2, MOST_TOKENS, "tokens an answer")
    _within("runs", sweep.runs, 1, MOST_RUNS, "runs of each measurement")
    _distinct("concurrency", sweep.concurrencies)
    for concurrency in sweep.concurrencies:
        _within("concurrency", concurrency, 1, MOST_CONCURRENCY, "requests at once")
    _distinct("ks", sweep.ks)
    if not 0.0 <= sweep.temperature <= 2.0:
        raise BadSweep(f"temperature is {sweep.temperature:g}; it takes 0 to 2 (0 is greedy, the sources' is 0.7)")


def _within(field: str, value: int, low: int, high: int, meaning: str) -> None:
    if not low <= value <= high:
        raise BadSweep(f"{field} is {value}; it takes {low} to {high} {meaning}")


def _distinct(field: str, values: Sequence[int | None]) -> None:
    if not values or len(set(values)) < len(values):
        raise BadSweep(f"{field} is {', '.join(map(str, values)) or 'empty'}; give each value once, and at least one")
