"""What a long step tells the person who waits for it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One line on standard error, at once."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str, every: float = 30.0) -> Iterator[None]:
    """Say that a long step begins, every so many seconds that it still goes on, and how many seconds it took."""
    say(f"{text} ...")
    begun, over = time.monotonic(), threading.Event()

    def beat() -> None:
        while not over.wait(every):
            say(f"{text}: {time.monotonic() - begun:.0f} s so far")

    threading.Thread(target=beat, daemon=True, name="progress").start()
    try:
        yield
    finally:
        over.set()
    say(f"{text}: done in {time.monotonic() - begun:.1f} s")


def clear_line(text: str) -> str:
    """The last line of some program's output that says something, for an error message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
