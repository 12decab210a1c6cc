"""Expected speed of a K from windows of counters: the engine's own estimators, and what is not known about them.

goodput(K) = (1 + sum over i<=K of prod over j<=i of a_j) / step_time(K), with a_j the conditional acceptance of
position j. SmartSpec (arXiv 2406.14066) chooses K by the same quantity; vllm-project/vllm#26504 shows why
acceptance alone is the wrong signal. The agent in the engine judges steps with the same two estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gemmaspec.core.acceptance import Window
from gemmaspec.core.recipe import Prior
from gemmaspec_engine.acceptance import Acceptance, break_even
from gemmaspec_engine.steptime import Curve, StepTimes

# Two standard deviations: one-sided error 2.3 % for one look; dwell and minimum gain guard against many looks.
Z = 2.0
# Pseudo-drafts behind a recipe's published acceptance: a window of a few requests outweighs it.
PRIOR_WEIGHT = 2.0
# Published step times stand under this batch size, which no engine runs: their shape counts, not their height,
# which is another machine's.
PUBLISHED = 0


def expected_tokens(conditional: Sequence[float], k: int) -> float:
    """Tokens a sequence gains a step at ``k``, the bonus token included; positions of unknown acceptance add none."""
    total, survival = 1.0, 1.0
    for rate in conditional[:k]:
        survival *= rate
        total += survival
    return total


@dataclass(frozen=True, order=True)
class Step:
    """Measured time of a step at ``k``, with ``batch`` running requests."""

    k: int
    milliseconds: float
    batch: float


class _Times(StepTimes):
    """Without any measurement a draft token is taken to cost 5 % of a step: dense 31B on an H100 measures 3.7 %, the
    26B mixture of experts 28 %. A low guess errs towards keeping speculation on, since a wrong try costs a boot and
    not a step.
    """

    SLOPE = 0.05


@dataclass(frozen=True)
class Estimate:
    """What each K from 0 up earns. By position: rates, and the (effective) drafts behind them. By K: milliseconds of a
    step, and their relative doubt, which is None where this engine never ran that K: then a try must tell.
    """

    rates: Sequence[float]
    trials: Sequence[float]
    milliseconds: Sequence[float]
    doubts: Sequence[float | None]

    def tokens(self, k: int) -> float:
        """Tokens that a sequence gains a step at ``k``, the bonus token included."""
        return expected_tokens(self.rates, k)

    def gain(self, current: int, other: int) -> float:
        """Relative gain in goodput of ``other`` over ``current``; 0.1 is 10 % faster."""
        now = self.tokens(current) / self.milliseconds[current]
        return self.tokens(other) / self.milliseconds[other] / now - 1.0

    def sure(self, current: int, other: int) -> float:
        """The gain of which one can be sure: ``Z`` standard deviations of what is not known below the likely one."""
        return (1.0 + self.gain(current, other)) * math.exp(-Z * self._doubt(current, other)) - 1.0

    def best(self, choices: Iterable[int]) -> int:
        """The K of ``choices`` with the best goodput; the smaller one where two are equal."""
        return max(sorted(choices), key=lambda k: (self.tokens(k) / self.milliseconds[k], -k))

    def even(self, low: int, high: int) -> float | None:
        """Acceptance, alike at all positions, above which ``high`` earns more than ``low``; None: there is none."""
        return break_even(low, high, self.milliseconds[high] / self.milliseconds[low])

    def _doubt(self, current: int, other: int) -> float:
        """Standard deviation of the logarithm of the two goodputs' ratio (delta method, positions independent)."""
        variance = sum(doubt * doubt for k in (current, other) if (doubt := self.doubts[k]) is not None)
        for j, (rate, trials) in enumerate(zip(self.rates, self.trials, strict=True)):
            pull = self._pull(j, current) - self._pull(j, other)
            variance += pull * pull * (1.0 - rate) / (rate * (trials + 1.0))
        return math.sqrt(variance)

    def _pull(self, position: int, k: int) -> float:
        """d ln tokens(k) / d ln rate of a position: the share of tokens that would be lost without it."""
        return (self.tokens(k) - self.tokens(min(position, k))) / self.tokens(k)


def estimate(seen: Window, timed: Window, steps: Iterable[Step], prior: Prior, top: int) -> Estimate:
    """Acceptance by ``seen``, step times by ``timed`` and the remembered ``steps``, for K from 0 to ``top``.

    Both start from ``prior``, what the recipe's source measured.
    """
    acceptance = Acceptance(top, prior=prior.acceptance, prior_weight=PRIOR_WEIGHT)
    acceptance.MEMORY = math.inf  # a window is as long as it is
    acceptance.add_window(seen.k, seen.drafts, seen.accepted, seen.requests)
    curve = _curve(timed, steps, prior, top)
    doubts = [doubt if count >= 1.0 else None for doubt, count in zip(curve.doubt, curve.count, strict=True)]
    return Estimate(tuple(acceptance.rates), tuple(acceptance.trials), tuple(curve.ms), tuple(doubts))


def _curve(timed: Window, steps: Iterable[Step], prior: Prior, top: int) -> Curve:
    known: dict[int, dict[int, float]] = {}
    if prior.step_milliseconds:
        known[PUBLISHED] = dict(prior.step_milliseconds)
    for step in steps:
        known.setdefault(_whole(step.batch), {})[step.k] = step.milliseconds
    times = _Times(range(top + 1), prior=known)
    batch = _whole(timed.batch)
    for milliseconds in timed.paces:
        times.observe(batch, timed.k, milliseconds)
    return times.curve(batch)


def _whole(batch: float) -> int:
    return max(1, round(batch))
