"""A machine of the testbed: Linux namespaces around a process 1, with its own network, mounts and groups."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed import cgroups
from testbed.cgroups import Hierarchy
from testbed.deadline import wait_for

_INIT = Path(__file__).with_name("machine_init.py")
# Folders that programs on a node write to under fixed paths. Each node gets an empty one of its own.
PRIVATE_FOLDERS = ("/var/lib", "/var/log")
HIDDEN = (*PRIVATE_FOLDERS, "/run")
_SYSCTLS = {"vm/overcommit_memory": 1, "kernel/panic": 10, "kernel/panic_on_oops": 1}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS = 20.0


def detached(argv: Sequence[str], log: Path, env: Mapping[str, str]) -> int:
    """Start a program that goes on without this one, in a session of its own; returns its process id."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp(argv[0], list(argv), dict(env), file_actions=actions, setsid=True)


def _way_out(words: str) -> str:
    """For what this host has too little of, and other software on it may use up: a fresh one has enough."""
    if "inotify" in words and "too many open files" in words:
        return "\nStop other clusters on this host, or let it watch more: sysctl fs.inotify.max_user_instances=512"
    return ""


class MachineError(RuntimeError):
    """A machine, or a program on it, did not do what was asked."""


class Machine:
    """A machine by its folder, whether it runs or not; any process of the same user may hold one.

    name: its host name. group: the name of its control groups, unique on the host.
    """

    def __init__(self, folder: Path, name: str, group: str) -> None:
        self.folder = folder
        self.name = name
        self.group = group
        self._outer: int | None = None

    @property
    def logs(self) -> Path:
        """The folder of the programs' logs."""
        return self.folder / "logs"

    @property
    def pid(self) -> int | None:
        """Process 1 as the host numbers it; None when the machine is not running."""
        try:
            pid = int((self.folder / "init.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if self._signature() in command else None

    def start(self) -> None:
        """Start the machine, without programs. Raises MachineError when it does not come up."""
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.folder / "init.pid").unlink(missing_ok=True)
        group = cgroups.below(cgroups.current(), self.group)
        self._groups_file.write_text(json.dumps([[h.controllers, str(h.folder)] for h in group]))
        cgroups.create(group)
        plan = {
            "name": self.name,
            "folder": str(self.folder),
            "groups": self._groups(),
            "private": PRIVATE_FOLDERS,
            "sysctls": _SYSCTLS,
        }
        self._plan_file.write_text(json.dumps(plan))
        kinds = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL"]
        log = self.logs / "init.log"
        command = ["unshare", *kinds, "--", sys.executable, "-I", "-S", str(_INIT), str(self._plan_file)]
        self._outer = detached(command, log, {"PATH": _PATH})

        def up() -> bool:
            if self._outer_ended():
                raise MachineError(f"{self.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            return self.pid is not None

        wait_for(up, f"start of machine {self.name}", START_SECONDS, every=0.02)

    def stop(self) -> None:
        """Pull the plug: everything on the machine is killed, mounts and network vanish, files stay."""
        for pid in self._find():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(self._ended, f"end of machine {self.name}", 20, every=0.02)
        (self.folder / "init.pid").unlink(missing_ok=True)
        if self._groups_file.exists():
            cgroups.remove([Hierarchy(c, Path(folder)) for c, folder in self._groups()])

    def remove(self) -> None:
        """Stop the machine and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, name: str, argv: Sequence[str], env: dict[str, str] | None = None) -> None:
        """Start a program that runs as long as the machine does; its output goes to `logs/<name>.log`."""
        environment = {"PATH": _PATH, "HOME": "/root", **(env or {})}
        log = str(self.logs / f"{name}.log")
        self._order(verb="start", name=name, argv=list(argv), log=log, env=environment)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Signal a program started by `program` and wait until it has ended."""
        self._order(verb="kill", name=name, how=int(how))
        wait_for(lambda: self.programs().get(name, 0) is not None, f"end of {name} on {self.name}", 20)

    def programs(self) -> dict[str, int | None]:
        """Per program its exit status, or None while it runs."""
        found: dict[str, int | None] = self._order(verb="list")["programs"]
        return found

    def check(self) -> None:
        """Raise MachineError, with its last words, when a program has ended."""
        for name, code in self.programs().items():
            if code is not None:
                last = self.tail(name)
                raise MachineError(f"{name} on {self.name} ended with status {code}:\n{last}{_way_out(last)}")

    def tail(self, name: str, lines: int = 5) -> str:
        """The last lines that a program wrote."""
        log = self.logs / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command of the host that runs `argv` on the machine, in its namespaces and control groups."""
        if (pid := self.pid) is None:
            raise MachineError(f"machine {self.name} is not running")
        files = cgroups.entrances(Hierarchy(c, Path(folder)) for c, folder in self._groups())
        joins = "".join(f"echo $$ > {shlex.quote(str(path))}; " for path in files)
        enter = f"exec nsenter -t {pid} -m -n -p -u -i -C -- "
        return ["sh", "-c", joins + enter + shlex.join(argv)]

    def run(self, argv: Sequence[str], timeout: float = 60.0, stdin: str | None = None) -> str:
        """Run a command on the machine; its standard output. Raises MachineError when it fails."""
        done = subprocess.run(
            self.command(argv),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise MachineError(f"{shlex.join(argv)} on {self.name}: status {done.returncode}: {said}")
        return done.stdout

    @property
    def _plan_file(self) -> Path:
        return self.folder / "plan.json"

    @property
    def _groups_file(self) -> Path:
        return self.folder / "groups.json"

    def _groups(self) -> list[tuple[str, str]]:
        return [(controllers, folder) for controllers, folder in json.loads(self._groups_file.read_text())]

    def _signature(self) -> bytes:
        return f"/{_INIT.name}\0{self._plan_file}\0".encode()

    def _find(self) -> list[int]:
        """Every process of the host that carries the machine's command line: process 1 and who forked it.

        Looked up by name and not by a number in a file, so that a machine is found however its maker died.
        """
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if self._signature() in Path(entry.path, "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def _ended(self) -> bool:
        self._outer_ended()
        return not self._find()

    def _outer_ended(self) -> bool:
        """Whether the process that made the namespaces has ended; ours are collected, or they stay zombies."""
        if self._outer is None:
            return False
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(self._outer, os.WNOHANG)[0] != 0
        return True

    def _order(self, **order: Any) -> dict[str, Any]:
        door = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(30)
                line.connect(f"/proc/self/fd/{door}/door")  # the folder's own path may be too long for a socket
                line.sendall(json.dumps(order).encode() + b"\n")
                answer: dict[str, Any] = json.loads(line.makefile("rb").readline())
        except OSError as error:
            raise MachineError(f"machine {self.name} does not answer: {error}") from error
        finally:
            os.close(door)
        if "error" in answer:
            raise MachineError(f"{order['verb']} {order.get('name', '')} on {self.name}: {answer['error']}")
        return answer
