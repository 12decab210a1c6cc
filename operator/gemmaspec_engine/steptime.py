"""Length of a decode step for every (batch, K), from few and noisy measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Curve:
    """Step times of one batch size over the grid of K.

    Attributes:
        count: measurements behind each cell (0 = never seen, below SEEN = not trusted yet).
        mean: winsorised mean of each visited cell, ms.
        seen: age at which each cell was last measured.
        excess: by how much (log) the first measurement of each cell was slower than predicted.
        strikes: visits of each cell in a row that were far too slow.
        shape: where the fit starts from: the curve of a neighbour, or a straight line.
        unsure: relative doubt about `shape`, empty for the straight line.
        ms, doubt: the result: prediction and its relative standard deviation.
        age: steps measured at this batch size.
        due: steps until the next fit.
    """

    __slots__ = ("age", "count", "doubt", "due", "excess", "mean", "ms", "seen", "shape", "strikes", "unsure")

    def __init__(self, size: int) -> None:
        self.count = [0.0] * size
        self.mean = [0.0] * size
        self.seen = [0] * size
        self.excess = [0.0] * size
        self.strikes = [0] * size
        self.ms: list[float] = []
        self.doubt: list[float] = []
        self.shape: list[float] = []
        self.unsure: list[float] = []
        self.age = 0
        self.due = 0


_LISTS = ("count", "mean", "seen", "excess", "strikes", "shape", "unsure", "ms", "doubt")

SEEN = 0.2
"""A cell with fewer measurements than this does not take part in the fit."""


class StepTimes:
    """Predicts the mean step time of every K of the grid at a batch size.

    A visited cell holds a winsorised mean. The others are predicted: the shape of the nearest batch size
    that knows more (at first a straight line of `SLOPE` per draft), scaled and tilted by least squares to
    the visited cells, plus the interpolated deviation of the neighbours. A larger K never makes a step
    shorter. K=0 stands apart, since the first draft may cost more than the next (26B on an H100, one
    stream: +2.5 ms for K=1, +1.5 for the second draft).

    Steps can be slow by accident: a first decode step of 18 s has been seen. So a first sight that is far
    slower than the rest promises is not trusted, and errors are clipped. A two-sided CUSUM over the
    standardised errors notices a changed engine and opens the curve again.

    Args:
        ks: grid of K.
        prior: {batch: {k: ms}}, published or swept before.

    Raises:
        ValueError: a prior time that is not positive.
    """

    SLOPE = 0.08
    TILT = 0.5
    TILT_KNOWN = 0.25
    CELL = 0.03
    FIRST = 0.3
    FIRST_KNOWN = 0.12
    MEMORY = 64.0
    BATCHES = 64
    SUSPECT = 0.02
    AGE_SEEN = 12000.0
    AGE_UNSEEN = 2000.0
    UNMEASURED = 3.0
    CONTAMINATED = (0.5, 0.5, 0.3)
    REOPENED = 0.1
    SAME = 0.25
    NOISE = 0.04
    DRIFT, ALARM = 0.75, 9.0
    MATURE = 64
    STRIKES = 3

    def __init__(self, ks: Sequence[int], *, prior: Mapping[int, Mapping[int, float]] | None = None) -> None:
        self.ks = tuple(ks)
        self.index = {k: i for i, k in enumerate(self.ks)}
        top = self.ks[-1] or 1
        self._x = [k / top for k in self.ks]
        self._cell = [(self.FIRST if k == 0 else self.CELL) ** 2 for k in self.ks]
        self._cell_known = [(self.FIRST_KNOWN if k == 0 else self.CELL) ** 2 for k in self.ks]
        self.curves: dict[int, Curve] = {}
        self.noise = self.NOISE
        self._up = self._down = 0.0
        self._recent: list[float] = []
        self._last = -1
        for batch, row in sorted((prior or {}).items()):
            self._seed(int(batch), row)

    def _seed(self, batch: int, row: Mapping[int, float]) -> None:
        curve = self.curve(batch)
        for k, ms in row.items():
            if not 0.0 < float(ms) < math.inf:
                raise ValueError(f"prior step time for batch {batch}, K={k} must be above zero, got {ms!r}")
            i = self.index.get(int(k))
            if i is not None:
                curve.count[i], curve.mean[i] = 2.0, float(ms)
                curve.age += 1
        if curve.age:
            self._fit(curve)

    # -- reading ------------------------------------------------------------------------------------

    def curve(self, batch: int) -> Curve:
        """The curve of a batch size; its `ms` and `doubt` follow the order of the grid."""
        curve = self.curves.get(batch)
        if curve is None:
            if len(self.curves) >= self.BATCHES:
                del self.curves[next(iter(self.curves))]
            curve = self.curves[batch] = Curve(len(self.ks))
            self._inherit(batch, curve)
        elif batch != self._last and curve.age < self.MATURE:
            self._inherit(batch, curve)
        self._last = batch
        return curve

    def predict(self, batch: int, k: int) -> tuple[float, float]:
        """Mean step time in ms and its relative standard deviation.

        Raises:
            KeyError: K outside the grid.
        """
        i, curve = self.index[k], self.curve(batch)
        return curve.ms[i], curve.doubt[i]

    # -- learning -----------------------------------------------------------------------------------

    def observe(self, batch: int, k: int, ms: float) -> None:
        """Take in one step; a K outside the grid or a time that is no time is ignored."""
        i = self.index.get(k)
        if i is None or not 0.0 < ms < math.inf:
            return
        curve = self.curve(batch)
        if curve.age and self._watch(curve, i, ms):
            self._fit(curve)
        known = curve.count[i]
        if known < 1.0:
            self._open(curve, i, ms)
        else:
            ratio = math.log(ms / curve.mean[i])
            if known < 2.0 and ratio < -0.4:
                # A step is too slow by accident, never too fast: the first one was the accident.
                curve.mean[i], curve.count[i] = ms, 1.0
            else:
                self._average(curve, i, known, ratio)
        curve.age += 1
        curve.seen[i] = curve.age
        curve.due -= 1
        if curve.due <= 0 or known < 6.0:
            self._fit(curve)

    def _open(self, curve: Curve, i: int, ms: float) -> None:
        """First sight of a cell: taken, unless it is far slower than the other cells promise."""
        known, mean = curve.count[i], curve.mean[i]
        if known > 0.0:
            if abs(math.log(ms / mean)) <= 0.3:
                curve.count[i] += 1.0
            elif ms < mean:
                curve.mean[i], curve.count[i] = ms, 1.0
            else:
                curve.count[i] = 0.5
            return
        curve.mean[i], curve.count[i] = ms, 1.0
        if not any(n > 0.0 for j, n in enumerate(curve.count) if j != i):
            return
        gap, limit = math.log(ms / curve.ms[i]), 0.3 + 3.0 * curve.doubt[i]
        curve.excess[i] = max(gap, 0.0)
        if gap > limit:
            curve.count[i] = self.SUSPECT
        elif gap < -limit:
            curve.count = [min(n, self.SUSPECT) if n < 2.0 else n for n in curve.count]
            curve.count[i] = 1.0

    def _average(self, curve: Curve, i: int, known: float, ratio: float) -> None:
        bound = 3.0 * self.noise + 0.3 / known
        ratio = bound if ratio > bound else -bound if ratio < -bound else ratio
        if known >= 3.0:
            fresh = min(ratio * ratio, 0.25) * known / (known + 1.0)
            self.noise = math.sqrt(self.noise * self.noise * 0.98 + 0.02 * fresh)
        known = min(known + 1.0, self.MEMORY)
        curve.count[i] = known
        curve.mean[i] *= 1.0 + (math.exp(ratio) - 1.0) / known

    def _watch(self, curve: Curve, i: int, ms: float) -> bool:
        """Whether the errors of prediction say that the engine changed; the curve is then open again."""
        ratio, doubt, noise = ms / curve.ms[i], curve.doubt[i], self.noise
        z = math.log(ratio) / math.sqrt(max(noise * noise, 6.4e-5) + doubt * doubt)
        z = 4.0 if z > 4.0 else -4.0 if z < -4.0 else z
        recent = self._recent
        if len(recent) >= 5:
            del recent[0]
        recent.append(ratio)
        up, down = self._up + z - self.DRIFT, self._down - z - self.DRIFT
        self._up, self._down = up if up > 0.0 else 0.0, down if down > 0.0 else 0.0
        curve.strikes[i] = curve.strikes[i] + 1 if z > 3.0 else 0
        if z < -3.5 and ratio < 0.7 and curve.count[i] >= 3.0:
            # Steps are too slow by accident, never too fast: one look is enough.
            self._reopen(curve, i, ratio)
        elif curve.strikes[i] >= self.STRIKES:
            self._reopen(curve, i, ratio)
        elif max(up, down) >= self.ALARM and len(recent) >= 3:
            self._reopen(curve, i, sorted(recent)[(len(recent) - 1) // 2])
        else:
            return False
        return True

    def _reopen(self, curve: Curve, i: int, ratio: float) -> None:
        self._up = self._down = 0.0
        self._recent = []
        now = curve.ms[i] * ratio
        if abs(math.log(ratio)) < self.SAME:
            curve.shape, curve.unsure = list(curve.ms), [self.REOPENED] * len(self.ks)
        else:
            curve.shape, curve.unsure = self._line(), []
        curve.count = [0.0] * len(self.ks)
        curve.excess = [0.0] * len(self.ks)
        curve.strikes = [0] * len(self.ks)
        curve.seen = [curve.age] * len(self.ks)
        curve.count[i], curve.mean[i] = 1.0, now

    # -- fitting ------------------------------------------------------------------------------------

    def _line(self) -> list[float]:
        return [1.0 + self.SLOPE * k for k in self.ks]

    def _inherit(self, batch: int, curve: Curve) -> None:
        """Take the shape, and the doubt about it, from the nearest batch size that knows more."""
        near, best, size = None, 0.0, math.log(max(batch, 1))
        for other, known in self.curves.items():
            if known.age > curve.age and known is not curve:
                score = min(known.age, 32) / (0.2 + abs(math.log(max(other, 1)) - size))
                if score > best:
                    near, best = known, score
        if near is not None:
            curve.shape, curve.unsure = list(near.ms), list(near.doubt)
        elif not curve.shape:
            curve.shape, curve.unsure = self._line(), []
        else:
            return
        if curve.age:
            self._fit(curve)
        else:
            curve.ms = list(curve.shape)
            curve.doubt = [self.TILT * x + 0.1 for x in self._x]

    def _fit(self, curve: Curve) -> None:
        """Scale and tilt the shape to the visited cells by weighted least squares."""
        noise2, unsure, shape = self.noise * self.noise, curve.unsure, curve.shape
        cells = self._cell_known if unsure else self._cell
        first = a = b = c = p = q = 0.0
        for i, n in enumerate(curve.count):
            if n < SEEN:
                continue
            if not first:
                first = curve.mean[i] / shape[i]
            w = 1.0 / (noise2 / n + cells[i] + (unsure[i] * unsure[i] if unsure else 0.0))
            x, y = self._x[i], curve.mean[i] / (shape[i] * first)
            wx = w * x
            a += w
            b += wx
            c += wx * x
            p += w * y
            q += wx * y
        if not first:
            return
        c += 1.0 / (self.TILT_KNOWN if unsure else self.TILT) ** 2
        a += 1e-3
        p += 1e-3
        det = a * c - b * b
        level, slope = (c * p - b * q) / det, (a * q - b * p) / det
        scale = [first * max(level + slope * x, 0.05) * s for x, s in zip(self._x, shape, strict=True)]
        self._predict(curve, scale, cells, (c / det, -2.0 * b / det, a / det))
        curve.due = 8

    def _predict(self, curve: Curve, scale: list[float], cells: list[float], cov: tuple[float, float, float]) -> None:
        """Fill `ms` and `doubt`: cells from their own mean, gaps from the fit and their neighbours."""
        noise2, sqrt = self.noise * self.noise, math.sqrt
        unsure, count, mean, x, now = curve.unsure, curve.count, curve.mean, self._x, curve.age
        # A shape that was measured, here before the curve was opened again or beside it, ages like a cell.
        unseen = self.AGE_SEEN if unsure else self.AGE_UNSEEN
        seen = [i for i, n in enumerate(count) if n >= SEEN]
        off = {i: (mean[i] / scale[i] - 1.0) * count[i] / (count[i] + noise2 / cells[i]) for i in seen}
        ms, doubt = [], []
        left, ahead = -1, 0
        for i, base in enumerate(scale):
            extra = cells[i] + (unsure[i] * unsure[i] if unsure else 0.0)
            n, age = count[i], now - curve.seen[i]
            if n >= SEEN:
                ms.append(base * (1.0 + off[i]))
                variance = extra * noise2 / (n * extra + noise2) + (age / self.AGE_SEEN) ** 2
                if n < 3.0 and curve.excess[i] > 0.0:
                    # What was slower than predicted may have been so by accident.
                    variance += (self.CONTAMINATED[int(n)] * curve.excess[i]) ** 2
                doubt.append(sqrt(variance))
                left, ahead = i, ahead + 1
                continue
            right = seen[ahead] if ahead < len(seen) else -1
            ms.append(base * (1.0 + _between(i, left, right, off, x)))
            spread = cov[0] + cov[1] * x[i] + cov[2] * x[i] * x[i]
            doubt.append(sqrt(max(spread, 0.0) + extra + (age / unseen) ** 2))
        if not unsure and curve.age >= 3 and not count[0] and self.ks[0] == 0:
            # Everything is judged against K=0; no extrapolation replaces one look at it.
            doubt[0] = self.UNMEASURED
        curve.ms, curve.doubt = ms, doubt
        _order(ms, count)

    # -- state --------------------------------------------------------------------------------------

    def export_state(self) -> dict[str, Any]:
        """Everything learnt, as JSON can hold it."""
        curves: list[list[Any]] = [
            [batch, curve.age, curve.due, *(list(getattr(curve, name)) for name in _LISTS)]
            for batch, curve in self.curves.items()
        ]
        watch = [self._up, self._down, list(self._recent), self._last]
        return {"noise": self.noise, "watch": watch, "curves": curves}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `export_state` gave.

        Raises:
            ValueError: curves over another grid.
        """
        curves = {}
        for batch, age, due, *lists in state["curves"]:
            curve = Curve(len(self.ks))
            curve.age, curve.due = int(age), int(due)
            for name, values in zip(_LISTS, lists, strict=True):
                if len(values) != len(self.ks) and not (name == "unsure" and not values):
                    raise ValueError(f"state has {len(values)} step times where {len(self.ks)} belong")
                setattr(curve, name, list(values))
            curves[int(batch)] = curve
        up, down, recent, last = state["watch"]
        self.curves, self.noise = curves, float(state["noise"])
        self._up, self._down, self._recent, self._last = float(up), float(down), list(recent), int(last)


def _order(ms: list[float], count: list[float]) -> None:
    """A larger K never makes a step shorter: where cells contradict that, the better known one wins."""
    best = -1
    for i in range(len(ms) - 1, -1, -1):
        if best >= 0 and ms[i] > 1.03 * ms[best]:
            if count[i] < count[best]:
                ms[i] = 1.03 * ms[best]
        elif count[i] >= 2.0:
            best = i
    best = -1
    for i in range(len(ms)):
        if best >= 0 and 1.03 * ms[i] < ms[best]:
            if count[i] < count[best]:
                ms[i] = ms[best] / 1.03
        elif count[i] >= 2.0:
            best = i


def _between(i: int, left: int, right: int, off: Mapping[int, float], x: Sequence[float]) -> float:
    if left < 0 and right < 0:
        return 0.0
    if left < 0:
        return 0.5 * off[right]
    if right < 0:
        return 0.5 * off[left]
    share = (x[i] - x[left]) / (x[right] - x[left])
    return off[left] * (1.0 - share) + off[right] * share
