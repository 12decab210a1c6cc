"""What the demo measured, in one value that the terminal, the picture and the JSON file are made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Point:
    """One second of the run. Times are seconds since the epoch."""

    time: float
    text: str | None
    """Kind of the traffic: "code", "prose", or None without traffic."""
    k: int | None
    """Effective K, from the resource's status."""
    serving: bool
    """Whether an engine pod is Ready."""
    engine_k: int | None = None
    """K that the serving engine was started with, from its pod."""
    tokens_per_second: float | None = None
    """Tokens that the clients received."""
    accepted: Sequence[float] = ()
    """Share of the drafts whose tokens were accepted up to position i, over the last seconds; from the engine's
    counters. Empty where nothing was drafted."""


@dataclass(frozen=True)
class Mark:
    """Something that happened at a moment. `kind`: traffic, decision, engine or condition."""

    time: float
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch under one traffic and one K, and what it amounted to."""

    name: str
    text: str
    k: int
    begun: float
    ended: float
    tokens: int
    drafts: int
    accepted: Sequence[float]
    failed_calls: int = 0

    @property
    def seconds(self) -> float:
        """Length of the stretch."""
        return self.ended - self.begun

    @property
    def tokens_per_second(self) -> float:
        """What the clients received, all streams together."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Record:
    """Everything measured in one run."""

    begun: float
    machine: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)

    def phase(self, name: str) -> Phase | None:
        """The phase of that name, if the run got there."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def body(self) -> dict[str, Any]:
        """The JSON form."""
        body = asdict(self)
        for phase, measured in zip(body["phases"], self.phases, strict=True):
            phase |= {"seconds": measured.seconds, "tokens_per_second": measured.tokens_per_second}
        return body

    def write(self, file: Path) -> None:
        """Write the JSON form."""
        file.write_text(json.dumps(self.body(), indent=1) + "\n")


def read(file: Path) -> Record:
    """A record that was written. Raises OSError or ValueError."""
    body = json.loads(file.read_text())
    body["points"] = [Point(**point) for point in body["points"]]
    body["marks"] = [Mark(**mark) for mark in body["marks"]]
    derived = ("seconds", "tokens_per_second")
    body["phases"] = [Phase(**{k: v for k, v in phase.items() if k not in derived}) for phase in body["phases"]]
    return Record(**body)
