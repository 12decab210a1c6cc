"""Random traces: the problem's variety, never its published points.

Used to tune and to validate; a seed below 1,000,000 belongs to tuning, one above to validation, and the
numbers in the documents come from validation seeds only.
"""

from __future__ import annotations

import numpy as np

from .trace import Segment, Trace

VALIDATION = 1_000_000
"""First seed of the validation traces."""


def _accept(rng: np.random.Generator, k_max: int) -> tuple[float, ...]:
    kind = rng.random()
    if kind < 0.3:
        first = rng.uniform(0.05, 0.35)
    elif kind < 0.65:
        first = rng.uniform(0.4, 0.9)
    else:
        first = rng.uniform(0.8, 0.98)
    slope = rng.choice([0.0, rng.normal(0.0, 0.02), -abs(rng.normal(0.0, 0.05))])
    values = first + slope * np.arange(k_max) + rng.normal(0, 0.02, k_max)
    return tuple(float(v) for v in np.clip(values, 0.005, 0.985))


class _Hardware:
    """Step times of one engine: base, price of a draft, a jump for the first, curvature, batch growth."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.base = float(np.exp(rng.uniform(np.log(5), np.log(90))))
        self.slope = float(np.exp(rng.uniform(np.log(0.02), np.log(0.5))))
        self.jump = float(rng.choice([0.0, rng.uniform(0, 0.5)]))
        self.bend = float(rng.choice([1.0, rng.uniform(0.7, 1.3)]))
        self.batch_base = float(rng.uniform(0.0, 0.12))
        self.batch_slope = float(rng.uniform(0.0, 0.15))

    def step_ms(self, batch: int, k_max: int) -> tuple[float, ...]:
        base = self.base * (1 + self.batch_base * (batch - 1))
        slope = self.base * self.slope * (1 + self.batch_slope * (batch - 1))
        jump = self.base * self.jump
        return tuple(float(base + (jump + slope * k**self.bend if k else 0.0)) for k in range(k_max + 1))


def _segment(
    rng: np.random.Generator, hardware: _Hardware, k_max: int, common: dict[str, object], steps: float
) -> Segment:
    batch = int(rng.choice([1, 1, 1, 2, 3, 4, 8, 8, 16]))
    wander = rng.random() < 0.25
    accept = _accept(rng, k_max)
    drift = rng.random() < 0.15
    return Segment(
        steps=int(np.clip(np.exp(rng.normal(np.log(steps), 0.6)), 150, 4000)),
        accept=accept,
        batch=batch,
        step_ms=hardware.step_ms(batch, k_max),
        accept_to=_accept(rng, k_max) if drift else None,
        batch_to=min(16, batch + int(rng.integers(1, 5))) if wander else None,
        growth=0.03,
        **common,  # type: ignore[arg-type]
    )


def random_trace(seed: int, *, steps: float = 900.0) -> Trace:
    """A trace drawn from `seed`; `steps` is the median length of a phase."""
    rng = np.random.default_rng([seed, 0x7ACE])
    k_max = int(rng.choice([4, 5, 6, 8, 8]))
    grids: list[tuple[int, ...] | None] = [None, None, tuple(k for k in (0, 1, 2, 4, 8) if k <= k_max)]
    concentration = rng.choice([5.0, 10.0, 20.0, 20.0, 50.0, 0.0])
    lives = [10, 30, 100, 100, 200, 0]
    life = int(lives[rng.integers(len(lives))])
    common: dict[str, object] = {
        "concentration": float(concentration) if concentration else None,
        "shared": bool(rng.random() < 0.4),
        "request_steps": life or None,
        "noise": float(rng.choice([0.01, 0.02, 0.03, 0.05, 0.1])),
    }
    hardware, one_box = _Hardware(rng), rng.random() < 0.7
    segments = []
    for _ in range(int(rng.integers(2, 7) * max(1, round(450 / steps)))):
        if not one_box:
            hardware = _Hardware(rng)
        segments.append(_segment(rng, hardware, k_max, common, steps))
    return Trace(
        name=f"random-{seed}",
        k_max=k_max,
        segments=tuple(segments),
        ks=grids[rng.integers(len(grids))],
        outliers=float(rng.choice([0.0, 0.0, 0.002, 0.01])),
        missing=float(rng.choice([0.0, 0.0, 0.05])),
    )
