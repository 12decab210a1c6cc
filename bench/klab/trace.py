"""Traces: what an engine would have seen, step by step, whatever K a policy chooses.

A trace is a list of segments. Inside one the traffic does not change: conditional acceptance per
position, spread between requests, batch size, and the length of a step for each K. `expand` draws the
randomness once, so that every policy meets the same requests, drafts and step times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

DRIFT_PHASE = 100
"""Where acceptance drifts, every so many steps are a phase of their own to the oracle."""


@dataclass(frozen=True)
class Segment:
    """One phase of traffic.

    Attributes:
        steps: decode steps.
        accept: P(draft j accepted | all before it accepted), one per position up to k_max.
        batch: requests per step; with `batch_to` the batch wanders between the two.
        step_ms: mean length of a step for K = 0..k_max at `batch` requests, in milliseconds.
        concentration: of the Beta distribution of acceptance between requests; None = no spread.
        shared: the spread is common to all positions of a request instead of one draw per position.
        request_steps: mean number of steps a request lives; None = for the whole trace.
        noise: standard deviation of the logarithm of a step time.
        accept_to: if given, acceptance drifts linearly to these values over the segment.
        growth: relative step time per further request when the batch wanders.
    """

    steps: int
    accept: tuple[float, ...]
    batch: int
    step_ms: tuple[float, ...]
    concentration: float | None = 20.0
    shared: bool = False
    request_steps: int | None = 100
    noise: float = 0.03
    accept_to: tuple[float, ...] | None = None
    batch_to: int | None = None
    growth: float = 0.0


@dataclass(frozen=True)
class Trace:
    """A named list of segments over one grid of K."""

    name: str
    k_max: int
    segments: tuple[Segment, ...]
    ks: tuple[int, ...] | None = None
    outliers: float = 0.0
    missing: float = 0.0
    note: str = ""

    @property
    def grid(self) -> tuple[int, ...]:
        """The K values a policy may use."""
        return self.ks if self.ks is not None else tuple(range(self.k_max + 1))


@dataclass
class Run:
    """A trace with its randomness drawn: one entry per step.

    Attributes:
        lengths: drafts each request would have accepted at k_max; min(length, K) at a smaller K.
        step_ms: mean step time for K = 0..k_max; `noise` times it is the real one, `reported` what is told.
        segment: the phase, to the oracle.
        expected: expected accepted drafts of the step for K = 0..k_max, given its requests.
    """

    trace: Trace
    batch: list[int] = field(default_factory=list)
    requests: list[tuple[int, ...]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    step_ms: list[list[float]] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)
    expected: list[list[float]] = field(default_factory=list)


def survival(accept: Sequence[float]) -> list[float]:
    """Expected accepted drafts for K = 0..len(accept): partial sums of the products of `accept`."""
    total, chain, result = 0.0, 1.0, [0.0]
    for a in accept:
        chain *= a
        total += chain
        result.append(total)
    return result


def _request_rates(rng: np.random.Generator, segment: Segment) -> Matrix:
    mean: Matrix = np.clip(np.array(segment.accept, dtype=float), 1e-4, 1 - 1e-4)
    if segment.concentration is None:
        return mean
    c = segment.concentration
    if not segment.shared:
        rates: Matrix = rng.beta(c * mean, c * (1 - mean))
        return rates
    # One normal draw moves all positions; its size matches the Beta's variance at each mean.
    shift = rng.standard_normal() / math.sqrt(c + 1)
    moved: Matrix = mean + shift * np.sqrt(mean * (1 - mean))
    return moved.clip(1e-4, 1 - 1e-4)


class _Pool:
    """Requests alive in a run."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.next_id = 0
        self.alive: list[tuple[int, Matrix, float]] = []

    def step(self, segment: Segment, size: int) -> list[tuple[int, Matrix, float]]:
        self.alive = [r for r in self.alive if r[2] > 0][:size]
        while len(self.alive) < size:
            mean = segment.request_steps
            life = math.inf if mean is None else max(2, self.rng.normal(mean, mean / 4))
            self.alive.append((self.next_id, _request_rates(self.rng, segment), float(life)))
            self.next_id += 1
        now = list(self.alive)
        self.alive = [(i, rates, life - 1) for i, rates, life in self.alive]
        return now

    def renew(self, segment: Segment) -> None:
        """A phase changed: what runs on draws its rates from the new mix."""
        self.alive = [(i, _request_rates(self.rng, segment), life) for i, _, life in self.alive]


def expand(trace: Trace, seed: int) -> Run:
    """Draw the randomness of a trace: requests, accepted lengths at k_max, step-time noise."""
    rng = np.random.default_rng([seed, 0x6B1AB])
    run, pool = Run(trace), _Pool(rng)
    for segment in trace.segments:
        pool.renew(segment)
        _expand_segment(run, pool, segment, rng)
    return run


def _expand_segment(run: Run, pool: _Pool, segment: Segment, rng: np.random.Generator) -> None:
    first = run.segment[-1] + 1 if run.segment else 0
    size = segment.batch
    low, high = sorted((segment.batch, segment.batch_to or segment.batch))
    base = np.array(segment.accept, dtype=float)
    for step in range(segment.steps):
        if segment.batch_to is not None and rng.random() < 0.1:
            size = min(high, max(low, size + int(rng.integers(-1, 2))))
        alive = pool.step(segment, size)
        rates = np.array([r[1] for r in alive])
        if segment.accept_to is not None:
            drift = (np.array(segment.accept_to) - base) * (step / segment.steps)
            rates = np.clip(rates + drift, 1e-4, 1 - 1e-4)
        passed = rng.random(rates.shape) < rates
        lengths = np.where(passed.all(axis=1), rates.shape[1], passed.argmin(axis=1))
        scale = 1.0 + segment.growth * (size - segment.batch)
        factor = math.exp(rng.normal(0.0, segment.noise) - segment.noise**2 / 2)
        run.batch.append(size)
        run.requests.append(tuple(r[0] for r in alive))
        run.lengths.append(lengths.tolist())
        run.step_ms.append([ms * scale for ms in segment.step_ms])
        run.noise.append(factor)
        run.reported.append(_reported(run.trace, rng, factor))
        run.segment.append(first + (step // DRIFT_PHASE if segment.accept_to is not None else 0))
        products = np.cumsum(np.cumprod(rates, axis=1), axis=1).sum(axis=0)
        run.expected.append([0.0, *products.tolist()])


def _reported(trace: Trace, rng: np.random.Generator, factor: float) -> float:
    draw = rng.random()
    if draw < trace.missing:
        return math.nan
    if draw < trace.missing + trace.outliers:
        return factor * float(rng.uniform(2.0, 30.0))
    return factor
