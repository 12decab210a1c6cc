"""A vLLM plug-in for tests only: makes a CPU engine schedule asynchronously, and injects faults on demand.

TESTED_ASYNC=1 undoes what the CPU platform does to asynchronous scheduling. TESTED_FAULT names a file; its word
says what goes wrong from now on: ``choose`` or ``observe`` raise, ``collect`` breaks our bookkeeping, ``stall``
makes the scheduler stand still. An empty or missing file: nothing does.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.02


def register() -> None:
    if os.environ.get("TESTED_ASYNC"):
        _asynchronous()
    if os.environ.get("TESTED_FAULT"):
        _faults(Path(os.environ["TESTED_FAULT"]))


def _asynchronous() -> None:
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def check(cls: Any, vllm_config: Any) -> None:
        original(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check)


def _faults(file: Path) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    from gemmaspec_engine.agent.steps import Steps
    from gemmaspec_engine.policy.adaptive import Adaptive

    word = [""]

    def look() -> None:
        while True:
            try:
                word[0] = file.read_text().strip()
            except OSError:
                word[0] = ""
            time.sleep(LOOK_SECONDS)

    threading.Thread(target=look, name="faults", daemon=True).start()

    def raising(owner: Any, name: str, mine: str) -> None:
        original = getattr(owner, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            if word[0] == mine:
                raise ArithmeticError(f"injected into {mine}")
            return original(*args, **kwargs)

        setattr(owner, name, method)

    raising(Adaptive, "choose", "choose")
    raising(Adaptive, "observe", "observe")
    raising(Steps, "ended", "collect")
    schedule = Scheduler.schedule

    def standing(self: Any, *args: Any, **kwargs: Any) -> Any:
        while word[0] == "stall":
            time.sleep(LOOK_SECONDS)
        return schedule(self, *args, **kwargs)

    Scheduler.schedule = standing
