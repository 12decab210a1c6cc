"""Waiting for a condition with an end: no sleep without a reason to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(
    probe: Callable[[], Found | None],
    what: str,
    seconds: float,
    every: float = 0.05,
    fail: Callable[[], str] = str,
) -> Found:
    """Call `probe` until it answers something true, and return that.

    Raises TimeoutError after `seconds`, naming `what` and adding what `fail()` knows about the cause.
    An exception in `probe` ends the wait: a probe that may fail for a while catches its own.
    """
    end = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() >= end:
            raise TimeoutError(f"{what}: not within {seconds:g} s. {fail()}".rstrip())
        time.sleep(every)
