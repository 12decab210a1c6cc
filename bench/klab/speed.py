"""How long a call of each policy takes: microseconds, and as a share of the fastest decode step measured."""

from __future__ import annotations

import random
import time
from typing import Any

from gemmaspec_engine.policy import NAMES, make

FASTEST_STEP_US = 4860.0
"""A decode step of the 26B-A4B on an H100, one stream, no speculation."""


def measure(name: str, batch: int, *, steps: int = 4000, k_max: int = 8, seed: int = 1) -> dict[str, float]:
    """Median and 99th percentile of `choose` and `observe`, in microseconds."""
    policy, rng = make(name, k_max=k_max), random.Random(seed)
    ids, fresh = list(range(batch)), batch
    chooses, observes = [], []
    for _ in range(steps):
        for i in range(batch):
            if rng.random() < 0.01:
                ids[i], fresh = fresh, fresh + 1
        requests = tuple(ids)
        began = time.perf_counter_ns()
        k = policy.choose(batch, requests)
        chooses.append(time.perf_counter_ns() - began)
        accepted = [_length(rng, k) for _ in range(batch)]
        step_ms = (10 + 0.8 * k + 0.4 * batch) * rng.lognormvariate(0, 0.03)
        began = time.perf_counter_ns()
        policy.observe(batch, k, accepted, step_ms, requests)
        observes.append(time.perf_counter_ns() - began)
    pair = [a + b for a, b in zip(chooses, observes, strict=True)]
    return {
        "choose": _at(chooses, 0.5),
        "chooseP99": _at(chooses, 0.99),
        "observe": _at(observes, 0.5),
        "observeP99": _at(observes, 0.99),
        "shareOfFastestStep": _at(pair, 0.5) / FASTEST_STEP_US,
    }


def measure_all() -> dict[str, Any]:
    """Every policy at 1 and 8 requests."""
    return {name: {str(batch): measure(name, batch) for batch in (1, 8)} for name in NAMES}


def _length(rng: random.Random, k: int) -> int:
    length = 0
    while length < k and rng.random() < 0.75:
        length += 1
    return length


def _at(values: list[int], share: float) -> float:
    return sorted(values)[int(len(values) * share)] / 1000.0
