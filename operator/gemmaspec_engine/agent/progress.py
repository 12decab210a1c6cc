"""Does the engine get on with the requests it has? Judged by tokens, not by answers of a health check.

A livelocked engine goes on stepping and answers /health with 200; what it does not do is compute a prompt token
that it never computed before, or sample an output token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable

__all__ = ["Progress", "Verdict"]

CHUNKS = 3.0
"""Slowest full prefill chunks that may pass without progress."""
TOKENS_PER_SECOND = 262144 / 360
"""Slowest prefill to reckon with before one was measured: 262,144 tokens in six minutes, on a GB10."""
FIRST_FACTOR = 5.0
"""Until the first token ever, kernels are still compiled and loaded: the limit is that many times longer."""
FULL = 0.9
"""A step that holds this share of the token budget counts as a full chunk."""


class Verdict:
    """What /livez says."""

    def __init__(self, stalled: float, limit: float, unfinished: int) -> None:
        self.stalled = stalled
        """Seconds since the last progress; 0 with nothing to do."""
        self.limit = limit
        self.unfinished = unfinished

    @property
    def live(self) -> bool:
        """Within the limit."""
        return self.stalled <= self.limit


class Progress:
    """Watches tokens. Written by the scheduler's thread, read by the port's.

    Args:
        token_budget: most tokens that one step computes.
        at_least: smallest limit in seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, token_budget: int, at_least: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at_least = at_least
        self._budget = token_budget
        self._slowest = token_budget / TOKENS_PER_SECOND
        self._measured = 0.0
        self._last = clock()
        self._first_seen = False
        self._marks: dict[Hashable, int] = {}

    def arrived(self, unfinished: int) -> None:
        """A request comes; with none before it, the time starts now."""
        if unfinished == 0:
            self._last = self._clock()

    def sampled(self) -> None:
        """A step brought output tokens."""
        self._last = self._clock()
        self._first_seen = True

    def computed(self, request: Hashable, end: int) -> None:
        """A step computed a prompt up to token ``end``. A repetition after a preemption is no progress."""
        if end > self._marks.get(request, 0):
            self._marks[request] = end
            self._last = self._clock()

    def chunk(self, tokens: int, seconds: float) -> None:
        """A step with prefill took so long."""
        if tokens >= FULL * self._budget and seconds > self._measured:
            self._measured = seconds

    def forget(self, alive: Container[Hashable], count: int) -> None:
        """Drops the marks of requests that are not among the ``count`` ones ``alive``."""
        if len(self._marks) > 2 * count + 16:
            self._marks = {request: end for request, end in self._marks.items() if request in alive}

    def limit(self) -> float:
        """Seconds without progress that are still life."""
        chunk = max(self._measured, 0.0 if self._measured else self._slowest)
        limit = max(self._at_least, CHUNKS * chunk)
        return limit if self._first_seen else FIRST_FACTOR * limit

    def verdict(self, unfinished: int, paused: bool) -> Verdict:
        """Now, with so many unfinished requests; an engine that was told to pause makes none."""
        if unfinished == 0 or paused:
            self._last = self._clock()
            return Verdict(0.0, self.limit(), unfinished)
        return Verdict(max(0.0, self._clock() - self._last), self.limit(), unfinished)
