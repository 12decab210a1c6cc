"""What the testbed needs from the machine: Debian packages, Go programs. Only what is missing is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from testbed.golang import ALL_MODULES, go_program, programs
from testbed.progress import clear_line, say, step

# What shows that a package is there, whoever installed it -> Debian's and Ubuntu's name of the package.
PACKAGES: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp|/opt/cni/bin/ptp": "containernetworking-plugins",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_APT_SECONDS = 900.0


class NotInstallableError(RuntimeError):
    """Something is missing that this program may not or cannot install; the message says what to do."""


def system_program(name: str) -> str | None:
    """The path of a program, also of those that only an administrator has in PATH."""
    return shutil.which(name, path=_SYSTEM_PATH) or shutil.which(name)


def present(mark: str) -> bool:
    """Whether a mark of PACKAGES is on this machine: a program's name, or paths of which one has to exist."""
    if mark.startswith("/"):
        return any(Path(path).exists() for path in mark.split("|"))
    return system_program(mark) is not None


def missing(marks: Iterable[str] = PACKAGES) -> list[str]:
    """The packages whose mark is absent, each once, in order."""
    return list(dict.fromkeys(PACKAGES[mark] for mark in marks if not present(mark)))


def install_packages() -> None:
    """Install the missing Debian packages. Raises NotInstallableError when that is not possible here."""
    wanted = missing()
    if not wanted:
        return
    names = " ".join(wanted)
    if shutil.which("apt-get") is None:
        raise NotInstallableError(f"this machine has no apt-get: install what corresponds to: {names}")
    if os.geteuid() != 0:
        raise NotInstallableError(f"not root: run `sudo apt-get install --no-install-recommends {names}`")
    with step("apt-get update"):
        _apt("update", "-q")
    with step(f"installing with apt: {names}"):
        said = _apt("install", "-y", "--no-install-recommends", *wanted)
    for line in said.splitlines():
        if line.startswith(("Need to get", "After this operation")):
            say(line)
    if still := missing():
        raise NotInstallableError(f"apt installed, but these still do not show: {' '.join(still)}")


def _apt(*arguments: str) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_APT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise NotInstallableError(f"apt-get {' '.join(arguments)}: {clear_line(done.stderr)}")
    return done.stdout


def require_root() -> None:
    """Raise NotInstallableError unless this process may make namespaces and mounts."""
    if os.geteuid() != 0:
        raise NotInstallableError("a whole cluster needs root: it makes namespaces, mounts and control groups")


def install() -> None:
    """Everything a whole cluster needs, engine and images apart. Does nothing, quickly, when all is there."""
    install_packages()
    go_program()
    for module in ALL_MODULES:
        programs(module)
