"""Is enough memory free for the engine?  Sums in bytes; the reading of ``/proc`` and of the cgroup is at the end.

On a GB10 the GPU uses the host's memory, so ``/proc/meminfo`` speaks for both.  Total is ``MemTotal`` (about
121.7 GiB on a 128 GB box).  vLLM refuses to start unless *free* ≥ utilization × total.  From 0.32 on it reads
``MemAvailable`` on integrated GPUs; before, it read what ``cudaMemGetInfo`` says, which leaves the page cache out
and so is close to ``MemFree``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from gemmaspec_engine.pin import MemoryPin
from gemmaspec_engine.versions import within

__all__ = ["Figures", "Verdict", "figure_for", "gib", "oom_kills", "parse_meminfo", "read", "weigh"]

GIB = 1 << 30


@dataclass(frozen=True)
class Figures:
    """The host's memory in bytes (``MemTotal``, ``MemAvailable``, ``MemFree``), and what the container's own
    cgroup still allows and allows in all (None: unlimited or unknown)."""

    total: int
    available: int
    free: int
    cgroup_left: int | None = None
    cgroup_limit: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the engine fits now, and the numbers behind the answer (bytes)."""

    fits: bool
    needed: int
    found: int
    utilization: float | None
    """Largest utilization, in steps of 0.01, that would fit now; None where utilization decides nothing."""
    text: str
    """One line for people: what is needed, what is there, and why."""


def gib(size: float) -> str:
    """Bytes as GiB with one decimal."""
    return f"{size / GIB:.1f} GiB"


def parse_meminfo(text: str) -> Figures:
    """Read the text of ``/proc/meminfo`` (its kB are KiB). Raises ValueError when a figure is missing."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts and parts[0].isdigit():
            found[name] = int(parts[0]) * 1024
    try:
        return Figures(found["MemTotal"], found["MemAvailable"], found["MemFree"])
    except KeyError as missing:
        raise ValueError(f"/proc/meminfo has no {missing.args[0]}") from None


def figure_for(vllm: str | None) -> str:
    """Which figure the given vLLM version takes as free memory on an integrated GPU."""
    return "MemFree" if within(vllm, "0", "0.32.0") else "MemAvailable"


def weigh(pin: MemoryPin, figures: Figures, vllm: str | None) -> Verdict:
    """Does what the pin asks for fit into what is free now?"""
    if pin.device == "cuda" and pin.utilization is not None:
        return _weigh_unified(pin, pin.utilization, figures, figure_for(vllm))
    if pin.device == "cpu" and pin.needed_bytes is not None:
        return _weigh_cpu(pin.needed_bytes + pin.reserve_bytes, figures)
    return Verdict(True, 0, figures.available, None, "")


def _weigh_unified(pin: MemoryPin, utilization: float, figures: Figures, figure: str) -> Verdict:
    # The container's memory limit is left out on purpose: it does not bind what CUDA allocates.
    claim = math.ceil(utilization * figures.total)
    needed = claim + pin.reserve_bytes
    found = figures.available if figure == "MemAvailable" else figures.free
    most = max(0.0, math.floor((found - pin.reserve_bytes) * 100 / figures.total) / 100)
    text = (
        f"{gib(needed)} needed (utilization {utilization:g} × {gib(figures.total)} = {gib(claim)}, "
        f"reserve {gib(pin.reserve_bytes)}), {gib(found)} free by {figure}"
    )
    if needed <= found:
        return Verdict(True, needed, found, most, text)
    if figure == "MemFree" and needed <= figures.available:
        text += f"; the page cache holds the difference ({gib(figures.available)} by MemAvailable)"
    text += f"; utilization {most:.2f} would fit" if most > 0 else "; no utilization would fit"
    return Verdict(False, needed, found, most, text)


def _weigh_cpu(needed: int, figures: Figures) -> Verdict:
    found, source = figures.available, "MemAvailable"
    if figures.cgroup_left is not None and figures.cgroup_left < found:
        found, source = figures.cgroup_left, "the container's memory limit"
    text = f"{gib(needed)} needed, {gib(found)} free by {source}"
    return Verdict(needed <= found, needed, found, None, text)


def read(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Figures:
    """The figures of this moment. Raises OSError or ValueError when ``/proc/meminfo`` is unreadable."""
    host = parse_meminfo((proc / "meminfo").read_text())
    return Figures(host.total, host.available, host.free, _cgroup_left(cgroup), _number(cgroup / "memory.max"))


def _cgroup_left(cgroup: Path) -> int | None:
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is None or used is None:
        return None
    # Clean page cache is charged to the cgroup but given up under pressure.
    return max(0, limit - used + _stat(cgroup / "memory.stat", "inactive_file"))


def oom_kills(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes of this container the kernel has killed for memory so far (0 where nothing tells)."""
    return _stat(cgroup / "memory.events", "oom_kill")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" means no limit
        return None


def _stat(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
