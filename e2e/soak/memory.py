"""The operator's memory over time: looked at on the nodes, and whether it grows."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from subprocess import TimeoutExpired
from typing import Final

from testbed import Cluster
from testbed.machine import MachineError

EVERY: Final = 10.0  # seconds between two looks
WARM_SECONDS: Final = 120.0  # of each process: modules are imported, caches fill
BLOCK_SECONDS: Final = 60.0  # neighbouring looks are not independent: they are averaged
# Two-sided 95 % points of Student's t for so many degrees of freedom; between them the larger one holds.
_STUDENT: Final = {1: 12.71, 2: 4.30, 3: 3.18, 5: 2.57, 8: 2.31, 12: 2.18, 20: 2.09, 30: 2.04, 60: 2.00}
_LOOK: Final = (
    "for p in $(pgrep -f '[g]emmaspec.runtime'); do "
    'echo $(cut -d" " -f22 /proc/$p/stat) $(grep VmRSS /proc/$p/status) $(ls /proc/$p/fd | wc -l); done'
)


@dataclass(frozen=True)
class Look:
    """One look at one process. life: what tells it from its successors. seconds: monotonic. rss: MiB."""

    life: str
    seconds: float
    rss: float
    descriptors: int


@dataclass(frozen=True)
class Slope:
    """Growth in MiB an hour with its 95 % interval, from so many block means of so many processes."""

    per_hour: float
    low: float
    high: float
    blocks: int
    lives: int


def slope(looks: Iterable[Look]) -> Slope | None:
    """Least squares over block means, one line's slope for all processes, each with a height of its own.

    None where there is too little to tell anything: no process with two blocks after it was warm.
    """
    groups = [blocks for blocks in map(_blocks, _by_life(looks)) if len(blocks) > 1]
    points = [(x - _mean(group, 0), y - _mean(group, 1)) for group in groups for x, y in group]
    spread = sum(x * x for x, _ in points)
    free = len(points) - len(groups) - 1
    if free < 1:
        return None
    found = sum(x * y for x, y in points) / spread
    rest = sum((y - found * x) ** 2 for x, y in points)
    half = _student(free) * math.sqrt(rest / free / spread)
    return Slope(3600 * found, 3600 * (found - half), 3600 * (found + half), len(points), len(groups))


def _mean(points: Sequence[tuple[float, float]], at: int) -> float:
    return statistics.fmean(point[at] for point in points)


def _student(free: int) -> float:
    return next(value for least, value in sorted(_STUDENT.items(), reverse=True) if least <= free)


def _by_life(looks: Iterable[Look]) -> list[list[Look]]:
    lives: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        lives[look.life].append(look)
    return list(lives.values())


def _blocks(looks: Sequence[Look]) -> list[tuple[float, float]]:
    begun = looks[0].seconds + WARM_SECONDS
    blocks: dict[int, list[Look]] = defaultdict(list)
    for look in looks:
        if look.seconds >= begun:
            blocks[int((look.seconds - begun) / BLOCK_SECONDS)].append(look)
    return [
        (statistics.fmean(e.seconds for e in block), statistics.fmean(e.rss for e in block))
        for _, block in sorted(blocks.items())
    ]


class Watcher:
    """Looks at the operator every few seconds while its context lasts. also: is called at every look."""

    def __init__(self, cluster: Cluster, also: Callable[[], None]) -> None:
        self.looks: list[Look] = []
        self._cluster = cluster
        self._also = also
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stopping.wait(EVERY):
            for node in self._cluster.nodes():
                with suppress(MachineError, TimeoutExpired):
                    said = self._cluster.run_on_node(node.name, ["sh", "-c", _LOOK], timeout=20)
                    self.looks += _read(node.name, said, time.monotonic())
            self._also()


def _read(node: str, said: str, now: float) -> list[Look]:
    """One line a process: start time, `VmRSS: NUMBER kB`, open files. One that ended meanwhile has fewer words."""
    rows = [line.split() for line in said.splitlines()]
    return [Look(f"{node}/{row[0]}", now, int(row[2]) / 1024, int(row[4])) for row in rows if len(row) == 5]
