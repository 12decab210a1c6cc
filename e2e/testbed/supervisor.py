"""Runs programs for a process that may die at any moment, and leaves nothing when it does.

Started as a file, standard library only. One JSON order a line on standard input, one JSON answer a line on
standard output; the end of the input, however it came about, means: kill every program, remove the folders
named on the command line, end. The kernel kills the programs when this process itself is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Programs:
    """The running programs by name. Each leads a process group of its own."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: list[str], log: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        """Start a program; its output is appended to the file `log`."""
        with Path(log).open("ab") as out:
            self.running[name] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        return {"pid": self.running[name].pid}

    def stop(self, name: str, how: int = signal.SIGKILL, seconds: float = 20.0) -> dict[str, Any]:
        """Send a signal and wait for the end; SIGKILL when `seconds` are over."""
        program = self.running.pop(name, None)
        if program is None:
            return {"code": None}
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, how)
        try:
            code = program.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            code = program.wait()
        return {"code": code}

    def ended(self) -> dict[str, Any]:
        """Exit statuses of the programs that ended without being asked."""
        codes = {name: program.poll() for name, program in self.running.items()}
        return {"ended": {name: code for name, code in codes.items() if code is not None}}

    def stop_all(self) -> None:
        """Kill everything at once, then wait for each."""
        for program in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        for program in self.running.values():
            program.wait()
        self.running.clear()


def main(folders: list[str]) -> None:
    """Obey orders until the input ends."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    programs = Programs()
    verbs: dict[str, Callable[..., dict[str, Any]]] = {
        "start": programs.start,
        "stop": programs.stop,
        "ended": programs.ended,
    }
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = verbs[order.pop("verb")](**order)
        except Exception as error:  # noqa: BLE001  whatever it was, the owner gets to read it
            answer = {"error": str(error)}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:
            break
    programs.stop_all()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
