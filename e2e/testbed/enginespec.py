"""How the engine's heavy files come into its containers.

The image of the engine is a skeleton. A containerd runtime handler of its own starts every container from a
base specification that also mounts the host's libraries, its Python and the engine's environment, all
read-only: the way in which the NVIDIA runtime class brings the driver's files into containers.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.install import system_program

INSIDE = "/opt/vllm"


def python_of(environment: Path) -> Path:
    """The Python installation that a virtual environment stands on, from its pyvenv.cfg."""
    for line in (environment / "pyvenv.cfg").read_text().splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "home":
            return Path(value.strip()).parent
    raise ValueError(f"{environment}/pyvenv.cfg names no home")


def engine_mounts(environment: Path) -> list[tuple[str, str]]:
    """(path on the host, path in the container) of everything the engine needs."""
    mounts = [
        ("/usr", "/usr"),
        ("/etc/alternatives", "/etc/alternatives"),
        ("/etc/ld.so.cache", "/etc/ld.so.cache"),
    ]
    python = python_of(environment)
    if not python.is_relative_to("/usr"):
        mounts.append((str(python), str(python)))
    mounts.append((str(environment), INSIDE))
    return [(source, target) for source, target in mounts if Path(source).exists()]


def with_mounts(spec: Mapping[str, Any], mounts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """An OCI runtime specification with more read-only mounts; the given one is not changed."""
    more = [
        {"type": "bind", "source": source, "destination": target, "options": ["rbind", "ro"]}
        for source, target in mounts
    ]
    return {**spec, "mounts": [*spec.get("mounts", []), *more]}


def engine_spec(environment: Path) -> str:
    """The base specification, JSON: containerd's own default for this machine, plus the engine's mounts."""
    ctr = system_program("ctr") or "ctr"
    done = subprocess.run([ctr, "oci", "spec"], capture_output=True, text=True, timeout=30, check=True)
    default = json.loads(done.stdout)
    default["process"].pop("rlimits", None)  # ctr's 1024 open files; other containers inherit containerd's
    return json.dumps(with_mounts(default, engine_mounts(environment)))
