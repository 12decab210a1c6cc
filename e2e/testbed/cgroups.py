"""Control groups of a node: one below the caller's own on version 1, one below the root on version 2."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from testbed.deadline import wait_for

UNIFIED = ""  # the name of version 2's single hierarchy
_WANTED = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")
_HOST_LEAF = "testbed-host"


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy and a folder in it.

    controllers: as in /proc/self/cgroup ("cpu,cpuacct", "name=systemd"), or UNIFIED for version 2.
    """

    controllers: str
    folder: Path

    @property
    def unified(self) -> bool:
        """Whether this is version 2's hierarchy."""
        return self.controllers == UNIFIED


def own_hierarchies(memberships: str, mounts: str) -> list[Hierarchy]:
    """The caller's folders, from the texts of /proc/self/cgroup and /proc/self/mountinfo.

    All version 1 hierarchies when one of them carries a controller; else version 2's mount point, which is
    not the caller's own folder: there a group with processes of its own cannot have groups with controllers
    below it, so a node has to sit next to the caller.
    """
    versions = _version_1(memberships, mounts)
    if any(not h.controllers.startswith("name=") for h in versions):
        return versions
    for kind, _, point, _ in _cgroup_mounts(mounts):
        if kind == "cgroup2":
            return [Hierarchy(UNIFIED, point)]
    raise RuntimeError("no cgroup hierarchy is mounted on this machine")


def _version_1(memberships: str, mounts: str) -> list[Hierarchy]:
    points = {options: (root, point) for kind, root, point, options in _cgroup_mounts(mounts) if kind == "cgroup"}
    found = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        wanted = frozenset(controllers.split(","))
        for options, (root, point) in points.items():
            if controllers and wanted <= options:
                inside = os.path.relpath(path, root) if path.startswith(root) else "."
                found.append(Hierarchy(controllers, (point / inside).resolve()))
                break
    return found


def _cgroup_mounts(mounts: str) -> Iterable[tuple[str, str, Path, frozenset[str]]]:
    """(file system type, root inside the hierarchy, mount point, options) of each cgroup mount."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield kind, fields[3], Path(fields[4]), frozenset(options.split(","))


def current() -> list[Hierarchy]:
    """The folders below which this process may make groups."""
    return own_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())


def below(parents: Iterable[Hierarchy], name: str) -> list[Hierarchy]:
    """The folders of a group called `name`, not made yet."""
    return [Hierarchy(parent.controllers, parent.folder / name) for parent in parents]


def create(group: Iterable[Hierarchy]) -> None:
    """Make the folders, ready to take processes; what is there already is kept."""
    for hierarchy in group:
        if hierarchy.unified:
            _delegate(hierarchy.folder.parent)
        hierarchy.folder.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.controllers.split(","):  # empty at birth, and then it takes nobody
            for name in ("cpuset.cpus", "cpuset.mems"):
                (hierarchy.folder / name).write_text((hierarchy.folder.parent / name).read_text())


def _delegate(parent: Path) -> None:
    """Let groups below `parent` have controllers (version 2)."""
    offered = (parent / "cgroup.controllers").read_text().split()
    enable = " ".join(f"+{name}" for name in _WANTED if name in offered)
    control = parent / "cgroup.subtree_control"
    try:
        control.write_text(enable)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # Inside a container the visible root is a normal group and holds our processes: move them aside.
        aside = parent / _HOST_LEAF
        aside.mkdir(exist_ok=True)
        for process in (parent / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # ended meanwhile, or a kernel thread
                (aside / "cgroup.procs").write_text(process)
        control.write_text(enable)


def entrances(group: Iterable[Hierarchy]) -> list[Path]:
    """The files that a process writes its id to in order to join (version 2: the leaf that the node's own
    programs live in, since the group itself must stay free of processes)."""
    return [h.folder / "init" / "cgroup.procs" if h.unified else h.folder / "cgroup.procs" for h in group]


def remove(group: Iterable[Hierarchy], seconds: float = 10.0) -> None:
    """Remove the folders and all below. Raises TimeoutError while a process is still in one of them."""

    def gone(folder: Path) -> bool:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):  # busy until the last process in it is reaped
                Path(path).rmdir()
        return not folder.exists()

    for hierarchy in group:
        wait_for(lambda folder=hierarchy.folder: gone(folder), f"removal of {hierarchy.folder}", seconds)  # type: ignore[misc]
