"""Conditional acceptance per position, for the population of requests and for each request that runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

DEFAULT_RATE = 0.7
"""Acceptance assumed before anything is known: of the published figures .72 (26B code) and .5 (prose)."""

FLOOR = 0.005
"""Rates stay within [FLOOR, 1 - FLOOR], so that no chain of products ever becomes certain."""


class _Request:
    """Outcomes of one request, by accepted length, and what they promise for each K.

    reach[a]: drafts of which exactly `a` were accepted; fail[a]: those that were longer than `a`, so that
    position `a` was really rejected and not merely never drafted.
    """

    __slots__ = ("due", "expected", "fail", "n", "reach", "spread")

    def __init__(self, positions: int) -> None:
        self.reach = [0.0] * (positions + 1)
        self.fail = [0.0] * positions
        self.n = 0.0
        self.due = 1.0
        self.expected: list[float] = []
        self.spread: list[float] = []

    def scale(self, factor: float) -> None:
        self.reach = [x * factor for x in self.reach]
        self.fail = [x * factor for x in self.fail]
        self.n *= factor
        self.due = 0.0


class Acceptance:
    """Estimates a_j = P(draft j accepted | the drafts before it were), j = 0..positions-1.

    Position j counts only where j - 1 was accepted and j was drafted, so rates are exchangeable across K
    and steps of different K pool. Requests differ: a request's rate is its own counts, shrunk towards the
    population by `CONCENTRATION` pseudo-drafts (beta-binomial with known concentration). For the
    population the n-th draft of a request counts (1 + n / CONCENTRATION)^-2, the derivative of
    n / (1 + n / CONCENTRATION), which is the effective size of a cluster sample (Kish's design effect
    with intraclass correlation 1 / (CONCENTRATION + 1)). Where a position was never drafted, its rate is
    taken to be that of the position before, worth `CHAIN` drafts: the published conditional rates of the
    Gemma 4 drafters are flat in the position (26B at K=8: .73 .71 .71 .70 .75 .79 .72 .81).

    Args:
        positions: largest K.
        prior: conditional rates to start from, one per position (the last one is repeated).
        prior_weight: pseudo-drafts behind `prior`.

    Raises:
        ValueError: a prior rate outside 0..1, or a weight that is not positive.
    """

    CONCENTRATION = 16.0
    CHAIN = 6.0
    MEMORY = 80.0
    REQUEST_MEMORY = 256.0
    ANONYMOUS_STEPS = 48.0
    ANONYMOUS_WEIGHT = 0.25

    def __init__(self, positions: int, *, prior: Sequence[float] | None = None, prior_weight: float = 2.0) -> None:
        if not prior_weight > 0.0:
            raise ValueError(f"prior_weight must be above zero, got {prior_weight!r}")
        self.positions = positions
        known = list(prior or ())
        last = len(known) - 1
        self.prior = [_rate(known[min(j, last)]) if known else DEFAULT_RATE for j in range(positions)]
        self.prior_weight = prior_weight
        self.chained = not known
        self.reach = [0.0] * (positions + 1)
        self.fail = [0.0] * positions
        self.weight = 0.0
        self._old = (self.reach[:], self.fail[:], 0.0)
        self.rates: list[float] = []
        self.trials: list[float] = []
        self.requests: dict[Hashable, _Request] = {}
        self.anonymous = _Request(positions)
        self.expected: list[float] = []
        self.spread: list[float] = []
        c = self.CONCENTRATION
        self._weights = [(1.0 + n / c) ** -2 for n in range(int(self.REQUEST_MEMORY) + 2)]
        self._pace = 1.25
        self.refresh()

    # -- reading ------------------------------------------------------------------------------------

    def totals(self, batch: int, requests: Sequence[Hashable] = ()) -> list[float]:
        """Expected accepted drafts of a step of `batch` requests, for K = 0..positions."""
        if not requests:
            base = self.anonymous.expected if self.anonymous.n > 0.0 else self.expected
            return [batch * x for x in base]
        get, unknown = self.requests.get, self.expected
        rows = [r.expected if (r := get(key)) is not None else unknown for key in requests]
        if len(rows) == 1:
            return rows[0] if batch == 1 else [batch * x for x in rows[0]]
        total: list[float] = list(map(sum, zip(*rows, strict=True)))
        if batch != len(rows):
            share = batch / len(rows)
            total = [share * x for x in total]
        return total

    def doubt(self) -> list[float]:
        """Relative standard deviation of 1 + expected accepted, for K = 0..positions (delta method)."""
        chain, chains = 1.0, []
        for rate in self.rates:
            chain *= rate
            chains.append(chain)
        variance = [(1.0 - a) / (a * (n + 1.0)) for a, n in zip(self.rates, self.trials, strict=True)]
        result = [0.0]
        for k in range(1, self.positions + 1):
            tail = total = 0.0
            for j in range(k - 1, -1, -1):
                tail += chains[j]
                total += tail * tail * variance[j]
            result.append(math.sqrt(total) / (1.0 + tail))
        return result

    # -- learning -----------------------------------------------------------------------------------

    def observe(self, k: int, accepted: Sequence[int], requests: Sequence[Hashable] = ()) -> tuple[float, float]:
        """Take in one step of K = `k`.

        Returns:
            Accepted minus expected drafts over the step, and the variance that was to be expected.
        """
        if k <= 0 or not accepted:
            return 0.0, 0.0
        if k > self.positions:
            accepted, k = [min(a, self.positions) for a in accepted], self.positions
        if not requests:
            return self._observe_anonymous(k, accepted)
        # In a large batch no single request moves the choice much, and time is short.
        self._pace = 1.25 if len(accepted) <= 4 else 1.5
        surprise = variance = 0.0
        get, weights, reach, fail = self.requests.get, self._weights, self.reach, self.fail
        total = self.weight
        due: list[_Request] = []
        for key, a in zip(requests, accepted, strict=True):
            request = get(key)
            if request is None:
                request = self._admit(key, requests)
            weight = weights[int(request.n)]
            surprise += a - request.expected[k]
            variance += request.spread[k]
            request.reach[a] += 1.0
            reach[a] += weight
            if a < k:
                request.fail[a] += 1.0
                fail[a] += weight
            total += weight
            request.n += 1.0
            if request.n >= request.due:
                due.append(request)
        self.weight = total
        for request in due:
            if request.n >= self.REQUEST_MEMORY:
                request.scale(0.7)
            self._shrink(request)
        if total > self.MEMORY:
            self.fade(0.85)
        return surprise, variance

    def _observe_anonymous(self, k: int, accepted: Sequence[int]) -> tuple[float, float]:
        """Without ids a step's requests are one stream with a short memory."""
        request, weight, size = self.anonymous, self.ANONYMOUS_WEIGHT, len(accepted)
        if not request.expected:
            self._shrink(request)
        surprise = sum(accepted) - size * request.expected[k]
        variance = size * request.spread[k]
        for a in accepted:
            request.reach[a] += 1.0
            self.reach[a] += weight
            if a < k:
                request.fail[a] += 1.0
                self.fail[a] += weight
        self.weight += weight * size
        request.n += size
        if request.n >= self.ANONYMOUS_STEPS * size:
            request.scale(0.7)
        if request.n >= request.due:
            self.refresh()
            self._shrink(request)
            request.due = request.n + max(1.0, min(0.25 * request.n, 4.0 * size))
        if self.weight > self.MEMORY:
            self.fade(0.85)
        return surprise, variance

    def add_window(self, k: int, drafts: float, per_position: Sequence[float], requests: float = 0.0) -> None:
        """Take in counters of a window in which every draft had K = `k`.

        Args:
            k: the K of the window.
            drafts: drafts in it (`vllm:spec_decode_num_drafts`).
            per_position: drafts accepted at each position (`..._num_accepted_tokens_per_pos`).
            requests: requests they belong to, if known; fewer requests weigh less.

        Raises:
            ValueError: counts that no drafts can have produced.
        """
        counts = [float(drafts), *(float(x) for x in per_position[: min(k, self.positions)])]
        if drafts < 0 or any(b > a or b < 0 for a, b in pairwise(counts)):
            raise ValueError(f"accepted counts must fall from {drafts} drafts on, got {list(per_position)}")
        if k <= 0 or drafts <= 0:
            return
        each = drafts / requests if requests > 0 else self.CONCENTRATION
        weight = 1.0 / (1.0 + each / self.CONCENTRATION)
        depth = len(counts) - 1
        for a in range(depth + 1):
            count = (counts[a] - (counts[a + 1] if a < depth else 0.0)) * weight
            self.reach[a] += count
            if a < depth:
                self.fail[a] += count
        self.weight += drafts * weight
        if self.weight > self.MEMORY:
            self.fade(self.MEMORY / self.weight)
        self.refresh()

    def fade(self, factor: float) -> None:
        """Let the population's counts weigh less."""
        self.reach = [x * factor for x in self.reach]
        self.fail = [x * factor for x in self.fail]
        self.weight *= factor
        reach, fail, weight = self._old
        self._old = ([x * factor for x in reach], [x * factor for x in fail], weight * factor)

    def mark(self) -> None:
        """What is known now fits the traffic; what comes after may be a new mix."""
        self._old = (self.reach[:], self.fail[:], self.weight)

    def forget(self, keep: float) -> None:
        """The mix changed: keep what came after the last mark, and only a share of the rest."""
        reach, fail, weight = self._old
        drop = 1.0 - keep
        self.reach = [max(0.0, x - drop * y) for x, y in zip(self.reach, reach, strict=True)]
        self.fail = [max(0.0, x - drop * y) for x, y in zip(self.fail, fail, strict=True)]
        self.weight = max(0.0, self.weight - drop * weight)
        self.mark()
        self.refresh()
        for request in (*self.requests.values(), self.anonymous):
            request.scale(keep)
            if request.expected:
                self._shrink(request)

    def refresh(self) -> None:
        """Recompute the population's rates from its counts."""
        rates: list[float] = []
        trials: list[float] = []
        reach, fail, prior = self.reach, self.fail, self.prior
        weight, mean, above = self.prior_weight, 0.0, sum(reach)
        for j in range(self.positions):
            above -= reach[j]
            if not j or not self.chained:
                mean = prior[j]
            n = weight + above + fail[j]
            mean = (weight * mean + above) / n
            rates.append(mean if FLOOR < mean < 1.0 - FLOOR else _rate(mean))
            trials.append(n)
            if self.chained:
                weight = self.CHAIN
        self.rates, self.trials = rates, trials
        self.expected, self.spread = _expectation(rates)

    def _shrink(self, request: _Request) -> None:
        c, above = self.CONCENTRATION, sum(request.reach)
        chain, mean, square, odd = 1.0, 0.0, 0.0, 1.0
        means, spreads = [0.0], [0.0]
        for rate, reached, failed in zip(self.rates, request.reach, request.fail, strict=False):
            above -= reached
            chain *= (c * rate + above) / (c + above + failed)
            mean += chain
            square += odd * chain
            odd += 2.0
            means.append(mean)
            spreads.append(square - mean * mean)
        request.expected, request.spread = means, spreads
        due = request.n * self._pace + 1.0
        request.due = due if due < self.REQUEST_MEMORY else self.REQUEST_MEMORY

    def _admit(self, key: Hashable, running: Sequence[Hashable]) -> _Request:
        table = self.requests
        if len(table) >= 2 * len(running) + 8:
            keep = set(running)
            for old in [key for key in table if key not in keep][: len(running) + 4]:
                del table[old]
        request = table[key] = _Request(self.positions)
        if len(running) <= 4:
            self.refresh()
        self._shrink(request)
        request.due = 1.0
        return request

    # -- state --------------------------------------------------------------------------------------

    def export_state(self) -> dict[str, Any]:
        """Counts as JSON can hold them. Requests whose id is neither text nor a whole number are left out."""
        return {
            "reach": list(self.reach),
            "fail": list(self.fail),
            "weight": self.weight,
            "old": [list(self._old[0]), list(self._old[1]), self._old[2]],
            "rates": list(self.rates),
            "trials": list(self.trials),
            "anonymous": _pack(self.anonymous),
            "requests": [
                [key, _pack(request)] for key, request in self.requests.items() if isinstance(key, (str, int))
            ],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `export_state` gave; `requests` may be missing, as after a restart.

        Raises:
            ValueError: lists of another length.
        """
        self.reach = _floats(state["reach"], self.positions + 1)
        self.fail = _floats(state["fail"], self.positions)
        self.weight = float(state["weight"])
        old = state["old"]
        self._old = (_floats(old[0], self.positions + 1), _floats(old[1], self.positions), float(old[2]))
        self.rates = _floats(state["rates"], self.positions)
        self.trials = _floats(state["trials"], self.positions)
        self.expected, self.spread = _expectation(self.rates)
        self.anonymous = self._unpack(state["anonymous"])
        self.requests = {key: self._unpack(request) for key, request in state.get("requests", ())}

    def _unpack(self, packed: Sequence[Any]) -> _Request:
        request, size = _Request(self.positions), self.positions + 1
        request.n, request.due = float(packed[0]), float(packed[1])
        request.reach, request.fail = _floats(packed[2], size), _floats(packed[3], self.positions)
        request.expected = _floats(packed[4], size) if packed[4] else []
        request.spread = _floats(packed[5], size) if packed[5] else []
        return request


def conditional(per_position: Sequence[float]) -> list[float]:
    """Conditional rates from unconditional ones (accepted at a position / drafts), as they are published.

    >>> [round(a, 3) for a in conditional([0.722, 0.536])]
    [0.722, 0.742]
    """
    result, above = [], 1.0
    for rate in per_position:
        result.append(min(rate / above, 1.0) if above > 0 else 0.0)
        above = rate
    return result


def break_even(low: int, high: int, ratio: float) -> float | None:
    """The acceptance, alike at all positions, at which two values of K earn the same; None where none is enough.

    Args:
        low, high: the two K, low < high.
        ratio: step time at `high` over step time at `low`.

    >>> round(break_even(0, 1, 1.4), 3)
    0.4
    """
    least, most = 0.0, 1.0
    for _ in range(20):
        rate = (least + most) / 2
        up, now = (sum(rate**j for j in range(k + 1)) for k in (high, low))
        least, most = (least, rate) if up / now > ratio else (rate, most)
    return None if most >= 0.999 else most


def _rate(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"an acceptance rate must lie between 0 and 1, got {value!r}")
    return min(max(float(value), FLOOR), 1.0 - FLOOR)


def _expectation(rates: Sequence[float]) -> tuple[list[float], list[float]]:
    """Mean and variance of the accepted length for K = 0..len(rates)."""
    chain, mean, square, odd = 1.0, 0.0, 0.0, 1.0
    means, spreads = [0.0], [0.0]
    for rate in rates:
        chain *= rate
        mean += chain
        square += odd * chain
        odd += 2.0
        means.append(mean)
        spreads.append(square - mean * mean)
    return means, spreads


def _pack(request: _Request) -> list[Any]:
    lists = (request.reach, request.fail, request.expected, request.spread)
    return [request.n, request.due, *(list(x) for x in lists)]


def _floats(values: Sequence[Any], size: int) -> list[float]:
    if len(values) != size:
        raise ValueError(f"state has {len(values)} values where {size} belong")
    return [float(value) for value in values]
