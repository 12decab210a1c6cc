"""Steps real schedulers in turns: ``python -m bench.stepcost.drive PAIR STEPS``, in the engine's Python. Prints JSON.

Scheduler, KV cache manager and requests are vLLM's own, asynchronous, with requests that end and come; the model
runner is simulated (`matrix.runner`). Between two steps the caches are chilled: a worker that launches a model leaves
nothing of ours in them, and a loop would measure a quarter of what an engine pays.
"""

from __future__ import annotations

import json
import os
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

os.environ["GEMMASPEC_AGENT"] = json.dumps({"port": None})
os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")

from matrix.construct import configuration, scheduler
from matrix.runner import Runner

BATCHES: Final = (1, 4, 8, 16)
KINDS: Final = ("plain", "held", "adaptive")
TURN: Final = 100
"""Steps of one kind before the next one has its turn."""
CHILL: Final = 2 * 2**20
"""Bytes read between two steps: the second-level cache of a server's core."""


class Timed:
    """A runner whose scheduler's calls between two steps are timed: schedule and update. Processor time."""

    def __init__(self, kind: str, configured: Any, batch: int) -> None:
        self.kind = kind
        self.runner = Runner(scheduler(deepcopy(configured), 4000, asynchronous=True, v2=True), asynchronous=True)
        self.batch = batch
        self.steps: list[int] = []
        self._spent = 0
        self._number = 0
        for name in ("schedule", "update_from_output"):
            self._time(name)
        if kind == "held":
            self.agent.put_k({"mode": "Fixed", "k": 4})
        elif kind == "adaptive":
            self.agent.put_k({"mode": "Adaptive", "k": 4})

    @property
    def agent(self) -> Any:
        """The agent in the scheduler."""
        return self.runner.scheduler.gemmaspec

    def _time(self, name: str) -> None:
        original = getattr(self.runner.scheduler, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time_ns()
            try:
                return original(*args, **kwargs)
            finally:
                self._spent += time.thread_time_ns() - begun

        setattr(self.runner.scheduler, name, timed)

    def turn(self, steps: int, chill: bytearray) -> None:
        """So many steps, with new requests for those that ended."""
        for _ in range(steps):
            while len(self.runner.scheduler.requests) < self.batch:
                self._number += 1
                self.runner.add(f"cmpl-{self._number:032x}-0", 60, 400)
            self._spent = 0
            chill.count(1)
            self.runner.step()
            self.steps.append(self._spent)


def quantiles(values: list[int]) -> dict[str, float]:
    """Median and 99 %, microseconds."""
    ordered = sorted(values)
    return {name: round(ordered[int(share * len(ordered))] / 1000, 1) for name, share in (("p50", 0.5), ("p99", 0.99))}


def measure(configured: dict[str, Any], batch: int, steps: int) -> list[dict[str, Any]]:
    """One row for each kind."""
    chill = bytearray(CHILL)
    turns = [Timed(kind, configured["plain" if kind == "plain" else "live"], batch) for kind in KINDS]
    for timed in turns:
        timed.turn(TURN, chill)
        timed.steps.clear()
    while len(turns[0].steps) < steps:
        for timed in turns:
            timed.turn(TURN, chill)
    rows = []
    for timed in turns:
        row = {"batch": batch, "kind": timed.kind, "steps": len(timed.steps), **quantiles(timed.steps)}
        if timed.kind != "plain":
            row["agent"] = timed.agent.overhead.quantiles()
            row["exceptions"] = timed.agent.controller.exceptions
        rows.append(row)
    return rows


def main() -> None:
    """Prints the rows."""
    import vllm

    pair, steps = Path(sys.argv[1]), int(sys.argv[2])
    rows = []
    for batch in BATCHES:
        configured = {kind: configuration(pair, max(batch, 4), kind == "live") for kind in ("plain", "live")}
        rows += measure(configured, batch, steps)
    print(json.dumps({"vllm": vllm.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
