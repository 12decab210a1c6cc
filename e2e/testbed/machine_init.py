"""Process 1 of a testbed machine: makes its namespaces look like a machine, then runs programs on demand.

Started as a file inside fresh mount, net, uts, ipc and pid namespaces; standard library only. Its one
argument is a JSON file: name, folder, groups ([controllers, folder] pairs), private (host folders that the
machine gets empty ones for), sysctls. When this process is killed the kernel ends everything in the machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CLONE_NEWCGROUP = 0x02000000  # linux/sched.h


def mount(*arguments: str) -> None:
    """mount(8)."""
    subprocess.run(["mount", *arguments], check=True)


def enter_groups(groups: list[tuple[str, str]]) -> None:
    """Join the machine's control groups and make them the root of what the machine sees.

    This process does it, not whoever forked it: version 2 wants the group itself free of processes.
    """
    for _, folder in groups:
        Path(folder, "cgroup.procs").write_text("0")
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWCGROUP):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP)")
    for controllers, folder in groups:
        if not controllers:
            leaf = Path(folder, "init")
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text("0")
            offered = Path(folder, "cgroup.controllers").read_text().split()
            Path(folder, "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in offered))


def mount_groups(groups: list[tuple[str, str]]) -> None:
    """Show the machine its own control groups in place of the host's."""
    if not groups[0][0]:
        mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
        return
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/sys/fs/cgroup")
    for controllers, _ in groups:
        point = f"/sys/fs/cgroup/{controllers.removeprefix('name=')}"
        Path(point).mkdir()
        options = f"none,{controllers}" if controllers.startswith("name=") else controllers
        mount("-t", "cgroup", "-o", options, "cgroup", point)


def make_machine(plan: dict[str, Any]) -> None:
    """Give the namespaces their own /proc, /sys, /run and private folders, a name, and a loopback."""
    folder = Path(plan["folder"])
    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "sysfs", "sysfs", "/sys")
    mount_groups(plan["groups"])
    for name, value in plan["sysctls"].items():
        # The kubelet sets these for the whole host. It is shown files that already say what it wants.
        shown = folder / "sysctl" / name
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(f"{value}\n")
        mount("--bind", str(shown), f"/proc/sys/{name}")
    for private in plan["private"]:
        own = folder / "private" / private.strip("/").replace("/", "-")
        own.mkdir(parents=True, exist_ok=True)
        mount("--bind", str(own), private)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    mount("--make-rshared", "/")  # volumes mounted for a pod have to appear in its containers
    socket.sethostname(plan["name"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


class Programs:
    """The machine's programs by name, and the exit statuses of those that ended."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.codes: dict[int, int] = {}
        signal.signal(signal.SIGCHLD, self._reap)

    def _reap(self, *_: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.pids.values():  # others are orphans that nobody asks about
                self.codes[pid] = os.waitstatus_to_exitcode(status)

    def start(self, name: str, argv: list[str], log: str, env: dict[str, str]) -> dict[str, Any]:
        """Start a program in a session of its own; its output is appended to `log`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions, setsid=True)
        self.codes.pop(pid, None)
        self.pids[name] = pid
        return {"pid": pid}

    def kill(self, name: str, how: int) -> dict[str, Any]:
        """Send a signal to a program, if it still runs."""
        pid = self.pids.get(name)
        if pid is not None and pid not in self.codes:
            os.kill(pid, how)
        return {}

    def list(self) -> dict[str, Any]:
        """Per program: its exit status, or null while it runs."""
        return {"programs": {name: self.codes.get(pid) for name, pid in self.pids.items()}}


def serve(door: socket.socket) -> None:
    """Answer one JSON order a connection, for ever."""
    programs = Programs()
    verbs: dict[str, Callable[..., dict[str, Any]]] = {
        "start": programs.start,
        "kill": programs.kill,
        "list": programs.list,
    }
    while True:
        visitor, _ = door.accept()
        with visitor:
            visitor.settimeout(5)
            try:
                order = json.loads(visitor.makefile("rb").readline())
                answer = verbs[order.pop("verb")](**order)
            except Exception as error:  # noqa: BLE001  process 1 must outlive any order
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                visitor.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                continue


def main(plan_file: str) -> None:
    """Become the machine, then say so by writing `init.pid` (the id that the host knows this process by)."""
    plan = json.loads(Path(plan_file).read_text())
    outside = str(Path("/proc/self").readlink())  # still the host's /proc
    folder = Path(plan["folder"])
    enter_groups(plan["groups"])
    make_machine(plan)
    os.chdir(folder)  # a socket's path may have 108 bytes at most, so it is bound by a short one
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    Path("door").unlink(missing_ok=True)
    door.bind("door")
    door.listen(16)
    Path("init.pid.new").write_text(outside)
    Path("init.pid.new").rename("init.pid")
    os.chdir("/")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve(door)


if __name__ == "__main__":
    main(sys.argv[1])
