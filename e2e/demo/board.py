"""What the person in front of the terminal is shown: the state, without the drawing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from demo.observer import View
from demo.record import Point

_SPARK: Final = 120  # points of the throughput line


@dataclass
class Step:
    """A step of the story. state: waiting, running, done or failed."""

    title: str
    state: str = "waiting"
    detail: str = ""
    begun: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended or time.time()) - self.begun if self.begun else 0.0

    def body(self) -> dict[str, Any]:
        """The JSON form."""
        return {"title": self.title, "state": self.state, "seconds": round(self.seconds, 2), "detail": self.detail}


class StepFailed(RuntimeError):
    """A step did not happen; the message says which, and why."""

    def __init__(self, step: Step, reason: str) -> None:
        super().__init__(f"{step.title}: {reason}")
        self.step = step
        self.reason = reason


@dataclass
class Board:
    """The steps, the newest measurements, and the last messages."""

    steps: list[Step]
    begun: float = field(default_factory=time.time)
    view: View = field(default_factory=View)
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=_SPARK))
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=6))
    conditions: list[dict[str, Any]] = field(default_factory=list)
    heard: Callable[[str], None] = lambda _: None
    """Is told every line that matters, for terminals that cannot be redrawn."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step under way; an exception in it marks it as failed and comes out as StepFailed."""
        step = next((found for found in self.steps if found.title == title), None)
        if step is None:
            step = Step(title)
            self.steps.append(step)
        step.state, step.begun = "running", time.time()
        self.heard(f"… {title}")
        try:
            yield step
        except StepFailed:
            raise
        except BaseException as error:
            step.state, step.ended = "failed", time.time()
            reason = str(error).strip() or type(error).__name__
            step.detail = reason.splitlines()[0]
            self.heard(f"✗ {title}: {reason}")
            if isinstance(error, Exception):
                raise StepFailed(step, reason) from error
            raise
        step.state, step.ended = "done", time.time()
        self.heard(f"✓ {title} ({step.seconds:.1f} s){': ' + step.detail if step.detail else ''}")

    def say(self, text: str) -> None:
        """A line that is worth reading but no step."""
        self.messages.append(f"{time.time() - self.begun:6.1f} s  {text}")
        self.heard(f"  {text}")

    def observed(self, view: View, point: Point | None) -> None:
        """New measurements. Tells changes of conditions."""
        with self._lock:
            self.view = view
            if point is not None and (not self.points or self.points[-1].time != point.time):
                self.points.append(point)
            self._compare(view.status.get("conditions", []))

    def _compare(self, found: list[dict[str, Any]]) -> None:
        known = {entry["type"]: (entry["status"], entry["reason"]) for entry in self.conditions}
        self.conditions = found
        for entry in found:
            if known.get(entry["type"]) != (entry["status"], entry["reason"]):
                self.say(f"{entry['type']}={entry['status']} {entry['reason']}: {entry['message']}")
