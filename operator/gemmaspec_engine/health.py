"""Watches whether the engine serves, to tell a boot that worked from one that merely has not died yet."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

__all__ = ["HealthWatch", "healthy"]

_EVERY_SECONDS = 5.0
_DEADLINE_SECONDS = 3.0


def healthy(host: str, port: int, deadline: float = _DEADLINE_SECONDS) -> bool:
    """Does ``GET /health`` answer 200 within ``deadline`` seconds?  vLLM leaves this path open to everybody."""
    # A raw request: importing an HTTP client would cost more than all the rest of the launcher.
    with (
        contextlib.suppress(OSError),
        socket.create_connection((_reachable(host), port), deadline) as connection,
    ):
        connection.settimeout(deadline)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).split(b" ")[1:2] == [b"200"]
    return False


def _reachable(host: str) -> str:
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  read, not bound


class HealthWatch:
    """Asks every few seconds, in a thread, until the engine was healthy for ``needed`` seconds without a gap."""

    def __init__(self, host: str, port: int, needed: float) -> None:
        self._target = (host, port)
        self._needed = needed
        self._stop = threading.Event()
        self.proved = False
        threading.Thread(target=self._watch, daemon=True, name="health").start()

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()

    def _watch(self) -> None:
        since: float | None = None
        while not self._stop.wait(min(_EVERY_SECONDS, max(0.1, self._needed / 4))):
            now = time.monotonic()
            if not healthy(*self._target):
                since = None
            elif since is None:
                since = now
            if since is not None and now - since >= self._needed:
                self.proved = True
                return
