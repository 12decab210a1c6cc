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


def give_back() -> None:
    """Memory that was freed, to the machine; where the C library has no way to, nothing happens."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's alone
        trim(0)


async def collect() -> None:
    """Collect now and then, for ever."""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        gc.collect()
        give_back()
