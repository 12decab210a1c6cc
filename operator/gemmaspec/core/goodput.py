"""Expected speed of a K: tokens a step over the time of a step.

goodput(K) = (1 + sum over i<=K of prod over j<=i of a_j) / step_time(K), with a_j the conditional acceptance of
position j. SmartSpec (arXiv 2406.14066) chooses K by the same quantity; vllm-project/vllm#26504 shows why
acceptance alone is the wrong signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemmaspec.core.acceptance import Window

# Acceptance clusters by request: requests' own rates are spread like a beta distribution of concentration 20, so two
# drafts of one request correlate by 1 / (20 + 1). n drafts of requests with m drafts each are then worth
# n / (1 + (m - 1) / 21) independent ones (Kish's design effect): one long request is worth 21 drafts at most.
CORRELATION = 1 / 21
# Two standard errors: one-sided error 2.3 % for one look; dwell and minimum gain guard against many looks.
Z = 2.0
# Without any measurement a draft token is taken to cost 5 % of a step: dense 31B on an H100 measures 3.7 %, the
# 26B mixture of experts 28 %. A low guess errs towards keeping speculation on.
DEFAULT_COST = 0.05


@dataclass(frozen=True)
class StepTimes:
    """Time of a step in milliseconds by K: measured where known, else the prior's shape through what is known."""

    measured: Mapping[int, float]
    prior: Mapping[int, float]

    def at(self, k: int) -> float:
        """Milliseconds of a step at ``k``, in units that are comparable between values of K."""
        if k in self.measured:
            return self.measured[k]
        if not self.measured:
            return self._shape(k)
        if not self.prior and len(self.measured) > 1:
            return self._line(k)
        nearest = min(self.measured, key=lambda known: (abs(known - k), known))
        return self.measured[nearest] * self._shape(k) / self._shape(nearest)

    def _line(self, k: int) -> float:
        """Through the two measured points next to ``k``: a draft token costs what it was seen to cost."""
        one, two = sorted(sorted(self.measured, key=lambda known: (abs(known - k), known))[:2])
        slope = max(0.0, (self.measured[two] - self.measured[one]) / (two - one))
        return max(self.measured[one] + slope * (k - one), min(self.measured.values()) / 2)

    def _shape(self, k: int) -> float:
        if not self.prior:
            return 1.0 + DEFAULT_COST * k
        if k in self.prior:
            return self.prior[k]
        below = max((known for known in self.prior if known < k), default=None)
        above = min((known for known in self.prior if known > k), default=None)
        if below is None or above is None:
            edge = max(self.prior) if above is None else min(self.prior)
            return self.prior[edge] * (1.0 + DEFAULT_COST * k) / (1.0 + DEFAULT_COST * edge)
        share = (k - below) / (above - below)
        return self.prior[below] + share * (self.prior[above] - self.prior[below])


def expected_tokens(conditional: Sequence[float], k: int) -> float:
    """Tokens a sequence gains a step at ``k``, the bonus token included."""
    total, survival = 1.0, 1.0
    for position in range(k):
        survival *= conditional[position] if position < len(conditional) else 0.0
        total += survival
    return total


def upper_conditional(observed: Window, prior: Sequence[float]) -> tuple[float, ...]:
    """Upper bounds of the conditional acceptances (Wilson, clustered); untried positions take the prior or 1."""
    bounds: list[float] = []
    tried = observed.drafts
    for position in range(observed.k):
        accepted = observed.accepted[position] if position < len(observed.accepted) else 0.0
        if tried <= 0:
            bounds.append(prior[position] if position < len(prior) else 1.0)
            continue
        bounds.append(wilson_upper(accepted / tried, tried / design_effect(tried, observed.requests)))
        tried = accepted
    return tuple(bounds)


def design_effect(drafts: float, requests: float) -> float:
    """How many drafts of so many requests are worth one independent draft; at least 1."""
    return 1.0 + max(0.0, drafts / max(1.0, requests) - 1.0) * CORRELATION


def wilson_upper(rate: float, n: float) -> float:
    """Upper end of Wilson's score interval for ``rate`` seen in ``n`` independent trials."""
    rate = min(1.0, rate)
    centre = rate + Z * Z / (2 * n)
    spread = Z * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return min(1.0, (centre + spread) / (1 + Z * Z / n))


def best(conditional: Sequence[float], times: StepTimes, choices: Sequence[int]) -> int:
    """The K of ``choices`` with the best goodput; the smaller one where two are equal."""
    return max(sorted(choices), key=lambda k: (expected_tokens(conditional, k) / times.at(k), -k))


def gain(conditional: Sequence[float], times: StepTimes, current: int, other: int) -> float:
    """Relative gain in goodput of ``other`` over ``current``; 0.1 is 10 % faster."""
    now = expected_tokens(conditional, current) / times.at(current)
    then = expected_tokens(conditional, other) / times.at(other)
    return then / now - 1.0
