"""What is written down about a cluster, so that any process finds it again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from testbed.cache import cache_root
from testbed.machine import HIDDEN
from testbed.node import NodeSpec

STARTING, UP = "starting", "up"


def home_of(name: str) -> Path:
    """The folder of a cluster. Raises ValueError for a name or a place that cannot work."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise ValueError(f"cluster name {name!r}: use up to 32 of a-z, 0-9 and -")
    root = cache_root().resolve()
    if any(root.is_relative_to(hidden) for hidden in HIDDEN):
        raise ValueError(f"the cache folder {root} cannot lie below {', '.join(HIDDEN)}: nodes have their own there")
    return root / "clusters" / name


@dataclass(frozen=True)
class State:
    """The written facts.

    phase: STARTING until everything runs, then UP. port: of the API server, on this machine. engine: the
    environment that the engine's runtime handler mounts; None leaves the handler out.
    """

    phase: str
    nodes: Sequence[NodeSpec]
    port: int = 0
    engine: str | None = None
    snapshotter: str = "overlayfs"
    images: dict[str, str] = field(default_factory=dict)

    def moved_to(self, phase: str, port: int) -> State:
        """The same cluster in another phase."""
        return replace(self, phase=phase, port=port)

    def write(self, home: Path) -> None:
        """Write to the cluster's folder, whole or not at all."""
        unfinished = home / f"state.json.{os.getpid()}"
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        unfinished.rename(home / "state.json")

    @classmethod
    def read(cls, home: Path) -> State | None:
        """The written state; None when there is no cluster, or none that can be read."""
        try:
            stored = json.loads((home / "state.json").read_text())
            nodes = [NodeSpec.from_json(one) for one in stored.pop("nodes")]
            return cls(nodes=nodes, **stored)
        except (OSError, ValueError, TypeError, KeyError):
            return None
