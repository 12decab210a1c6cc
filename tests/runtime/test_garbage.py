"""Garbage in cycles does not wait until there is as much of it as there are modules."""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gemmaspec.runtime import garbage


class Failed:
    """As a request that failed: its trace refers to it."""

    def __init__(self) -> None:
        self.cause = self


async def test_what_refers_to_itself_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY_SECONDS", 0.01)
    old = [Failed() for _ in range(100)]
    gc.collect()  # they are old when they become garbage: nobody looks at old ones soon
    del old
    task = asyncio.create_task(garbage.collect())
    async with asyncio.timeout(60):
        while any(isinstance(one, Failed) for one in gc.get_objects()):
            await asyncio.sleep(0.01)
    task.cancel()


async def test_what_was_freed_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY_SECONDS", 0.01)
    held = [bytearray(b"x" * 4000) for _ in range(20_000)]
    kept = held[::100]  # holes below them are not given back by free alone
    full = resident()
    del held
    task = asyncio.create_task(garbage.collect())
    async with asyncio.timeout(60):
        while resident() > full - 40:
            await asyncio.sleep(0.01)
    task.cancel()
    assert len(kept) == 200


def resident() -> float:
    """Resident memory of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_what_modules_hold_is_left_out() -> None:
    """In a process of its own: nothing here would be collected any more."""
    script = (
        "import gc, gemmaspec.runtime.handlers\n"
        "from gemmaspec.runtime import garbage\n"
        "garbage.leave_out_modules()\n"
        "print(gc.get_freeze_count(), len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    frozen, left = map(int, done.stdout.split())
    assert frozen > 30_000 > 100 * left
