"""Tokens over time, in small buckets: cheap to feed from many streams and to read from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

BUCKET: Final = 0.1  # seconds


class Meter:
    """Counts tokens as they arrive. `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._begun = clock()
        self._buckets: list[int] = []
        self._lock = threading.Lock()

    def add(self, tokens: int) -> None:
        """Tokens that have come just now."""
        bucket = max(0, int((self._clock() - self._begun) / BUCKET))
        with self._lock:
            self._buckets.extend([0] * (bucket + 1 - len(self._buckets)))
            self._buckets[-1] += tokens

    @property
    def total(self) -> int:
        """All tokens so far."""
        with self._lock:
            return sum(self._buckets)

    def rate(self, window: float = 5.0) -> float:
        """Tokens per second over the last `window` seconds, or since the start when that is less."""
        passed = int((self._clock() - self._begun) / BUCKET)  # the bucket that is filling does not count yet
        wanted = min(max(1, round(window / BUCKET)), passed)
        if wanted <= 0:
            return 0.0
        with self._lock:
            return sum(self._buckets[passed - wanted : passed]) / (wanted * BUCKET)

    def series(self, seconds: float = 1.0) -> list[tuple[float, float]]:
        """(start in seconds since the epoch, tokens per second) of each completed span of `seconds`."""
        size = max(1, round(seconds / BUCKET))
        passed = int((self._clock() - self._begun) / BUCKET)
        with self._lock:
            buckets = [*self._buckets, *[0] * (passed - len(self._buckets))]
        return [
            (self._begun + at * BUCKET, sum(buckets[at : at + size]) / (size * BUCKET))
            for at in range(0, passed - size + 1, size)
        ]
