"""Plays policies over made-up steady traffic, for the tests of this folder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from gemmaspec_engine.policy import Policy


@dataclass
class Traffic:
    """Steady traffic with its own randomness; requests live `life` steps, rates ~ Beta(concentration)."""

    rates: Sequence[float]
    step_ms: Sequence[float]
    batch: int = 1
    life: int = 100
    concentration: float | None = None
    noise: float = 0.02
    seed: int = 1
    ids: bool = True
    step: int = 0
    drafts: int = 0
    chosen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._own: dict[int, list[float]] = {}

    def _rates(self, request: int) -> list[float]:
        if request not in self._own:
            c = self.concentration
            self._own[request] = [a if c is None else self.rng.betavariate(c * a, c * (1 - a)) for a in self.rates]
        return self._own[request]

    def _length(self, rates: Sequence[float], k: int) -> int:
        length = 0
        while length < k and self.rng.random() < rates[length]:
            length += 1
        return length

    def run(self, policy: Policy, steps: int) -> list[int]:
        """Drive the policy; returns the K of these steps."""
        begun = len(self.chosen)
        for _ in range(steps):
            ids = tuple(i * 1_000_000 + (self.step + 17 * i) // self.life for i in range(self.batch))
            requests = ids if self.ids else ()
            k = policy.choose(self.batch, requests)
            accepted = [self._length(self._rates(i), k) for i in ids]
            ms = self.step_ms[k] * self.rng.lognormvariate(0, self.noise)
            policy.observe(self.batch, k, accepted, ms, requests)
            self.chosen.append(k)
            self.drafts += self.batch if k else 0
            self.step += 1
        return self.chosen[begun:]


def goodput(rates: Sequence[float], step_ms: Sequence[float], k: int) -> float:
    """Tokens per second and request of a steady K."""
    total, chain = 1.0, 1.0
    for a in rates[:k]:
        chain *= a
        total += chain
    return 1000 * total / step_ms[k]


def best(rates: Sequence[float], step_ms: Sequence[float]) -> int:
    """The K that a full knowledge of the traffic would choose."""
    return max(range(len(step_ms)), key=lambda k: goodput(rates, step_ms, k))
