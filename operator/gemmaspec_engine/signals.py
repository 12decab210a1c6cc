"""Signals as data: received ones are queued and can be waited for, so that no handler ever runs code of ours."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

__all__ = ["STOPPING", "Signals"]

STOPPING = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = (*STOPPING, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Collects the signals that a container's first process must answer.

    A handler that raises could strike inside a half-done write; one that takes a lock could deadlock.  Here the
    interpreter writes each signal's number to a pipe and the caller reads it when it is ready to.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*_PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        self.stop_asked = False
        """SIGTERM or SIGINT has come."""

    def fileno(self) -> int:
        """Readable when a signal waits; for selectors."""
        return self._read

    def drain(self) -> list[int]:
        """The signals that came since the last call, SIGCHLD included, in order."""
        try:
            numbers = list(os.read(self._read, 4096))
        except BlockingIOError:
            return []
        self.stop_asked = self.stop_asked or any(number in STOPPING for number in numbers)
        return numbers

    def sleep(self, seconds: float | None) -> bool:
        """Wait so long (None: for ever), reaping orphans; True as soon as a stop was asked for."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.stop_asked:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if select.select([self._read], [], [], left)[0] and signal.SIGCHLD in self.drain():
                _reap()
        return True


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
