"""Runs vLLM as a child of the container's first process, and keeps the last of what it said.

The child's output is copied byte by byte as it comes.  Signals are passed on to it; processes that lost their
parent are reaped; when it ends, whatever it left behind is killed and reaped too, so that its memory is free
before the container is reported dead.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gemmaspec_engine.signals import STOPPING, Signals

__all__ = ["End", "Tail", "run"]

_LINGER_SECONDS = 5.0
"""How long processes may outlive the API server before they are killed: the engine core writes its traceback,
frees the device and goes within a second or two, unless it hangs."""


@dataclass(frozen=True)
class End:
    """How the child ended: its exit code, or the number of the signal that killed it (then the code is 0)."""

    code: int
    signal: int

    @property
    def exit_code(self) -> int:
        """As a shell would report it."""
        return 128 + self.signal if self.signal else self.code


class Tail:
    """The last bytes of a stream of chunks, bounded."""

    def __init__(self, limit: int = 256 * 1024) -> None:
        # A failed start of vLLM prints up to about 60 KiB of tracebacks from three processes.
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Remember a chunk, forget the oldest ones beyond the limit."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        while self._size - len(self._chunks[0]) >= self._limit:
            self._size -= len(self._chunks.popleft())

    def lines(self) -> list[str]:
        """What is remembered, as text lines."""
        return b"".join(self._chunks)[-self._limit :].decode("utf-8", "replace").split("\n")


class _Pump:
    """Copies the child's two streams to ours and remembers them, each in a tail of its own so that half a line of
    one never lands in the middle of the other's."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.selector = selectors.DefaultSelector()
        self.tails = {1: Tail(), 2: Tail()}
        self.open = 0
        for stream, target in ((child.stdout, 1), (child.stderr, 2)):
            assert stream is not None
            self.selector.register(stream, selectors.EVENT_READ, target)
            self.open += 1

    def copy(self, key: selectors.SelectorKey) -> None:
        chunk = os.read(key.fd, 1 << 16)
        if not chunk:
            self.selector.unregister(key.fileobj)
            self.open -= 1
            return
        self.tails[key.data].feed(chunk)
        with contextlib.suppress(OSError):  # whoever reads our log may be gone; the engine goes on
            _write_all(key.data, chunk)


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def run(
    command: Sequence[str],
    signals: Signals,
    on_tick: Callable[[], None] = lambda: None,
    env: Mapping[str, str] | None = None,
    hangs: Callable[[], bool] = lambda: False,
    parted: Callable[[], bool] = lambda: True,
) -> tuple[End, list[str]]:
    """Run ``command`` to its end. Returns how it ended, and the last lines it printed (stdout's, then stderr's).

    ``on_tick`` is called at least once a second and must be quick.  A child that ``hangs`` when a stop is asked for
    is killed: it would not hear, and its clients wait for it.  Any other hears of a stop once it has ``parted`` from
    its clients, or at the second asking.  Raises OSError when it cannot be started.
    """
    _adopt_orphans()
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, start_new_session=True)
    pump = _Pump(child)
    pump.selector.register(signals, selectors.EVENT_READ, None)
    stop = _Stop(child, hangs, parted)
    end: End | None = None
    deadline = float("inf")
    while end is None or (pump.open and time.monotonic() < deadline):
        for key, _ in pump.selector.select(timeout=0.2 if stop.waiting else 1.0):
            if key.data is not None:
                pump.copy(key)
        stop.pass_on(signals.drain() if end is None else [])
        if end is None and (end := _reaped(child)) is not None:
            deadline = time.monotonic() + _LINGER_SECONDS
        on_tick()
    _kill_rest(child.pid)
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
    return end, pump.tails[1].lines() + pump.tails[2].lines()


class _Stop:
    """Passes signals on; the first that asks for a stop only when the child may hear of it."""

    def __init__(self, child: subprocess.Popen[bytes], hangs: Callable[[], bool], parted: Callable[[], bool]) -> None:
        self._child, self._hangs, self._parted = child, hangs, parted
        self._asked = 0
        self._told = False

    @property
    def waiting(self) -> bool:
        """Whether a stop was asked for that the child does not know of yet."""
        return bool(self._asked) and not self._told

    def pass_on(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in STOPPING and not self._asked:
                self._asked = number
            elif number != signal.SIGCHLD:
                self._told = self._told or number in STOPPING
                self._send(number)
        if self.waiting:
            hung = self._hangs()
            if hung or self._parted():
                self._told = True
                self._send(signal.SIGKILL if hung else self._asked)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child.pid, number)


def _reaped(child: subprocess.Popen[bytes]) -> End | None:
    """Reap every dead process; the end of ``child`` when it is among them."""
    end = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child.pid:
                code = os.waitstatus_to_exitcode(status)
                child.returncode = code  # it was reaped here: Popen must not wait for it again
                end = End(max(code, 0), max(-code, 0))
    return end


def _kill_rest(session: int) -> None:
    """Kill and reap what the child left behind: all processes of the container when this is its first process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(session, signal.SIGKILL)
    deadline = time.monotonic() + _LINGER_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)


def _adopt_orphans() -> None:
    """Become the parent of orphans also where this is not the container's first process (shared PID namespace)."""
    if os.getpid() == 1:
        return
    with contextlib.suppress(OSError, ImportError, AttributeError):
        import ctypes

        subreaper = 36  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
        ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0)
