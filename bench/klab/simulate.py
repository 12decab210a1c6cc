"""Play a policy over a run and score it against the per-phase oracle.

The oracle of a phase is the K of the grid with the best goodput over that phase, all in hindsight:
expected tokens of the requests that really ran / mean step time. The score is the time in which the
per-phase oracle would have produced the policy's tokens, over the time the policy took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from gemmaspec_engine.policy import Policy

from .trace import Run


@dataclass
class Outcome:
    """What a policy did with a run."""

    score: float
    phase_scores: list[float]
    oracle_ks: list[int]
    changes: int
    steps: int
    chosen: list[int] = field(default_factory=list)
    regret_ms: float = 0.0


def oracle(run: Run) -> list[tuple[int, float]]:
    """For every phase the best K and its goodput in tokens per millisecond."""
    grid, count = run.trace.grid, run.segment[-1] + 1
    tokens = [[0.0] * len(grid) for _ in range(count)]
    time = [[0.0] * len(grid) for _ in range(count)]
    for i, phase in enumerate(run.segment):
        expected, step_ms, batch = run.expected[i], run.step_ms[i], run.batch[i]
        for j, k in enumerate(grid):
            tokens[phase][j] += batch + expected[k]
            time[phase][j] += step_ms[k]
    best = []
    for phase in range(count):
        rates = [t / ms for t, ms in zip(tokens[phase], time[phase], strict=True)]
        j = max(range(len(grid)), key=rates.__getitem__)
        best.append((grid[j], rates[j]))
    return best


def play(policy: Policy, run: Run, *, ids: bool = True, lag: int = 0) -> Outcome:
    """Drive `policy` through `run`; with `lag` results arrive that many steps late, as in an engine."""
    best = oracle(run)
    tokens = [0.0] * len(best)
    time = [0.0] * len(best)
    chosen: list[int] = []
    late: list[tuple[int, int, list[int], float, tuple[int, ...]]] = []
    for i, batch in enumerate(run.batch):
        requests = run.requests[i] if ids else ()
        k = policy.choose(batch, requests)
        chosen.append(k)
        phase, ms = run.segment[i], run.step_ms[i][k]
        # Expected tokens instead of drawn ones: less noise in the score, the same mean.
        tokens[phase] += batch + run.expected[i][k]
        time[phase] += ms
        reported = run.reported[i]
        accepted = [length if length < k else k for length in run.lengths[i]]
        late.append((batch, k, accepted, ms * reported if reported == reported else math.nan, requests))
        if len(late) > lag:
            policy.observe(*late.pop(0))
    return _outcome(best, tokens, time, chosen)


def _outcome(best: list[tuple[int, float]], tokens: list[float], time: list[float], chosen: list[int]) -> Outcome:
    ideal = [t / rate for t, (_, rate) in zip(tokens, best, strict=True)]
    phases = [a / b if b else 1.0 for a, b in zip(ideal, time, strict=True)]
    changes = sum(1 for a, b in pairwise(chosen) if a != b)
    return Outcome(
        score=sum(ideal) / sum(time),
        phase_scores=phases,
        oracle_ks=[k for k, _ in best],
        changes=changes,
        steps=len(chosen),
        chosen=chosen,
        regret_ms=sum(time) - sum(ideal),
    )
