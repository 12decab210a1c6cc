"""The side of the supervisor that a test process holds."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from testbed.deadline import wait_for

_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class ProgramError(RuntimeError):
    """A program did not start, or ended by itself."""


class Supervised:
    """Programs that end when this process does, whatever ends it. `folder` is removed with them.

    Logs go to `<logs>/<name>.log`, one file a program, kept until the folder goes. `pids`: process ids by name,
    also of programs that have ended.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.logs = logs
        self.pids: dict[str, int] = {}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SUPERVISOR), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> int:
        """Start a program; returns its process id. Raises ProgramError when it cannot be started."""
        answer = self._order(verb="start", name=name, argv=argv, log=str(self.log(name)), env=env)
        self.pids[name] = int(answer["pid"])
        return self.pids[name]

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Stop a program and wait until it has ended (20 seconds after a mild signal it is killed)."""
        self._order(verb="stop", name=name, how=int(how))

    def ended(self) -> dict[str, int]:
        """Exit statuses of the programs that ended by themselves."""
        found: dict[str, int] = self._order(verb="ended")["ended"]
        return found

    def log(self, name: str) -> Path:
        """The log file of a program."""
        return self.logs / f"{name}.log"

    def tail(self, name: str, lines: int = 5) -> str:
        """The last lines that a program wrote."""
        log = self.log(name)
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def check(self) -> None:
        """Raise ProgramError, with its last words, when a program has ended by itself."""
        for name, code in self.ended().items():
            raise ProgramError(f"{name} ended with status {code}:\n{self.tail(name)}")

    def close(self) -> None:
        """End every program and remove the folder; a second call does nothing."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it was killed; so were its programs
                self._process.stdin.close()
        wait_for(lambda: self._process.poll() is not None, "the supervisor's end", seconds=30)
        if self._process.stdout:
            self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _order(self, **order: Any) -> dict[str, Any]:
        with self._lock:
            if self._process.stdin is None or self._process.stdout is None or self._process.stdin.closed:
                raise ProgramError("the supervisor is closed")
            try:
                print(json.dumps(order), file=self._process.stdin, flush=True)
            except BrokenPipeError as error:
                raise ProgramError("the supervisor has died") from error
            line = self._process.stdout.readline()
        if not line:
            raise ProgramError("the supervisor has died")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ProgramError(answer["error"])
        return answer
