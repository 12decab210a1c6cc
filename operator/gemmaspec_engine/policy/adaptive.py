"""The product's policy: the K with the best expected goodput for the requests that run right now."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from ..estimate import Acceptance, StepTimes
from .base import Policy, check_step, usable


class Adaptive(Policy):
    """Moves K to whatever earns most.

    Args:
        prior: {"acceptance": [conditional rate per position], "step_ms": {batch: {k: ms}}}.
    """

    name: ClassVar[str] = "adaptive"
    TIME_BONUS = 2.0
    RATE_BONUS = 0.5
    STICK = 1.003
    PROBE = 6.0
    STEADY = 300.0
    DRIFT = 0.4
    ALARM = 6.0
    KEEP = 0.1
    FOLLOW = 1.5

    def __init__(
        self,
        *,
        k_max: int,
        ks: Sequence[int] | None = None,
        k_min: int | None = None,
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        prior = prior or {}
        self.acceptance = Acceptance(k_max, prior=prior.get("acceptance"))
        self.times = StepTimes(self.ks, prior=prior.get("step_ms"))
        self._k = -1
        self._bonus = [1.0] * len(self.ks)
        self._countdown = 0
        self._up = self._down = 0.0
        self._idle = 0
        self._quiet = 0
        self._interval = 16.0
        self._since = 0

    def choose(self, batch: int, requests: Sequence[Hashable] = ()) -> int:
        if batch < 1:
            if batch < 0:
                raise ValueError(f"batch must not be negative, got {batch}")
            batch = 1
        self._countdown -= 1
        if self._countdown <= 0:
            self._countdown = 4
            self.acceptance.refresh()
            self._doubt = self.acceptance.doubt()
        curve = self.times.curve(batch)
        total = self.acceptance.totals(batch, requests)
        ms, doubt, rate = curve.ms, curve.doubt, self._doubt
        best, best_score = -1, 0.0
        stay = self._k
        index = self.times.index
        tb, rb = self.TIME_BONUS, self.RATE_BONUS
        for k in self._allowed:
            i = index[k]
            score = (batch + total[k]) / ms[i] * (1.0 + tb * doubt[i] + rb * rate[k])
            if k == stay:
                score *= self.STICK
            if score > best_score:
                best, best_score = k, score
        if best == 0 and len(self._allowed) > 1:
            return self._probe(batch, ms)
        self._quiet = 0
        self._k = best
        return best

    def _probe(self, batch: int, ms: list[float]) -> int:
        self._quiet += 1
        self._k = 0
        if self._up > self.FOLLOW or self._quiet >= self._interval:
            self._quiet = 0
            index = self.times.index
            first = ms[index[self._allowed[1]]]
            probe = max(k for k in self._allowed[1:] if ms[index[k]] <= 1.1 * first)
            cost = max(0.02, 1.0 - ms[index[0]] / ms[index[probe]])
            self._interval = min(512.0, max(8.0, (self.PROBE * cost * (self.STEADY + self._since)) ** 0.5))
            return probe
        return 0

    def observe(
        self,
        batch: int,
        k: int,
        accepted: Sequence[int],
        step_ms: float,
        requests: Sequence[Hashable] = (),
    ) -> None:
        check_step(batch, k, accepted, requests)
        self._since += 1
        if usable(step_ms):
            self.times.observe(max(batch, 1), k, step_ms)
        if k and accepted:
            surprise, variance = self.acceptance.observe(k, accepted, requests)
            self._watch(surprise, variance)
            self._idle = 0
        elif k == 0:
            self._idle += 1
            if self._idle % 32 == 0 and self.acceptance.weight > 6:
                self.acceptance._fade(0.9)

    def _watch(self, surprise: float, variance: float) -> None:
        z = surprise / (variance + 0.05) ** 0.5
        self._up = max(0.0, self._up + z - self.DRIFT)
        self._down = max(0.0, self._down - z - self.DRIFT)
        if self._up < 0.5 and self._down < 0.5:
            self.acceptance.mark()
        if self._up > self.ALARM or self._down > self.ALARM:
            self._up = self._down = 0.0
            self._since = 0
            self._interval = 16.0
            self.acceptance.forget(self.KEEP)
            self._countdown = 0

    def _export(self) -> dict[str, Any]:
        return {}

    def _load(self, state: Mapping[str, Any]) -> None:
        return
