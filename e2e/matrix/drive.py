"""Drives the agent against the vLLM on this Python's path: ``python -m matrix.drive PAIR``, in the engine's Python.

Configuration, scheduler, KV cache manager and request objects are vLLM's own; the model runner is simulated.
Prints one JSON object: the version, and for each scenario "passed" or what went wrong.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

os.environ["GEMMASPEC_AGENT"] = json.dumps({"port": None, "stallSeconds": 5})
os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")  # our own injected exception is logged as an error

from matrix.construct import GRID, SEQUENCES, configuration, scheduler
from matrix.runner import POSITIONS, Runner

TOKENS: Final = 40
ROOMY: Final = 400  # blocks
TIGHT: Final = 34  # eight requests of 60 + 40 tokens want 56
MODES: Final = {"sync": (False, False), "async": (True, False), "async, V2 runner": (True, True)}
Make = Callable[[int], Runner]


def _put(runner: Runner, **settings: Any) -> None:
    runner.scheduler.gemmaspec.put_k(settings)


def _requests(runner: Runner, count: int, prompt: int = 60) -> None:
    for number in range(count):
        runner.add(f"r{number}", prompt + number, TOKENS)


def _all_done(runner: Runner) -> None:
    wrong = {name: count for name, count in runner.tokens.items() if count != TOKENS}
    assert not wrong, f"tokens of {wrong}, not {TOKENS}"
    assert set(runner.finished) == set(runner.tokens), "not all finished"
    assert runner.scheduler.gemmaspec.controller.exceptions == {}, runner.scheduler.gemmaspec.controller.exceptions


def k_changes_between_steps(make: Make) -> None:
    """Each step is scheduled at the K that was put before it, and the next one verifies that many drafts."""
    runner = make(ROOMY)
    assert runner.scheduler.gemmaspec.engine.refusal == "", runner.scheduler.gemmaspec.engine.refusal
    _requests(runner, SEQUENCES)
    wanted, dice = [], random.Random(5)
    while True:
        k = dice.choice(GRID)
        _put(runner, mode="Fixed", k=k)
        before = len(runner.scheduled_k)
        if not runner.step():
            break
        wanted += [k] * (len(runner.scheduled_k) - before)
    assert runner.scheduled_k == wanted
    assert set(GRID) - {0} <= runner.verified, f"requests carried {runner.verified} drafts"
    _all_done(runner)


def acceptance_is_exact(make: Make) -> None:
    """The agent's counts per position are what the simulated runner accepted."""
    runner = make(ROOMY)
    _requests(runner, 2 * SEQUENCES)
    cycle = itertools.cycle(GRID)
    while runner.step():
        _put(runner, mode="Fixed", k=next(cycle))
    tally = runner.scheduler.gemmaspec.tally
    assert sum(runner.drafted) > 100
    assert (tally.drafted, tally.accepted) == (runner.drafted, runner.accepted)
    assert tally.requests == 2 * SEQUENCES
    assert tally.tokens == sum(runner.tokens.values()) or tally.tokens >= sum(runner.tokens.values())
    _all_done(runner)


def preemption(make: Make) -> None:
    """Too few blocks: requests are pushed out and computed again while K changes."""
    runner = make(TIGHT)
    _requests(runner, SEQUENCES)
    cycle = itertools.cycle(GRID)
    preempted = 0
    for _ in range(4000):
        _put(runner, mode="Fixed", k=next(cycle))
        if not runner.step():
            break
        preempted = max(preempted, sum(r.num_preemptions for r in runner.scheduler.requests.values()))
    assert preempted > 0, "nothing was preempted"
    _all_done(runner)


def aborts(make: Make) -> None:
    """Requests end from outside while steps with them are under way."""
    from vllm.v1.request import RequestStatus

    runner = make(ROOMY)
    _requests(runner, SEQUENCES)
    for number in range(12):
        _put(runner, mode="Fixed", k=GRID[number % len(GRID)])
        runner.step()
    runner.scheduler.finish_requests(["r0", "r3"], RequestStatus.FINISHED_ABORTED)
    for name in ("r0", "r3"):
        del runner.tokens[name]
    runner.run()
    _all_done(runner)


def policies_decide(make: Make) -> None:
    """Rollback and Adaptive run on real steps and choose from the grid."""
    for mode in ("Rollback", "Adaptive"):
        runner = make(ROOMY)
        _put(runner, mode=mode, k=POSITIONS)
        _requests(runner, 4 * SEQUENCES)
        runner.run()
        assert set(runner.scheduled_k) <= set(GRID)
        assert runner.scheduler.gemmaspec.controller.settings.mode == mode
        _all_done(runner)


def exceptions_are_static_k(make: Make) -> None:
    """The policy raises in the middle of the run: K stays, every request ends as it should."""
    runner = make(ROOMY)
    _put(runner, mode="Adaptive", k=2)
    _requests(runner, SEQUENCES)
    for _ in range(6):
        runner.step()
    controller = runner.scheduler.gemmaspec.controller

    def broken(*_: Any) -> int:
        raise ArithmeticError("injected")

    policy = controller._policies["adaptive"]  # noqa: SLF001
    policy.choose = broken
    runner.step()  # its K was decided ahead
    before = len(runner.scheduled_k)
    runner.run()
    assert set(runner.scheduled_k[before:]) == {2}, "the static K"
    assert controller.exceptions == {"choose": 1}
    assert controller.fault.where == "choose"
    controller.exceptions.clear()
    _all_done(runner)


def liveness(make: Make) -> None:
    """Chunks of a long prompt and output tokens are progress; an engine without requests is alive."""
    runner = make(ROOMY)
    agent = runner.scheduler.gemmaspec
    runner.add("long", 400, TOKENS)
    marks = []
    for _ in range(6):
        agent.progress._last = 0.0  # noqa: SLF001
        runner.step()
        marks.append(agent.progress._last > 0)  # noqa: SLF001
    assert sum(marks) >= 3, f"chunks seen: {marks}"
    agent.progress._last = -1e9  # noqa: SLF001
    assert agent.livez()[0] is False
    runner.run()
    assert agent.livez()[0] is True
    assert agent.controller.exceptions == {}


def plugin() -> None:
    """What the matrix marks for this version finds the code it mends."""
    import vllm
    from vllm.plugins import load_general_plugins

    from gemmaspec_engine import compat
    from gemmaspec_engine.agent import drafter

    load_general_plugins()
    found = compat.find(vllm.__version__)
    assert found is not None
    wanted = found.patches
    assert drafter.apply(vllm.__version__)[: len(wanted)] == wanted


SCENARIOS: Final = (
    k_changes_between_steps,
    acceptance_is_exact,
    preemption,
    aborts,
    policies_decide,
    exceptions_are_static_k,
    liveness,
)


def _outcome(scenario: Callable[..., None], *arguments: Make) -> str:
    try:
        scenario(*arguments)
    except Exception as error:  # noqa: BLE001  the table says what
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return "passed"


def main() -> None:
    """Prints the results of the vLLM that Python finds."""
    import vllm

    configured = configuration(Path(sys.argv[1]))
    results: dict[str, dict[str, str]] = {}
    for mode, (asynchronous, v2) in MODES.items():

        def make(blocks: int, asynchronous: bool = asynchronous, v2: bool = v2) -> Runner:
            return Runner(scheduler(deepcopy(configured), blocks, asynchronous, v2), asynchronous)

        results[mode] = {scenario.__name__: _outcome(scenario, make) for scenario in SCENARIOS}
    results["plug-in"] = {"plugin": _outcome(plugin)}
    print(json.dumps({"version": vllm.__version__, "results": results}))


if __name__ == "__main__":
    main()
