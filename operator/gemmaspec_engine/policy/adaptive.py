"""The product's policy: the K with the best expected goodput for the requests that run right now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from gemmaspec_engine.acceptance import Acceptance
from gemmaspec_engine.fault import FAULT, FaultDetector
from gemmaspec_engine.steptime import StepTimes
from gemmaspec_engine.surprise import CALM, CHANGED, Surprise

from .base import Policy, read_prior, usable


class Adaptive(Policy):
    """Maximises (requests + expected accepted drafts) / expected step time, over the grid.

    Both factors are learnt online (`Acceptance`, `StepTimes`) and scored optimistically: a K gains
    `TIME_BONUS` and `RATE_BONUS` standard deviations of what is not known about it, so it is tried while
    trying can pay and left alone once it is known. Results come some steps late (`FLIGHT`), so what is
    being looked at already counts as known. K=0 shows nothing about acceptance, so there the drafter
    is probed, one step at a time: the interval grows with the square root of how long nothing changed,
    the balance of the price of a probe against that of a late discovery. A CUSUM over accepted minus
    expected drafts notices a change of mix; what was learnt before it is then all but forgotten. A
    `FaultDetector` turns speculation off for good when this engine has never accepted; while it is all but
    sure of that, nothing but probes is drafted, however little drafts cost.

    K changes are paid from a bucket of `BURST` changes that refills by `REFILL` per step: within any n
    steps there are at most BURST + REFILL * n of them.

    Args:
        k_max, ks, k_min: see `Policy`.
        prior: {"acceptance": [conditional rate per position], "step_ms": {batch: {k: ms}},
            "weight": pseudo-drafts behind the rates}; published figures or an earlier sweep.
        fault: whether to turn off for good on a broken drafter.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "adaptive"
    TIME_BONUS = 2.0
    RATE_BONUS = 0.5
    STICK = 1.003
    PROBE, STEADY = 6.0, 300.0
    PROBE_FIRST, PROBE_MIN, PROBE_MAX = 16.0, 8.0, 512.0
    PROBE_UNPROVED = 12.0
    PROBE_HOPELESS = 24.0
    """Often enough to find within a second or two that the traffic, and not the drafter, was hopeless."""
    PROBE_DEEPER = 1.1
    IDLE_WEIGHT = 12.0
    KEEP = 0.03
    FOLLOW = 0.7
    BURST, REFILL = 24.0, 0.25
    FLIGHT = 3
    """Decisions whose results may not have come: an asynchronous engine drafts what was decided in the step that is
    prepared, verifies it in the next, and tells when the one after that is under way (docs/adr/0012)."""
    LOOK = 2
    """Decisions in a row that show a K: a step is timed where the one before drafted what it drafts."""
    REFRESH = 4
    WEAK_CONCENTRATION = 5.0

    def __init__(
        self,
        *,
        k_max: int,
        ks: Sequence[int] | None = None,
        k_min: int | None = None,
        prior: Mapping[str, Any] | None = None,
        fault: bool = True,
    ) -> None:
        self._pairs: tuple[tuple[int, int], ...] = ()
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        rates, weight, step_ms = read_prior(prior)
        self.acceptance = Acceptance(k_max, prior=rates, prior_weight=weight)
        self.times = StepTimes(self.ks, prior=step_ms)
        self.faults = FaultDetector(weak_concentration=self.WEAK_CONCENTRATION)
        if not fault:
            self.faults.verdict = "off"
        self.mix = Surprise()
        self.mix_changes = 0
        self._doubt = self.acceptance.doubt()
        self._k = -1
        self._countdown = 0
        self._idle = 0
        self._quiet = 0
        self._interval = self.PROBE_FIRST
        self._since = 0
        self._budget = self.BURST
        self._flight: deque[int] = deque(maxlen=self.FLIGHT)
        self._why: tuple[str, int, list[float], list[float]] | None = None

    @property
    def verdict(self) -> str | None:
        """ "fault" once the drafter is broken, "healthy" once it has proved acceptance, else None."""
        return self.faults.verdict

    def set_bounds(self, k_min: int, k_max: int) -> None:
        """See `Policy.set_bounds`."""
        super().set_bounds(k_min, k_max)
        self._pairs = tuple((self.ks.index(k), k) for k in self._allowed)

    # -- deciding -----------------------------------------------------------------------------------

    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:
        if self.faults.verdict == FAULT:
            self._why = None
            return self._allowed[0]
        self._countdown -= 1
        if self._countdown <= 0:
            self._countdown = self.REFRESH
            self.acceptance.refresh()
            self._doubt = self.acceptance.doubt()
        curve = self.times.curve(batch)
        total = self.acceptance.totals(batch, requests)
        if self.faults.hopeless:
            k, mode = self._allowed[0], "waits for a verdict on the drafter"
        else:
            k, mode = self._best(batch, total, curve.ms, curve.doubt), "pays best"
        if k == 0 and len(self._allowed) > 1:
            probe = self._probe(curve.ms)
            if probe:
                k, mode = probe, "probes the drafter"
        else:
            self._quiet = 0
        self._why = (mode, batch, total, curve.ms)
        k = self._pay(k)
        self._flight.append(k)
        return k

    def _best(self, batch: int, total: list[float], ms: list[float], doubt: list[float]) -> int:
        """The best score: the goodput that is expected, and for what is not known of it a bonus.

        The best known K keeps its bonus; another one has none while `LOOK` decisions for it are under way: the look has
        been taken, and only its result can change the score. (GP-BUCB does so where feedback is late: Desautels, Krause
        and Burdick, JMLR 15, 2014.)
        """
        best, best_score = self._allowed[0], -1.0
        rate, stay, under_way = self._doubt, self._k, self._flight.count
        time_bonus, rate_bonus = self.TIME_BONUS, self.RATE_BONUS
        expected = [(batch + total[k]) / ms[i] for i, k in self._pairs]
        most = max(expected)
        for (i, k), score in zip(self._pairs, expected, strict=True):
            if score == most or under_way(k) < self.LOOK:
                score *= 1.0 + time_bonus * doubt[i] + rate_bonus * rate[k]
            if k == stay:
                score *= self.STICK
            if score > best_score:
                best, best_score = k, score
        return best

    def _probe(self, ms: list[float]) -> int:
        """At K=0: the K to draft with in this step, or 0 to stay quiet."""
        self._quiet += 1
        followed = self.mix.up > self.FOLLOW and not any(self._flight)
        if not followed and self._quiet < self._interval:
            return 0
        self._quiet = 0
        first = ms[self._pairs[1][0]]
        i, probe = max(pair for pair in self._pairs[1:] if ms[pair[0]] <= self.PROBE_DEEPER * first)
        cost = max(0.02, 1.0 - ms[self._pairs[0][0]] / ms[i])
        interval = math.sqrt(self.PROBE * cost * (self.STEADY + self._since))
        if self.faults.hopeless:
            interval = self.PROBE_HOPELESS
        elif self.faults.verdict is None:
            interval = min(interval, self.PROBE_UNPROVED)
        self._interval = min(self.PROBE_MAX, max(self.PROBE_MIN, interval))
        return probe

    def _pay(self, k: int) -> int:
        self._budget = min(self.BURST, self._budget + self.REFILL)
        if k != self._k and self._k in self._allowed:
            if self._budget < 1.0:
                return self._k
            self._budget -= 1.0
        self._k = k
        return k

    # -- learning -----------------------------------------------------------------------------------

    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        timed = usable(step_ms)
        if not timed and not accepted:
            return
        self._since += 1
        if timed:
            self.times.observe(batch, k, step_ms)
        if k and accepted:
            if self.faults.verdict is None:
                self.faults.observe(accepted, requests)
            surprise, variance = self.acceptance.observe(k, accepted, requests)
            signal = self.mix.observe(surprise, variance)
            if signal == CALM:
                self.acceptance.mark()
            elif signal == CHANGED:
                self._changed()
        elif k == 0:
            self._idle += 1
            if self._idle % 32 == 0 and self.acceptance.weight > self.IDLE_WEIGHT:
                self.acceptance.fade(0.9)

    def _changed(self) -> None:
        """The mix is another one: all but forget the old, and look again soon."""
        self._since = 0
        self._interval = self.PROBE_FIRST
        self._countdown = 0
        self.mix_changes += 1
        self.acceptance.forget(self.KEEP)

    # -- telling ------------------------------------------------------------------------------------

    def explain(self) -> str:
        """See `Policy.explain`."""
        if self.faults.verdict == FAULT:
            return f"K={self._allowed[0]}: {self.faults.explain()}"
        if self._why is None:
            return self._reason
        mode, batch, total, ms = self._why
        rates = {k: 1000.0 * (batch + total[k]) / ms[i] for i, k in self._pairs}
        chosen = rates.get(self._k, 0.0)
        other = max((k for k in rates if k != self._k), key=rates.__getitem__, default=None)
        text = f"K={self._k} {mode} at batch {batch}: {chosen:.1f} tok/s expected"
        if other is not None:
            text += f", next best K={other} with {rates[other]:.1f}"
        shown = " ".join(f"{rate:.2f}" for rate in self.acceptance.rates[:4])
        return f"{text}; conditional acceptance {shown}" if shown else text

    # -- state --------------------------------------------------------------------------------------

    def _export(self) -> dict[str, Any]:
        return {
            "acceptance": self.acceptance.export_state(),
            "times": self.times.export_state(),
            "faults": self.faults.export_state(),
            "doubt": list(self._doubt),
            "mix": self.mix.export_state(),
            "pace": [self._interval, self._budget],
            "flight": list(self._flight),
            "counters": [self._k, self._countdown, self._idle, self._quiet, self._since, self.mix_changes],
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.acceptance.load_state(state["acceptance"])
        self.times.load_state(state["times"])
        self.faults.load_state(state["faults"])
        self._doubt = [float(x) for x in state["doubt"]]
        self.mix.load_state(state["mix"])
        self._interval, self._budget = (float(x) for x in state["pace"])
        self._flight = deque((int(k) for k in state.get("flight", ())), maxlen=self.FLIGHT)
        counters = (int(x) for x in state["counters"])
        self._k, self._countdown, self._idle, self._quiet, self._since, self.mix_changes = counters
        self._why = None
        self._reason = "state was loaded, no step has been decided since"
