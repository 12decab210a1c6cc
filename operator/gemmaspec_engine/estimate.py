"""Estimators that every K decision rests on: acceptance per position, step time per (batch, K), goodput.

Pure and free of units of their own: the agent feeds them step by step, the operator window by window.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

Key = Hashable

DEFAULT_RATE = 0.7
"""Acceptance assumed before anything is known: between the published 26B (.72) and prose (.5) figures."""


def goodput(batch: int, accepted: float, step_ms: float) -> float:
    """Expected tokens per second of a step: (requests + accepted drafts of all requests) / step time.

    Source: SmartSpec/TurboSpec (arXiv 2406.14066), the product's own definition of what K pays.
    """
    return 1000.0 * (batch + accepted) / step_ms


class _Request:
    """What one request has shown: outcomes by accepted length, and the expectation drawn from them."""

    __slots__ = ("due", "expected", "fail", "n", "reach", "spread")

    def __init__(self, positions: int) -> None:
        self.reach = [0.0] * (positions + 1)
        self.fail = [0.0] * positions
        self.n = 0.0
        self.due = 1.0
        self.expected: list[float] = []
        self.spread: list[float] = []


class Acceptance:
    """Conditional acceptance a_j = P(draft j accepted | drafts before it accepted), per request.

    Position j counts only where j - 1 was accepted and j was drafted, so the rates of steps with
    different K can be pooled. Requests differ from each other: each one's rate is its own counts, shrunk
    towards the population by `concentration` pseudo-drafts (beta-binomial). In turn a request's drafts
    count ever less for the population, 1 / (1 + n / concentration)^2 for its n-th: the weight of a
    cluster sample.

    Args:
        positions: largest K.
        prior: conditional acceptance to start from, one per position.
        prior_weight: pseudo-drafts behind `prior`.
    """

    CONCENTRATION = 16.0
    CHAIN = 6.0
    MEMORY = 80.0
    REQUEST_MEMORY = 256.0
    ANONYMOUS_STEPS = 48.0
    REQUESTS = 128

    def __init__(
        self, positions: int, *, prior: Sequence[float] | None = None, prior_weight: float = 2.0
    ) -> None:
        self.positions = positions
        self.prior = [0.0] * positions
        for j in range(positions):
            known = prior[min(j, len(prior) - 1)] if prior else DEFAULT_RATE
            self.prior[j] = min(max(known, 0.005), 0.995)
        self.prior_weight = prior_weight
        self.chained = prior is None
        self.reach = [0.0] * (positions + 1)
        self.fail = [0.0] * positions
        self.weight = 0.0
        self._old = (self.reach[:], self.fail[:], 0.0)
        self.rates: list[float] = []
        self.trials: list[float] = []
        self.requests: dict[Key, _Request] = {}
        self.anonymous = _Request(positions)
        self.expected: list[float] = []
        self.spread: list[float] = []
        self._weights = [1.0 / (1.0 + n / self.CONCENTRATION) ** 2 for n in range(int(self.REQUEST_MEMORY) + 2)]
        self.refresh()

    def refresh(self) -> None:
        """Recompute the population's rates from its counts."""
        rates, trials = [], []
        weight, mean = self.prior_weight, self.prior[0] if self.positions else 0.0
        above = sum(self.reach)
        for j in range(self.positions):
            above -= self.reach[j]
            n = above + self.fail[j]
            if j and self.chained:
                mean, weight = rates[-1], self.CHAIN
            elif j:
                mean = self.prior[j]
            rates.append((weight * mean + above) / (weight + n))
            trials.append(weight + n)
        self.rates, self.trials = rates, trials
        self.expected, self.spread = _expectation(rates)

    def _shrink(self, request: _Request) -> None:
        c, above = self.CONCENTRATION, sum(request.reach)
        rates = []
        reach, fail = request.reach, request.fail
        for j, mean in enumerate(self.rates):
            above -= reach[j]
            rates.append((c * mean + above) / (c + above + fail[j]))
        request.expected, request.spread = _expectation(rates)
        request.due = min(request.n * 1.15 + 1.0, self.REQUEST_MEMORY)

    def observe(self, k: int, accepted: Sequence[int], requests: Sequence[Key] = ()) -> tuple[float, float]:
        """Take in one step; returns (accepted minus expected, its variance) over the requests known before."""
        if k <= 0 or not accepted:
            return 0.0, 0.0
        if k > self.positions:
            accepted = [min(a, self.positions) for a in accepted]
        surprise = variance = 0.0
        table = self.requests
        top = min(k, self.positions)
        for i, a in enumerate(accepted):
            if requests:
                request = table.get(requests[i])
                if request is None:
                    request = self._admit(requests[i])
                weight = self._weights[int(request.n)]
            else:
                request, weight = self.anonymous, 0.25
                if not request.expected:
                    self._shrink(request)
            surprise += a - request.expected[top]
            variance += request.spread[top]
            request.reach[a] += 1.0
            self.reach[a] += weight
            if a < k and a < self.positions:
                request.fail[a] += 1.0
                self.fail[a] += weight
            self.weight += weight
            request.n += 1.0
            if request.n >= request.due:
                self._settle(request, len(accepted))
        if self.weight > self.MEMORY:
            self._fade(0.85)
        return surprise, variance

    def _admit(self, key: Key) -> _Request:
        table = self.requests
        if len(table) >= self.REQUESTS:
            for old in list(table)[: self.REQUESTS // 4]:
                del table[old]
        request = table[key] = _Request(self.positions)
        self.refresh()
        self._shrink(request)
        request.due = 1.0
        return request

    def _settle(self, request: _Request, batch: int) -> None:
        limit = self.REQUEST_MEMORY
        if request is self.anonymous:
            limit = self.ANONYMOUS_STEPS * batch
        if request.n >= limit:
            self._scale(request, 0.7)
        self.refresh()
        self._shrink(request)

    def _scale(self, request: _Request, factor: float) -> None:
        request.reach = [x * factor for x in request.reach]
        request.fail = [x * factor for x in request.fail]
        request.n *= factor

    def _fade(self, factor: float) -> None:
        self.reach = [x * factor for x in self.reach]
        self.fail = [x * factor for x in self.fail]
        self.weight *= factor
        old_reach, old_fail, old_weight = self._old
        self._old = ([x * factor for x in old_reach], [x * factor for x in old_fail], old_weight * factor)

    def mark(self) -> None:
        """What is known now fits the traffic: what comes after may be a new mix."""
        self._old = (self.reach[:], self.fail[:], self.weight)

    def forget(self, keep: float) -> None:
        """The mix changed: keep what came after the last mark, and only a share of the rest."""
        old_reach, old_fail, old_weight = self._old
        drop = 1.0 - keep
        self.reach = [x - drop * y for x, y in zip(self.reach, old_reach, strict=True)]
        self.fail = [x - drop * y for x, y in zip(self.fail, old_fail, strict=True)]
        self.weight -= drop * old_weight
        self.mark()
        self.refresh()
        for request in (*self.requests.values(), self.anonymous):
            self._scale(request, keep)
            self._shrink(request)

    def totals(self, batch: int, requests: Sequence[Key] = ()) -> list[float]:
        """Expected accepted drafts of the whole batch for K = 0..positions."""
        if not requests:
            base = self.anonymous.expected or self.expected
            return [batch * x for x in base]
        get, unknown = self.requests.get, self.expected
        rows = [r.expected if (r := get(key)) is not None else unknown for key in requests]
        if len(rows) == 1:
            return rows[0] if batch <= 1 else [batch * x for x in rows[0]]
        total = list(map(sum, zip(*rows, strict=True)))
        if batch != len(rows):
            share = batch / len(rows)
            total = [share * x for x in total]
        return total

    def doubt(self) -> list[float]:
        """Relative standard deviation of (1 + expected accepted) for K = 0..positions, from the population."""
        chain = 1.0
        chains = []
        for rate in self.rates:
            chain *= rate
            chains.append(chain)
        result = [0.0]
        variance = [(1 - a) / (a * (n + 1)) for a, n in zip(self.rates, self.trials, strict=True)]
        for k in range(1, self.positions + 1):
            tail, total = 0.0, 0.0
            for j in range(k - 1, -1, -1):
                tail += chains[j]
                total += tail * tail * variance[j]
            result.append(math.sqrt(total) / (1.0 + tail))
        return result


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


class _Curve:
    """Step times of one batch size over the grid of K."""

    __slots__ = ("age", "count", "doubt", "due", "mean", "ms", "seen", "shape", "unsure")

    def __init__(self, size: int) -> None:
        self.count = [0.0] * size
        self.mean = [0.0] * size
        self.seen = [0] * size
        self.ms: list[float] = []
        self.doubt: list[float] = []
        self.shape: list[float] = []
        self.unsure: list[float] = []
        self.age = 0
        self.due = 0


class StepTimes:
    """Length of a step for each (batch, K), in milliseconds, with its relative uncertainty.

    Visited cells hold a winsorised mean. The others are predicted: the shape of the nearest known batch
    size (at first: `SLOPE` per draft), scaled and tilted to what this batch size has shown, plus the
    interpolated deviation of its visited neighbours.

    Args:
        ks: grid of K.
        prior: {batch: {k: ms}}, published or swept before.
    """

    SLOPE = 0.08
    TILT = 0.5
    TILT_KNOWN = 0.25
    CELL = 0.025
    FIRST = 0.15
    FIRST_KNOWN = 0.06
    MEMORY = 64.0
    BATCHES = 64
    SUSPECT = 0.02
    GROWTH = 0.0015
    REOPENED = 0.1
    SAME = 0.25

    def __init__(self, ks: Sequence[int], *, prior: Mapping[int, Mapping[int, float]] | None = None) -> None:
        self.ks = tuple(ks)
        self.index = {k: i for i, k in enumerate(self.ks)}
        top = self.ks[-1] or 1
        self.x = [k / top for k in self.ks]
        self.cell2 = [(self.FIRST if k == 0 else self.CELL) ** 2 for k in self.ks]
        self.cell2_known = [(self.FIRST_KNOWN if k == 0 else self.CELL) ** 2 for k in self.ks]
        self.curves: dict[int, _Curve] = {}
        self.noise = 0.04
        self._drift_up = 0.0
        self._drift_down = 0.0
        self._recent: list[float] = []
        self._last = -1
        for batch, row in sorted((prior or {}).items()):
            curve = self.curve(batch)
            for k, ms in row.items():
                if k in self.index:
                    curve.count[self.index[k]] = 2.0
                    curve.mean[self.index[k]] = ms
            self.refit(batch, curve)

    def curve(self, batch: int) -> _Curve:
        """The curve of a batch size; a new one is made up from its nearest neighbour."""
        curve = self.curves.get(batch)
        if curve is None:
            if len(self.curves) >= self.BATCHES:
                del self.curves[next(iter(self.curves))]
            curve = self.curves[batch] = _Curve(len(self.ks))
            self._inherit(batch, curve)
        elif batch != self._last and curve.age < 64:
            self._inherit(batch, curve)
        self._last = batch
        return curve

    def _inherit(self, batch: int, curve: _Curve) -> None:
        """Take the shape, and the doubt about it, from the nearest batch size that knows more."""
        near, best = None, 0.0
        for other, known in self.curves.items():
            if known is not curve and known.age > curve.age:
                score = min(known.age, 32) / (0.2 + abs(math.log(max(other, 1) / max(batch, 1))))
                if score > best:
                    near, best = known, score
        if near is not None:
            curve.shape = list(near.ms)
            curve.unsure = list(near.doubt)
        elif not curve.shape:
            curve.shape = [1.0 + self.SLOPE * k for k in self.ks]
            curve.unsure = []
        else:
            return
        if curve.age:
            self.refit(batch, curve)
        else:
            curve.ms = list(curve.shape)
            curve.doubt = [self.TILT * x + 0.1 for x in self.x]

    def observe(self, batch: int, k: int, ms: float) -> None:
        """Take in one step time; K outside the grid and unusable times are ignored."""
        i = self.index.get(k)
        if i is None or not 0.0 < ms < math.inf:
            return
        curve = self.curve(batch)
        if curve.age and self._watch(curve, i, ms):
            self.refit(batch, curve)
        known = curve.count[i]
        if known < 1.0:
            self._open(curve, i, ms)
        else:
            ratio = math.log(ms / curve.mean[i])
            if known < 2.0 and ratio < -0.4:
                # A step can only be too slow by accident: the first one was.
                curve.mean[i], curve.count[i] = ms, 1.0
            else:
                self._average(curve, i, known, ratio)
        curve.age += 1
        curve.seen[i] = curve.age
        curve.due -= 1
        if curve.due <= 0 or known < 6.0:
            self.refit(batch, curve)

    def _open(self, curve: _Curve, i: int, ms: float) -> None:
        """First sight of a cell: take it, unless it is far slower than the others promise."""
        known = curve.count[i]
        if known > 0.0 and abs(math.log(ms / curve.mean[i])) > 0.3:
            curve.mean[i], curve.count[i] = min(ms, curve.mean[i]), 1.0 if ms < curve.mean[i] else 0.5
            return
        if known > 0.0:
            curve.count[i] += 1.0
            return
        curve.mean[i], curve.count[i] = ms, 1.0
        if not any(n > 0.0 for j, n in enumerate(curve.count) if j != i):
            return
        gap = math.log(ms / curve.ms[i])
        limit = 0.3 + 3.0 * curve.doubt[i]
        if gap > limit:
            curve.count[i] = self.SUSPECT
        elif gap < -limit:
            curve.count = [min(n, self.SUSPECT) if n < 2.0 else n for n in curve.count]
            curve.count[i] = 1.0

    def _average(self, curve: _Curve, i: int, known: float, ratio: float) -> None:
        bound = 3.0 * self.noise + 0.3 / known
        ratio = max(-bound, min(bound, ratio))
        if known >= 3.0:
            fresh = min(ratio * ratio, 0.25) * known / (known + 1)
            self.noise = math.sqrt(self.noise * self.noise * 0.98 + 0.02 * fresh)
        known = min(known + 1.0, self.MEMORY)
        curve.count[i] = known
        curve.mean[i] *= 1.0 + (math.exp(ratio) - 1.0) / known

    def _watch(self, curve: _Curve, i: int, ms: float) -> bool:
        """Two-sided CUSUM on the standardised error of prediction; on alarm the curve is reopened."""
        ratio = ms / curve.ms[i]
        doubt = curve.doubt[i]
        z = math.log(ratio) / math.sqrt(max(self.noise * self.noise, 6.4e-5) + doubt * doubt)
        z = max(-4.0, min(4.0, z))
        self._recent = [*self._recent[-4:], ratio]
        self._drift_up = max(0.0, self._drift_up + z - 0.75)
        self._drift_down = max(0.0, self._drift_down - z - 0.75)
        if max(self._drift_up, self._drift_down) < 9.0 or len(self._recent) < 3:
            return False
        self._drift_up = self._drift_down = 0.0
        ratio = sorted(self._recent)[(len(self._recent) - 1) // 2]
        self._recent = []
        now = curve.ms[i] * ratio
        if abs(math.log(ratio)) < self.SAME:
            curve.shape = list(curve.ms)
            curve.unsure = [self.REOPENED] * len(self.ks)
        else:
            curve.shape = [1.0 + self.SLOPE * k for k in self.ks]
            curve.unsure = []
        curve.count = [0.0] * len(self.ks)
        curve.count[i], curve.mean[i] = 1.0, now
        return True

    def refit(self, batch: int, curve: _Curve) -> None:
        """Fit scale and tilt of the shape to the visited cells; predict the rest."""
        noise2 = self.noise * self.noise
        cells = self.cell2_known if curve.unsure else self.cell2
        unsure = curve.unsure
        first = 0.0
        a = b = c = p = q = 0.0
        for i, n in enumerate(curve.count):
            if n < 0.2:
                continue
            if not first:
                first = curve.mean[i] / curve.shape[i]
            w = 1.0 / (noise2 / n + cells[i] + (unsure[i] ** 2 if unsure else 0.0))
            x, y = self.x[i], curve.mean[i] / (curve.shape[i] * first)
            a += w
            b += w * x
            c += w * x * x
            p += w * y
            q += w * x * y
        if not first:
            return
        c += 1.0 / (self.TILT_KNOWN if unsure else self.TILT) ** 2
        a += 1e-3
        p += 1e-3
        det = a * c - b * b
        level, slope = (c * p - b * q) / det, (a * q - b * p) / det
        scale = [first * max(level + slope * x, 0.05) * s for x, s in zip(self.x, curve.shape, strict=True)]
        self._predict(curve, scale, cells, (c / det, -2.0 * b / det, a / det))
        curve.due = 8

    def _predict(
        self, curve: _Curve, scale: list[float], cells: list[float], cov: tuple[float, float, float]
    ) -> None:
        noise2 = self.noise * self.noise
        size = len(self.ks)
        off = [0.0] * size
        for i, n in enumerate(curve.count):
            if n >= 0.2:
                off[i] = (curve.mean[i] / scale[i] - 1.0) * n / (n + noise2 / cells[i])
        left = -1
        unsure = curve.unsure
        for i in range(size):
            n = curve.count[i]
            extra = cells[i] + (unsure[i] ** 2 if unsure else 0.0)
            if n >= 0.2:
                curve.ms[i] = scale[i] * (1.0 + off[i])
                age = self.GROWTH * self.GROWTH * (curve.age - curve.seen[i])
                curve.doubt[i] = math.sqrt(1.0 / (n / noise2 + 1.0 / extra) + age)
                left = i
                continue
            age = self.GROWTH * self.GROWTH * (curve.age - curve.seen[i])
            right = next((j for j in range(i + 1, size) if curve.count[j] >= 0.2), -1)
            x = self.x[i]
            curve.ms[i] = scale[i] * (1.0 + _between(i, left, right, off, self.x))
            curve.doubt[i] = math.sqrt(max(cov[0] + cov[1] * x + cov[2] * x * x, 0.0) + extra + age)
        self._order(curve)

    def _order(self, curve: _Curve) -> None:
        """A larger K never makes a step shorter: where cells contradict that, the better known one wins."""
        count, ms = curve.count, curve.ms
        best = -1
        for i in range(len(ms) - 1, -1, -1):
            if best >= 0 and ms[i] > 1.03 * ms[best]:
                if count[i] < count[best]:
                    ms[i] = 1.03 * ms[best]
                continue
            if count[i] >= 2.0:
                best = i
        best = -1
        for i in range(len(ms)):
            if best >= 0 and ms[i] * 1.03 < ms[best]:
                if count[i] < count[best]:
                    ms[i] = ms[best] / 1.03
                continue
            if count[i] >= 2.0:
                best = i


def _between(i: int, left: int, right: int, off: list[float], x: list[float]) -> float:
    if left < 0 and right < 0:
        return 0.0
    if left < 0:
        return 0.5 * off[right]
    if right < 0:
        return 0.5 * off[left]
    share = (x[i] - x[left]) / (x[right] - x[left])
    return off[left] * (1 - share) + off[right] * share


def conditional(per_position: Sequence[float]) -> list[float]:
    """Conditional rates from unconditional ones (accepted at position j / drafts), as vLLM publishes them.

    >>> [round(a, 3) for a in conditional([0.722, 0.536])]
    [0.722, 0.742]
    """
    result, above = [], 1.0
    for rate in per_position:
        result.append(min(rate / above, 1.0) if above > 0 else 0.0)
        above = rate
    return result


def pairs(state: Mapping[Key, Any]) -> list[list[Any]]:
    """A mapping as a list of pairs: JSON would turn its keys into text."""
    return [[key, value] for key, value in state.items()]
