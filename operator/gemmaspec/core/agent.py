"""What is asked of the agents in the engines, and what they tell (docs/live-k.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wanted:
    """Settings that the agent shall follow, in the words of its port."""

    mode: str
    k: int
    k_min: int
    k_max: int

    def body(self) -> dict[str, Any]:
        """The JSON of PUT /k."""
        return {"mode": self.mode, "k": self.k, "kMin": self.k_min, "kMax": self.k_max}


@dataclass(frozen=True)
class Report:
    """What an agent said at ``time``. ``positions``: (drafted, accepted) since its engine began, by position.
    ``steps``: decode steps that verified each K.
    """

    time: float
    live: bool
    reason: str
    k: int
    settings: Wanted
    positions: tuple[tuple[int, int], ...]
    requests: int
    steps: Mapping[int, int]
    fallback: str = ""
    """Where an exception of the agent's own made K static, and which one; empty while all is well."""
    graphs: Mapping[str, int] = field(default_factory=dict)
    """Decode steps by CUDA-graph mode since its engine began; empty where vLLM does not tell."""
    started_at: float = 0.0
    """When its engine's process began, seconds since the epoch."""
    restored: str = ""
    """Where its knowledge of earlier traffic came from: `volume` or `port`; empty for nowhere."""
    recent: tuple[float | None, ...] = ()
    """Recent conditional acceptance by position; None where nothing was drafted of late."""
    until: float | None = None
    """When its settings end and the ones before them hold again, seconds since the epoch; None: they stand."""
    step_ms: Mapping[int, float] = field(default_factory=dict)
    """Recent time of a step in milliseconds, by the K that it verified."""
