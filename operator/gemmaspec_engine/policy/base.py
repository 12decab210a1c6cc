"""What every K policy has in common: the grid of K values, the bounds, the state envelope.

A policy is a pure object: no clock, no randomness, no I/O. Two policies that were made alike and saw the
same calls give the same answers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

STATE_VERSION = 1
K_LIMIT = 64
"""Largest K accepted: far beyond any published setting (8), small enough to keep a step's work bounded."""


class Policy(ABC):
    """Chooses K, the number of draft tokens per request, for the next decode step.

    Args:
        k_max: largest K the engine can verify, 0..64.
        ks: the grid of K values for which the engine has graphs; default all of 0..k_max.
        k_min: smallest K that may be chosen; default the smallest of the grid.

    Raises:
        ValueError: an argument is out of range, or no K of the grid lies within the bounds.
    """

    name: ClassVar[str] = ""

    def __init__(self, *, k_max: int, ks: Sequence[int] | None = None, k_min: int | None = None) -> None:
        if isinstance(k_max, bool) or not isinstance(k_max, int) or not 0 <= k_max <= K_LIMIT:
            raise ValueError(f"k_max must be a whole number between 0 and {K_LIMIT}, got {k_max!r}")
        self.k_max = k_max
        self.ks: tuple[int, ...] = _grid(k_max, ks)
        self._reason = "no step has been decided yet"
        self._low = 0
        self._high = k_max
        self._allowed: tuple[int, ...] = ()
        self.set_bounds(self.ks[0] if k_min is None else k_min, k_max)

    def choose(self, batch: int, requests: Sequence[Hashable] = ()) -> int:
        """K for the next step.

        Args:
            batch: requests in the step (0 counts as 1).
            requests: ids of the running requests, if known.

        Raises:
            ValueError: `batch` is negative.
        """
        if batch < 1:
            if batch < 0:
                raise ValueError(f"batch must not be negative, got {batch}")
            batch = 1
        return self._choose(batch, requests)

    def observe(
        self,
        batch: int,
        k: int,
        accepted: Sequence[int],
        step_ms: float,
        requests: Sequence[Hashable] = (),
    ) -> None:
        """Learn from one decode step.

        Args:
            batch: requests in the step.
            k: the K that the step verified.
            accepted: accepted draft tokens of each request that carried exactly `k` valid drafts.
            step_ms: length of the step in milliseconds; NaN when it says nothing about (batch, k).
            requests: ids in the order of `accepted`, if known.

        Raises:
            ValueError: ids and counts differ in number, `k` or `batch` is negative, or a count lies
                outside 0..k.
        """
        if batch < 0 or k < 0:
            raise ValueError(f"batch and k must not be negative, got batch={batch}, k={k}")
        if accepted:
            if requests and len(requests) != len(accepted):
                raise ValueError(f"{len(accepted)} accepted counts for {len(requests)} requests")
            if max(accepted) > k or min(accepted) < 0:
                raise ValueError(f"accepted counts must lie within 0..{k}, got {list(accepted)}")
        self._observe(batch or 1, k, accepted, step_ms, requests)

    @abstractmethod
    def _choose(self, batch: int, requests: Sequence[Hashable]) -> int:
        """`choose` with a batch of at least 1."""

    @abstractmethod
    def _observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        """`observe` with checked arguments."""

    @property
    def k_min(self) -> int:
        """Lower bound now in force."""
        return self._low

    @property
    def allowed(self) -> tuple[int, ...]:
        """Values of the grid within the bounds, ascending."""
        return self._allowed

    def set_bounds(self, k_min: int, k_max: int) -> None:
        """Narrow or widen the range of K at run time; `k_max` may not exceed the one given at the start.

        Raises:
            ValueError: the bounds are reversed, negative, too large, or hold no K of the grid.
        """
        for label, value in (("k_min", k_min), ("k_max", k_max)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{label} must be a whole number, got {value!r}")
        if not 0 <= k_min <= k_max <= self.k_max:
            raise ValueError(f"bounds must satisfy 0 <= k_min <= k_max <= {self.k_max}, got {k_min}..{k_max}")
        allowed = tuple(k for k in self.ks if k_min <= k <= k_max)
        if not allowed:
            raise ValueError(f"no K of the grid {list(self.ks)} lies within {k_min}..{k_max}")
        self._low, self._high, self._allowed = k_min, k_max, allowed

    def explain(self) -> str:
        """One sentence, with its numbers, on why the last K was chosen."""
        return self._reason

    def export_state(self) -> dict[str, Any]:
        """What the policy has learnt, as a small dict that JSON can hold."""
        head = {"version": STATE_VERSION, "policy": self.name, "k_max": self.k_max, "ks": list(self.ks)}
        return {**head, "bounds": [self._low, self._high], **self._export()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `export_state` gave; export after load gives the same dict.

        A state that is refused leaves the policy as it was.

        Raises:
            ValueError: the state is of another version, policy or grid, or is damaged.
        """
        wanted = {"version": STATE_VERSION, "policy": self.name, "k_max": self.k_max, "ks": list(self.ks)}
        for key, value in wanted.items():
            if state.get(key) != value:
                raise ValueError(f"state has {key}={state.get(key)!r}, this policy has {value!r}")
        before = self.export_state()
        try:
            low, high = state["bounds"]
            self._load(state)
            self.set_bounds(low, high)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            self._load(before)
            raise ValueError(f"state of policy {self.name!r} is damaged: {error!r}") from error

    @abstractmethod
    def _export(self) -> dict[str, Any]:
        """The policy's own part of the state."""

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None:
        """Take over the policy's own part of the state."""

    def _at_most(self, k: float) -> int:
        """The largest allowed K that is not above `k`; the smallest allowed one if all are above."""
        best = self._allowed[0]
        for value in self._allowed:
            if value <= k:
                best = value
        return best


def usable(step_ms: float) -> bool:
    """Whether a step time says something: finite and above zero."""
    return 0.0 < step_ms < math.inf


def number(label: str, value: Any, low: float, high: float) -> float:
    """`value` as a float within [low, high].

    Raises:
        ValueError: it is no number, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{label} must be a number between {low:g} and {high:g}, got {value!r}")
    return float(value)


def whole(label: str, value: Any, low: int, high: int) -> int:
    """`value` as an int within [low, high].

    Raises:
        ValueError: it is no whole number, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{label} must be a whole number between {low} and {high}, got {value!r}")
    return value


def read_prior(
    prior: Mapping[str, Any] | None,
) -> tuple[list[float] | None, float, dict[int, dict[int, float]]]:
    """The parts of a prior, with batch sizes and K as numbers (JSON makes them text).

    Raises:
        ValueError: unknown parts, or parts of another form.
    """
    known = dict(prior or {})
    try:
        rates = known.pop("acceptance", None)
        weight = float(known.pop("weight", 8.0 if rates else 2.0))
        times = {
            int(batch): {int(k): float(ms) for k, ms in row.items()}
            for batch, row in dict(known.pop("step_ms", {})).items()
        }
        found = None if rates is None else [float(rate) for rate in rates]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"prior is not of the expected form: {error}") from error
    if known:
        raise ValueError(f"prior has unknown parts: {', '.join(sorted(known))}")
    return found, weight, times


def _grid(k_max: int, ks: Sequence[int] | None) -> tuple[int, ...]:
    if ks is None:
        return tuple(range(k_max + 1))
    grid = tuple(sorted(set(ks)))
    if not grid:
        raise ValueError("ks must name at least one K")
    for k in grid:
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= k_max:
            raise ValueError(f"every K of ks must be a whole number between 0 and {k_max}, got {k!r}")
    return grid
