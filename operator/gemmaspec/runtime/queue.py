"""A de-duplicating work queue: many events of one resource are one pass, and passes of one never overlap."""

from __future__ import annotations

import asyncio
from collections import deque

Key = tuple[str, str]

FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 60.0


class WakeQueue:
    """Keys (namespace, name) that want a pass. Level-triggered: a key in the queue is not queued twice."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._resting: set[Key] = set()
        self._signal = asyncio.Event()
        self._held = False

    def __len__(self) -> int:
        return len(self._ready)

    def hold(self) -> None:
        """Give out no key until ``release``: not all is known yet."""
        self._held = True

    def release(self) -> None:
        """Give out keys."""
        self._held = False
        self._signal.set()

    def wake(self, key: Key, first: bool = False) -> None:
        """Ask for a pass; a running one is followed by another. A key that rests is left until its timer.

        first: before all that wait now.
        """
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued and key not in self._resting:
            self._queued.add(key)
            (self._ready.appendleft if first else self._ready.append)(key)
            self._signal.set()

    def wake_after(self, key: Key, seconds: float) -> None:
        """Ask for a pass in a while. The sooner of two such wishes holds."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None and not timer.cancelled() and timer.when() <= due and timer.when() > loop.time():
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._fire, key)

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self._resting.discard(key)
        self.wake(key)

    async def take(self) -> Key:
        """The next key; ``done`` or ``failed`` must follow. A pass that was due later is this one: what it still waits
        for it says anew.
        """
        while self._held or not self._ready:
            self._signal.clear()
            await self._signal.wait()
        key = self._ready.popleft()
        self._queued.discard(key)
        self._running.add(key)
        self._unschedule(key)
        return key

    def done(self, key: Key) -> None:
        """The pass ended well."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: Key, at_least: float = 0.0, rest: bool = False) -> float:
        """The pass failed: another follows after a back-off that doubles. Returns its seconds.

        rest: nothing that happens meanwhile brings it forward, since no event could change the outcome.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds = max(at_least, min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 16)))
        self._again.discard(key)  # an event does not cut a back-off short
        self._release(key)
        if rest:
            self._resting.add(key)
        self.wake_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """The resource is gone: no timers, no memory of failures."""
        self._unschedule(key)
        self._failures.pop(key, None)
        self._resting.discard(key)

    def _unschedule(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _release(self, key: Key) -> None:
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.wake(key)
