"""Garbage that refers to itself: requests that failed (their traces do), connections that were cut off.

Python looks for it once what is new is a quarter of all objects that there are. With all modules' objects among these
that takes an hour of faults, and memory that grows meanwhile looks like a leak (docs/faults.md).

And what was freed is given back: the lists of a start, and bursts of events, leave holes that glibc keeps.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from typing import Final

# Milliseconds each time, since what the modules hold is left out: half a hundred thousand objects that are no garbage.
EVERY_SECONDS: Final = 60.0


def leave_out_modules() -> None:
    """What is there now is never looked through again."""
    gc.collect()
    gc.freeze()


async def collect() -> None:
    """Collect now and then, for ever."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        gc.collect()
        if trim is not None:
            trim(0)
