"""The cautious policy: stay at the given K until evidence says otherwise, come back only on proof."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from gemmaspec_engine.acceptance import Acceptance, break_even
from gemmaspec_engine.fault import FAULT, FaultDetector, Sprt
from gemmaspec_engine.steptime import StepTimes
from gemmaspec_engine.surprise import CALM, CHANGED, Surprise

from .base import Policy, number, read_prior, usable, whole

STEADY, HOLDING, PROVING = "steady", "holding", "proving"


class Rollback(Policy):
    """evidence -> lower K -> hold -> prove recovery -> step up, with exponential back-off.

    Down: every `REVIEW` steps the goodput of the K in force is compared with that of every lower K, over
    the traffic of late. A lower K must win by `MARGIN` and by `SURE` standard deviations of what is
    not known; if it wins on the mean alone, it is tried for one step so that its step time is known.
    Up: after `hold` steps the next higher K is tried one step in `SPARSE`, and Wald's test decides
    between acceptance that pays and acceptance that does not (`BAND` on either side of the rate at
    which both K earn the same). Proof: step up. No proof: the next hold is twice as long, and the longest
    there is while nothing at all was ever accepted. A drafter that never accepted (`FaultDetector`) is
    turned off for good.

    Args:
        k_max, ks, k_min: see `Policy`.
        k: the K to start from and to return to, default k_max.
        hold: steps to stay down at first, at least 1.
        prior: as for `adaptive`.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "rollback"
    REVIEW = 16
    MARGIN, SURE = 0.02, 2.0
    BAND = 0.05
    SPARSE = 8
    HOLD_MAX = 16384
    PATIENCE = 64
    KEEP = 0.03
    MEMORY = 160.0
    """Pseudo-drafts the population remembers: longer than `adaptive`, whose mistakes cost a step only."""

    def __init__(
        self,
        *,
        k_max: int,
        ks: Sequence[int] | None = None,
        k_min: int | None = None,
        k: int | None = None,
        hold: int = 256,
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(k_max=k_max, ks=ks, k_min=k_min)
        rates, weight, step_ms = read_prior(prior)
        self.desired = k_max if k is None else whole("k", k, 0, k_max)
        self.acceptance = Acceptance(k_max, prior=rates, prior_weight=weight)
        self.acceptance.MEMORY = self.MEMORY
        self.times = StepTimes(self.ks, prior=step_ms)
        self.faults = FaultDetector()
        self.mix = Surprise()
        self._first_hold = whole("hold", hold, 1, self.HOLD_MAX)
        self._hold = self._first_hold
        self._mode = STEADY
        self._k = self._at_most(self.desired)
        self._target = self._k
        self._steps = 0
        self._trial: int | None = None
        self._test: Sprt | None = None
        self._tried = 0
        self._reason = f"K={self._k}: as desired, nothing has spoken against it"

    @property
    def verdict(self) -> str | None:
        """ "fault" once the drafter is broken, "healthy" once it has proved acceptance, else None."""
        return self.faults.verdict

    @property
    def mode(self) -> str:
        """ "steady", "holding" after a rollback, or "proving" a recovery."""
        return self._mode

    # -- deciding -----------------------------------------------------------------------------------

    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:  # noqa: ARG002  (population only)
        if self.faults.verdict == FAULT:
            self._reason = f"K={self._allowed[0]}: {self.faults.explain()}"
            return self._allowed[0]
        ceiling = self._at_most(self.desired)
        if self._k not in self._allowed or self._k > ceiling:
            self._settle(ceiling, STEADY, f"K={ceiling}: the bounds changed")
        self._steps += 1
        lowest = self._allowed[0]
        if self.faults.hopeless and self._mode != PROVING and self._k != lowest:
            self._settle(lowest, HOLDING, f"K={lowest}: {self.faults.explain()}")
        if self._mode == PROVING:
            return self._target if self._steps % self.SPARSE == 0 else self._k
        if self._steps % self.REVIEW == 0:
            self._review(batch)
            trial, self._trial = self._trial, None
            if trial is not None:
                return trial
        if self._mode == HOLDING and self._steps >= (self.HOLD_MAX if self.faults.hopeless else self._hold):
            self._prove(batch, ceiling)
        return self._k

    def _review(self, batch: int) -> None:
        """Whether a lower K earns more; one that might, but was never timed, is tried for a step."""
        if self.acceptance.weight < 12.0:
            return
        self.acceptance.refresh()
        rates = self._goodput(batch)
        doubts, curve = self.acceptance.doubt(), self.times.curve(batch)
        here, now = self.times.index[self._k], rates[self._k]
        best, best_gain = self._k, 0.0
        for k in self._allowed:
            if k >= self._k:
                break
            gain = rates[k] / now - 1.0
            i = self.times.index[k]
            spread = math.hypot(doubts[self._k] - doubts[k], curve.doubt[i], curve.doubt[here])
            if gain > max(self.MARGIN, self.SURE * spread) and gain > best_gain:
                best, best_gain = k, gain
            elif gain + spread > self.MARGIN and curve.count[i] < 3.0 and self._trial is None:
                self._trial = k
        if best != self._k:
            text = f"{rates[best]:.1f} tok/s expected instead of {now:.1f} at K={self._k}, batch {batch}"
            self._settle(best, HOLDING, f"K={best}: rolled back, {text}")

    def _prove(self, batch: int, ceiling: int) -> None:
        self._target = next((k for k in self._allowed if k > self._k), self._k)
        if self._target <= self._k or self._target > ceiling:
            self._settle(self._k, STEADY, f"K={self._k}: back where it is meant to be")
            return
        even = self._break_even(batch)
        if even is None:
            self._back_off(f"no acceptance makes K={self._target} pay at batch {batch}")
            return
        low, high = max(0.005, even - self.BAND), min(0.995, even + self.BAND)
        self._test, self._tried = Sprt(low, high, design_effect=2.0), 0
        self._mode, self._steps = PROVING, 0
        self._reason = f"K={self._k}: proving that K={self._target} pays again (needs acceptance above {even:.2f})"

    def _break_even(self, batch: int) -> float | None:
        """The acceptance, alike at all positions, at which the higher K earns as much as the one in force."""
        curve, index = self.times.curve(batch), self.times.index
        ratio = curve.ms[index[self._target]] / curve.ms[index[self._k]] * (1.0 + self.MARGIN / 2)
        return break_even(self._k, self._target, ratio)

    def _goodput(self, batch: int) -> dict[int, float]:
        total, curve = self.acceptance.totals(batch), self.times.curve(batch)
        return {k: 1000.0 * (batch + total[k]) / curve.ms[self.times.index[k]] for k in self._allowed}

    def _settle(self, k: int, mode: str, reason: str) -> None:
        self._k, self._mode, self._steps, self._test, self._trial = k, mode, 0, None, None
        if mode == STEADY:
            self._hold = self._first_hold
        self._reason = reason

    def _back_off(self, why: str) -> None:
        self._hold = min(2 * self._hold, self.HOLD_MAX)
        self._mode, self._steps, self._test = HOLDING, 0, None
        self._reason = f"K={self._k}: {why}, next try in {self._hold} steps"

    # -- learning -----------------------------------------------------------------------------------

    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        if usable(step_ms):
            self.times.observe(batch, k, step_ms)
        if not k or not accepted:
            return
        if self.faults.verdict is None:
            self.faults.observe(accepted, requests)
        signal = self.mix.observe(*self.acceptance.observe(k, accepted, requests))
        if signal == CALM:
            self.acceptance.mark()
        elif signal == CHANGED:
            self.acceptance.forget(self.KEEP)
        if self._test is not None and k >= self._target:
            hits = sum(accepted)
            self._test.observe(hits, sum(1 for a in accepted if a < k))
            self._tried += 1
            self._conclude(self._test)

    def _conclude(self, test: Sprt) -> None:
        if test.decision is None and self._tried < self.PATIENCE:
            return
        rate = f"after {test.trials} trials at K={self._target}"
        if test.decision:
            up = self._target
            mode = STEADY if up >= self._at_most(self.desired) else HOLDING
            hold = self._hold
            self._settle(up, mode, f"K={up}: recovery proved {rate}")
            self._hold = hold if mode == HOLDING else self._first_hold
        else:
            self._back_off(f"no recovery {rate}")

    # -- state --------------------------------------------------------------------------------------

    def explain(self) -> str:
        """See `Policy.explain`."""
        if self._mode == STEADY and self.faults.verdict != FAULT:
            return f"{self._reason} ({self._steps} steps ago)"
        return self._reason

    def _export(self) -> dict[str, Any]:
        test = self._test
        return {
            "acceptance": self.acceptance.export_state(),
            "times": self.times.export_state(),
            "faults": self.faults.export_state(),
            "mix": self.mix.export_state(),
            "desired": self.desired,
            "mode": self._mode,
            "counters": [self._k, self._target, self._steps, self._tried, self._hold],
            "test": None if test is None else [test.low, test.high, test.ratio, test.trials],
            "reason": self._reason,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.acceptance.load_state(state["acceptance"])
        self.times.load_state(state["times"])
        self.faults.load_state(state["faults"])
        self.mix.load_state(state["mix"])
        self.desired = whole("desired", state["desired"], 0, self.k_max)
        if state["mode"] not in (STEADY, HOLDING, PROVING):
            raise ValueError(f"state has the unknown mode {state['mode']!r}")
        self._mode = state["mode"]
        self._k, self._target, self._steps, self._tried, self._hold = (int(x) for x in state["counters"])
        self._test = None
        if state["test"] is not None:
            low, high, ratio, trials = state["test"]
            self._test = Sprt(number("low", low, 0, 1), number("high", high, 0, 1), design_effect=2.0)
            self._test.ratio, self._test.trials = float(ratio), int(trials)
        self._reason = str(state["reason"])
