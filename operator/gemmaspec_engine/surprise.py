"""Has the mix of traffic changed? A running answer for policies, where a false alarm is cheap."""

from __future__ import annotations

import math
from collections.abc import Sequence

CHANGED, CALM = "changed", "calm"


class Surprise:
    """Two-sided CUSUM over how far the accepted drafts of a step lie from what was expected.

    Each step counts in standard deviations of its own outcome, so batch sizes and K mix freely. An alarm
    costs a policy no more than a few steps of relearning, so the threshold is low: in steady traffic the
    mean time between alarms is several hundred steps. For a verdict that somebody is told about, see
    `gemmaspec_engine.fault.MixDetector`.
    """

    DRIFT = 0.4
    ALARM = 6.0
    QUIET = 0.5
    FLOOR = 0.05
    """Variance added to each step, so that near-certain outcomes do not make every miss an alarm."""

    __slots__ = ("down", "up")

    def __init__(self) -> None:
        self.up = 0.0
        self.down = 0.0

    def observe(self, surprise: float, variance: float) -> str | None:
        """Take in a step's accepted minus expected drafts and its variance.

        Returns:
            CHANGED on an alarm (the sums start again), CALM when nothing points to a change, else None.
        """
        z = surprise / math.sqrt(variance + self.FLOOR)
        up, down = self.up + z - self.DRIFT, self.down - z - self.DRIFT
        if up > self.ALARM or down > self.ALARM:
            self.up = self.down = 0.0
            return CHANGED
        self.up, self.down = up if up > 0.0 else 0.0, down if down > 0.0 else 0.0
        return CALM if up < self.QUIET and down < self.QUIET else None

    def export_state(self) -> list[float]:
        """Both sums."""
        return [self.up, self.down]

    def load_state(self, state: Sequence[float]) -> None:
        """Take over what `export_state` gave."""
        self.up, self.down = float(state[0]), float(state[1])
