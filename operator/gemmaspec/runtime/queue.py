"""A de-duplicating work queue: many events of one resource are one pass, and passes of one never overlap.

What somebody waits for comes before all else: thousands of engines under traffic ask for a look each, and a look that
renews figures is a write. An edit behind a round of these would wait for a minute. Nor do engines that serve wait until
thousands of others are made, or these for them: of what nobody waits for, looks have their share.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

Key = tuple[str, str]

# While other passes wait too, one in so many is a look.
LOOK_EVERY = 4
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 60.0


class WakeQueue:
    """Keys (namespace, name) that want a pass. Level-triggered: a key in the queue is not queued twice."""

    def __init__(self) -> None:
        self._first: OrderedDict[Key, None] = OrderedDict()
        self._ready: OrderedDict[Key, None] = OrderedDict()
        self._looks: OrderedDict[Key, None] = OrderedDict()
        self._others = 0
        """How many passes have come before the looks since the last one."""
        self._urgent: set[Key] = set()
        """Keys that were asked for first, and whose pass has not begun."""
        self._running: dict[Key, bool] = {}
        """Keys of the passes under way, and whether they were asked for first."""
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._resting: set[Key] = set()
        self._signal = asyncio.Event()
        self._held = False

    def __len__(self) -> int:
        return len(self._first) + len(self._ready) + len(self._looks)

    def hold(self) -> None:
        """Give out no key until ``release``: not all is known yet."""
        self._held = True

    def release(self) -> None:
        """Give out keys."""
        self._held = False
        self._signal.set()

    def wake(self, key: Key, first: bool = False) -> None:
        """Ask for a pass; a running one is followed by another. A key that rests is left until its timer.

        first: before all that were not asked for so, also where it waits among these already.
        """
        if first:
            self._urgent.add(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._resting:
            self._enqueue(key)

    def look(self, key: Key) -> None:
        """Ask for a pass that nobody waits for: an engine has told new figures."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._resting and key not in self._first and key not in self._ready:
            self._looks[key] = None
            self._signal.set()

    def _enqueue(self, key: Key) -> None:
        self._looks.pop(key, None)
        if key in self._urgent:
            self._ready.pop(key, None)
            self._first[key] = None  # one that waits keeps its place
        elif key not in self._first:
            self._ready[key] = None
        self._signal.set()

    def _next(self) -> Key:
        if self._first:
            return self._first.popitem(last=False)[0]
        if self._ready and (not self._looks or self._others + 1 < LOOK_EVERY):
            self._others += 1
            return self._ready.popitem(last=False)[0]
        self._others = 0
        return self._looks.popitem(last=False)[0]

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
        while self._held or not len(self):
            self._signal.clear()
            await self._signal.wait()
        key = self._next()
        self._running[key] = key in self._urgent
        self._urgent.discard(key)
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
        if self._running.get(key):  # it is still waited for
            self._urgent.add(key)
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
        self._urgent.discard(key)

    def _unschedule(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _release(self, key: Key) -> None:
        self._running.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.wake(key)
