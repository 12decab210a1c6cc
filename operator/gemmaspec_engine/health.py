"""Watches whether the engine serves, to tell a boot that worked from one that merely has not died yet; and whether
its agent still feels its pulse, to tell a stop that was asked for from the end of an engine that hangs.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

__all__ = ["HealthWatch", "PulseWatch", "healthy", "status"]

_EVERY_SECONDS = 5.0
_DEADLINE_SECONDS = 3.0
_PULSE_EVERY_SECONDS = 10.0
_PULSE_DEADLINE_SECONDS = 10.0
_PULSE_LOST = 3
"""So many missed answers in a row are a hang. kubelet restarts after six at the same pace: when it does, these are
long there; and an engine that is merely busy while its pod is deleted has answered in between."""


def healthy(host: str, port: int, deadline: float = _DEADLINE_SECONDS) -> bool:
    """Does ``GET /health`` answer 200 within ``deadline`` seconds?  vLLM leaves this path open to everybody."""
    return status(host, port, "/health", deadline) == 200


def status(host: str, port: int, path: str, deadline: float) -> int | None:
    """HTTP status of a GET; None where nothing answers in time."""
    # A raw request: importing an HTTP client would cost more than all the rest of the launcher.
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        socket.create_connection((_reachable(host), port), deadline) as connection,
    ):
        connection.settimeout(deadline)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return int(connection.recv(64).split(b" ")[1])
    return None


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


class PulseWatch:
    """Asks the agent's ``/livez`` as kubelet does, in a thread, from its first good answer on."""

    def __init__(
        self, port: int, every: float = _PULSE_EVERY_SECONDS, deadline: float = _PULSE_DEADLINE_SECONDS
    ) -> None:
        self._port = port
        self._every = every
        self._deadline = deadline
        self._stop = threading.Event()
        self._missed = 0
        self._status: int | None = 200
        self._since = 0.0
        threading.Thread(target=self._watch, daemon=True, name="pulse").start()

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()

    def lost(self) -> str:
        """Since when and how the engine hangs, in words; empty while it lives."""
        if self._missed < _PULSE_LOST:
            return ""
        seconds = time.monotonic() - self._since
        if self._status is None:
            return f"the engine's process has not answered its liveness probe for {seconds:.0f} s"
        return f"requests wait, and for more than {seconds:.0f} s no token was computed"

    def _watch(self) -> None:
        seen = False
        while not self._stop.wait(self._every):
            asked = time.monotonic()
            found = status("127.0.0.1", self._port, "/livez", self._deadline)
            seen = seen or found == 200
            if found == 200 or not seen:
                self._missed = 0
                continue
            if self._missed == 0:
                self._since = asked
            self._status = found
            self._missed += 1
