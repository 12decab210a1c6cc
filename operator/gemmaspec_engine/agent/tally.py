"""Counts of what the steps of an engine did: exact totals, and a recent picture that forgets.

Written by the scheduler's thread only; readers in other threads see numbers that may be one step apart.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Sequence
from typing import Any

__all__ = ["Overhead", "Tally"]

RECENT_DRAFTS = 400.0
"""Drafts that the recent acceptance looks back on (weights fall by 1/e over as many): a 31B engine at one stream
makes 30 to 40 steps a second, so some ten seconds."""
RECENT_STEPS = 200.0
"""Steps that the recent step time and goodput of a K look back on."""
SEEN_MOST = 4096
"""Requests remembered to count each one once."""


class _PerK:
    """Totals of the steps that verified one K."""

    __slots__ = (
        "recent_batch",
        "recent_ms",
        "recent_tokens",
        "recent_weight",
        "requests",
        "steps",
        "timed",
        "timed_ms",
        "tokens",
    )

    def __init__(self) -> None:
        self.steps = self.requests = self.tokens = self.timed = 0
        self.timed_ms = 0.0
        self.recent_ms = self.recent_tokens = self.recent_batch = self.recent_weight = 0.0

    def time(self, batch: int, tokens: int, step_ms: float) -> None:
        """One step whose length is known."""
        self.timed += 1
        self.timed_ms += step_ms
        keep = 1.0 - 1.0 / RECENT_STEPS
        self.recent_ms = keep * self.recent_ms + step_ms
        self.recent_tokens = keep * self.recent_tokens + tokens
        self.recent_batch = keep * self.recent_batch + batch
        self.recent_weight = keep * self.recent_weight + 1.0

    def goodput(self) -> float:
        """Tokens per second over the recent steps of this K; 0 where none is known."""
        return 1000.0 * self.recent_tokens / self.recent_ms if self.recent_ms > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        weight = max(self.recent_weight, 1e-9)
        known = self.timed > 0
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "timedSteps": self.timed,
            "timedMs": round(self.timed_ms, 3),
            "stepMs": round(self.recent_ms / weight, 3) if known else None,
            "batch": round(self.recent_batch / weight, 2) if known else None,
            "tokensPerSecond": round(self.goodput(), 2) if known else None,
        }


class Tally:
    """Acceptance per position and step times per K.

    Position j is drafted when the draft before it was accepted and the step's K reaches it, so that accepted /
    drafted is P(j accepted | j - 1 accepted) whatever K was.
    """

    def __init__(self, positions: int) -> None:
        self.drafted = [0] * positions
        self.accepted = [0] * positions
        self.recent_drafted = [0.0] * positions
        self.recent_accepted = [0.0] * positions
        self.drafts = 0
        self.requests = 0
        self.steps = 0
        self.tokens = 0
        self.per_k: dict[int, _PerK] = {}
        self.graphs: dict[str, int] = {}
        self._seen: dict[Hashable, None] = {}
        self._last: Sequence[Hashable] = ()

    def step(self, batch: int, k: int, tokens: int, step_ms: float) -> None:
        """One step without prefill: requests in it, K that it verified, tokens that it produced, milliseconds."""
        self.steps += 1
        per_k = self.per_k.get(k)
        if per_k is None:
            per_k = self.per_k[k] = _PerK()
        per_k.steps += 1
        per_k.requests += batch
        per_k.tokens += tokens
        if 0.0 < step_ms < math.inf:
            per_k.time(batch, tokens, step_ms)

    def drafts_of(self, k: int, accepted: Sequence[int], requests: Sequence[Hashable]) -> None:
        """What became of the drafts of the requests that carried exactly ``k`` valid ones."""
        if k == 0 or not accepted:
            return
        self.drafts += len(accepted)
        keep = (1.0 - 1.0 / RECENT_DRAFTS) ** len(accepted)
        stopped = [0] * (k + 1)
        for n in accepted:
            stopped[n] += 1
        reached = len(accepted)
        for j in range(min(k, len(self.drafted))):
            passed = reached - stopped[j]
            self.drafted[j] += reached
            self.accepted[j] += passed
            self.recent_drafted[j] = keep * self.recent_drafted[j] + reached
            self.recent_accepted[j] = keep * self.recent_accepted[j] + passed
            reached = passed
            if not passed:
                break
        if requests != self._last:
            self._last = requests
            for request in requests:
                if request not in self._seen:
                    self._remember(request)

    def _remember(self, request: Hashable) -> None:
        self.requests += 1
        self._seen[request] = None
        if len(self._seen) > SEEN_MOST:
            del self._seen[next(iter(self._seen))]

    def graph(self, mode: str) -> None:
        """One decode step ran in this CUDA-graph mode."""
        self.graphs[mode] = self.graphs.get(mode, 0) + 1

    def acceptance(self) -> list[float | None]:
        """Recent conditional acceptance per position; None where (almost) nothing was drafted of late."""
        pairs = zip(self.recent_accepted, self.recent_drafted, strict=True)
        return [round(passed / drafted, 4) if drafted >= 1.0 else None for passed, drafted in pairs]


class Overhead:
    """Our own time in a step, over the last steps: by the clock, and of some steps the thread's processor time.

    What runs while the device computes ("beside") is part of every figure but the ones called held: those are
    between two steps, where the device may wait for us.
    """

    def __init__(self, keep: int = 4096) -> None:
        self._clock = _Account(keep)
        self._processor = _Account(keep)

    @property
    def count(self) -> int:
        """Steps."""
        return self._clock.count

    def add(self, wall: int, wall_beside: int = 0, cpu: tuple[int, int] | None = None) -> None:
        """One step, nanoseconds: between the steps, and beside the device's work. ``cpu``: the same two of the
        thread's processor time, where it was read.
        """
        self._clock.add(wall, wall_beside)
        if cpu is not None:
            self._processor.add(*cpu)

    @property
    def wall_ns(self) -> int:
        """By the clock, of all steps."""
        return self._clock.sum_all

    def quantiles(self) -> dict[str, float]:
        """Microseconds. The clock's figures hold what the machine's other processes took away as well."""
        found: dict[str, float] = {}
        for account, clock in ((self._processor, ""), (self._clock, "wall")):
            for of, values in account.quantiles().items():
                prefix = of + clock.capitalize() if of else clock
                found |= {_name(prefix, name): round(ns / 1000.0, 2) for name, ns in values.items()}
        return found


class _Account:
    """Nanoseconds of the last steps, held and all."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._held, self._all = (array("q", bytes(8 * keep)) for _ in range(2))
        self.count = self.sum_held = self.sum_all = 0

    def add(self, held: int, beside: int) -> None:
        at = self.count % self._keep
        self.count += 1
        self._held[at] = held
        self._all[at] = held + beside
        self.sum_held += held
        self.sum_all += held + beside

    def quantiles(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        if not self.count:
            return found
        for of, ring, total in (("", self._all, self.sum_all), ("held", self._held, self.sum_held)):
            last = sorted(ring[: min(self.count, self._keep)])
            picked = {"P50Us": last[len(last) // 2], "P99Us": last[int(0.99 * len(last))], "MaxUs": last[-1]}
            found[of] = {**picked, "MeanUs": total // self.count}
        return found


def _name(prefix: str, name: str) -> str:
    return prefix + name if prefix else name[0].lower() + name[1:]
