"""Policies that others ship, as the yardstick for ours.

Each one follows the published rule as closely as an engine with one K per step allows; where the
original knows a single sequence and a step holds several requests, the docstring says what was done.
"""
# ruff: noqa: ARG002  (one interface for all of them; most rules ignore part of what they are told)

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from .base import Policy, number, usable, whole


class Fixed(Policy):
    """Always the same K (option `k`, default k_max), as an engine does that was started with it."""

    name: ClassVar[str] = "fixed"

    def __init__(
        self, *, k_max: int, ks: Sequence[int] | None = None, k_min: int | None = None, k: int | None = None
    ) -> None:
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        self.k = k_max if k is None else whole("k", k, 0, k_max)

    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:
        k = self._at_most(self.k)
        self._reason = f"K={k}: fixed at {self.k}"
        return k

    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        return

    def _export(self) -> dict[str, Any]:
        return {"k": self.k}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.k = whole("k", state["k"], 0, self.k_max)


class HfHeuristic(Policy):
    """Hugging Face's assisted generation: +2 after a step that accepted every draft, else -1, at least 1.

    Source: transformers `generation/candidate_generator.py`, `update_candidate_strategy` with
    `num_assistant_tokens_schedule="heuristic"`; it starts at `num_assistant_tokens` (5 in the releases
    that made this schedule known). The original serves one sequence; with several, at least half of
    them must have accepted everything. It knows no upper limit and never turns off: here the grid caps it.
    """

    name: ClassVar[str] = "hf-heuristic"

    def __init__(
        self, *, k_max: int, ks: Sequence[int] | None = None, k_min: int | None = None, start: int = 5
    ) -> None:
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        self._floor = min((k for k in self.ks if k > 0), default=0)
        self._tokens = float(max(self._floor, min(whole("start", start, 1, 64), k_max)))

    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:
        k = self._at_most(max(self._tokens, self._floor))
        self._reason = f"K={k}: the counter stands at {self._tokens:g} (+2 when all drafts pass, else -1)"
        return k

    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        if k == 0 or not accepted:
            return
        full = sum(1 for count in accepted if count == k)
        if 2 * full >= len(accepted):
            self._tokens = min(self._tokens + 2.0, float(self.k_max))
        else:
            self._tokens = max(1.0, self._tokens - 1.0)

    def _export(self) -> dict[str, Any]:
        return {"tokens": self._tokens}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._tokens = number("tokens", state["tokens"], 0, self.k_max)


class EmaTiers(Policy):
    """SGLang's `--speculative-adaptive`: an average of accepted drafts picks one of a few tiers.

    Source: sglang `speculative/adaptive_spec_params.py`: average with weight 0.2, 10 steps of warm-up, a
    decision every 5 steps; down a tier while average <= lower tier - 0.5 - 0.25, up a tier while
    average > tier - 0.5; tiers 1, 3, 7. Tiers that the grid lacks move to the nearest value it has.
    """

    name: ClassVar[str] = "ema-tiers"
    ALPHA, WARMUP, INTERVAL, DOWN, UP = 0.2, 10, 5, -0.25, 0.0

    def __init__(
        self,
        *,
        k_max: int,
        ks: Sequence[int] | None = None,
        k_min: int | None = None,
        tiers: Sequence[int] = (1, 3, 7),
    ) -> None:
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        if not tiers:
            raise ValueError("tiers must name at least one K")
        grid = [k for k in self.ks if k > 0] or [0]
        wanted = [whole("tier", tier, 0, 64) for tier in tiers]
        self._tiers = sorted({min(grid, key=lambda k, tier=tier: abs(k - tier)) for tier in wanted})  # type: ignore[misc]
        self._index = len(self._tiers) // 2
        self._average = max(0.0, self._tiers[self._index] - 1.0)
        self._steps = 0

    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:
        k = self._at_most(self._tiers[self._index])
        self._reason = f"K={k}: accepted drafts average {self._average:.2f}, tiers {self._tiers}"
        return k

    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        if k == 0 or not accepted:
            return
        mean = sum(accepted) / len(accepted)
        self._average += self.ALPHA * (mean - self._average)
        self._steps += 1
        if self._steps > self.WARMUP and (self._steps - self.WARMUP) % self.INTERVAL == 0:
            self._move()

    def _move(self) -> None:
        while self._index > 0 and self._average <= self._tiers[self._index - 1] - 0.5 + self.DOWN:
            self._index -= 1
        top = len(self._tiers) - 1
        while self._index < top and self._average > self._tiers[self._index] - 0.5 + self.UP:
            self._index += 1

    def _export(self) -> dict[str, Any]:
        return {"index": self._index, "average": self._average, "steps": self._steps}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._index = whole("index", state["index"], 0, len(self._tiers) - 1)
        self._average = number("average", state["average"], 0, 64)
        self._steps = whole("steps", state["steps"], 0, 2**62)


class ThresholdOff(Policy):
    """TensorRT-LLM's gate: off for good once the rolling acceptance rate falls below a threshold.

    Source: TensorRT-LLM 1.3 `acceptance_rate_threshold` and `acceptance_rate_window_size`: the mean of
    accepted/drafted over the last N steps that speculated; below the threshold, speculation stays off.
    Both have no default there; 100 steps and 0.3 are ours.
    """

    name: ClassVar[str] = "threshold-off"

    def __init__(
        self,
        *,
        k_max: int,
        ks: Sequence[int] | None = None,
        k_min: int | None = None,
        k: int | None = None,
        window: int = 100,
        threshold: float = 0.3,
    ) -> None:
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        self.k = k_max if k is None else whole("k", k, 0, k_max)
        self._window = whole("window", window, 1, 100_000)
        self._threshold = number("threshold", threshold, 0.0, 1.0)
        self._rates: deque[float] = deque(maxlen=self._window)
        self._sum = 0.0
        self._off = False

    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:
        k = self._at_most(0 if self._off else self.k)
        rate = self._sum / len(self._rates) if self._rates else 0.0
        verdict = "off for good" if self._off else "on"
        self._reason = f"K={k}: {verdict}, acceptance {rate:.2f} over {len(self._rates)} steps"
        return k

    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        if k == 0 or not accepted or self._off:
            return
        if len(self._rates) == self._window:
            self._sum -= self._rates[0]
        rate = sum(accepted) / (k * len(accepted))
        self._rates.append(rate)
        self._sum += rate
        if len(self._rates) == self._window and self._sum < self._threshold * self._window:
            self._off = True

    def _export(self) -> dict[str, Any]:
        return {"rates": list(self._rates), "sum": self._sum, "off": self._off}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._rates = deque((float(rate) for rate in state["rates"]), maxlen=self._window)
        self._sum = float(state["sum"])
        self._off = bool(state["off"])


class Ucb(Policy):
    """BanditSpec's UCBSpec: every K is an arm, its reward the tokens per millisecond of a step.

    Source: Hou et al., "BanditSpec" (ICML 2025, arXiv 2505.15141): each arm once, then the largest mean
    plus sqrt(c ln t / n). Rewards are divided by the best mean so that the bound is free of units. The
    original starts afresh for every prompt; a server never does, so old rewards fade (discounted UCB,
    Garivier and Moulines 2011), and each batch size has its own arms.
    """

    name: ClassVar[str] = "ucb"
    BATCHES = 64

    def __init__(
        self,
        *,
        k_max: int,
        ks: Sequence[int] | None = None,
        k_min: int | None = None,
        exploration: float = 0.02,
        discount: float = 0.995,
    ) -> None:
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        self._exploration = number("exploration", exploration, 0.0, 100.0)
        self._discount = number("discount", discount, 0.5, 1.0)
        self._arms: dict[int, dict[int, list[float]]] = {}

    def _batch(self, batch: int) -> dict[int, list[float]]:
        arms = self._arms.get(batch)
        if arms is None:
            if len(self._arms) >= self.BATCHES:
                del self._arms[next(iter(self._arms))]
            arms = self._arms[batch] = {k: [0.0, 0.0] for k in self.ks}
        return arms

    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:
        arms = self._batch(batch)
        total = sum(arms[k][0] for k in self._allowed)
        best_mean = max((arms[k][1] / arms[k][0] for k in self._allowed if arms[k][0] > 0), default=1.0)
        log = self._exploration * math.log(max(total, math.e))
        best, best_score = self._allowed[0], -math.inf
        for k in self._allowed:
            plays, reward = arms[k]
            score = math.inf if plays <= 0 else reward / plays / best_mean + math.sqrt(log / plays)
            if score > best_score:
                best, best_score = k, score
        self._reason = f"K={best}: upper bound {best_score:.3f} of the best mean after {total:.0f} steps"
        return best

    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        if k not in self.ks or not usable(step_ms) or (k > 0 and not accepted):
            return
        arms = self._batch(batch)
        for arm in arms.values():
            arm[0] *= self._discount
            arm[1] *= self._discount
        share = batch / len(accepted) if k > 0 else 1.0
        arms[k][0] += 1.0
        arms[k][1] += (batch + share * sum(accepted)) / step_ms

    def _export(self) -> dict[str, Any]:
        return {"arms": [[batch, [[k, *arm] for k, arm in arms.items()]] for batch, arms in self._arms.items()]}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._arms = {int(b): {int(k): [float(n), float(r)] for k, n, r in arms} for b, arms in state["arms"]}
