"""A vLLM plug-in for this bench only: changes the synthetic acceptance of a running engine.

vLLM's ``rejection_sample_method: synthetic`` draws acceptance from fixed rates. GPU_BENCH_RATES names a file with
a JSON list of conditional rates, one per position; when the file changes, the next step's draw uses them.

GPU_BENCH_COSTS names a file that gets three 64-bit integers a step: when it ended (monotonic), and what the agent adds
to its own account by the clock (between the steps, and beside the device), in nanoseconds.
"""

from __future__ import annotations

import json
import os
import threading
import time
from array import array
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.02
FLUSH = 3 * 32
_wanted: list[Any] = [None]


def register() -> None:
    """What vLLM calls in each of its processes."""
    file = os.environ.get("GPU_BENCH_RATES")
    if file:
        try:
            _patch()
            threading.Thread(target=_watch, args=(Path(file),), name="rates", daemon=True).start()
        except Exception as error:  # noqa: BLE001  a plug-in must not end the server
            print("synthetic_dice:", repr(error), flush=True)

    costs = os.environ.get("GPU_BENCH_COSTS")
    if costs:
        try:
            _account(Path(costs))
        except Exception as error:  # noqa: BLE001
            print("synthetic_dice:", repr(error), flush=True)


def _account(file: Path) -> None:
    from gemmaspec_engine.agent.tally import Overhead

    original, kept = Overhead.add, array("q")

    def add(self: Any, wall: int, wall_beside: int = 0, cpu: Any = None) -> None:
        original(self, wall, wall_beside, cpu)
        kept.extend((time.monotonic_ns(), wall, wall_beside))
        if len(kept) >= FLUSH:
            with file.open("ab") as out:
                kept.tofile(out)
            del kept[:]

    Overhead.add = add


def _patch() -> None:
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

    original = RejectionSampler.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = _wanted[0]
        rates = self.synthetic_conditional_rates
        if wanted is not None and rates is not None:
            _wanted[0] = None
            rates.copy_(rates.new_tensor((wanted + [wanted[-1]] * rates.numel())[: rates.numel()]))
        return original(self, *args, **kwargs)

    RejectionSampler.__call__ = call


def _watch(file: Path) -> None:
    seen = 0
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            changed = file.stat().st_mtime_ns
            if changed != seen:
                _wanted[0], seen = json.loads(file.read_text()), changed
        except (OSError, ValueError):
            continue
