"""One cell of the table: a scenario under a fault, with an operator of its own behind a proxy of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.deadline import wait_for
from testbed.pki import ADMINISTRATORS
from tests.faults.proxy import Fault, Proxy
from tests.faults.scenarios import Scenario, outcome, serves
from tests.integration.fake_engine import FakeEngines
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import Scene
from tests.integration.stage import Stage

# A fault lasts as long as the undisturbed scenario took, this long at least, and until it has struck; it is given up
# when it has not struck by then.
SUFFER_SECONDS = 6.0
STRIKE_SECONDS = 60.0
END_SECONDS = 120.0
LOOK_SECONDS = 0.2
NEVER_STRUCK = "the fault never struck"


@dataclass
class Result:
    """How a cell ended. ``wrong``: empty where the fault struck and the end is that of the undisturbed run.

    hits, write_hits: how often it struck, and how often a write. seconds: until the end was reached.
    """

    scenario: str
    fault: str
    seconds: float
    hits: int
    write_hits: int
    writes: int
    restarts: int
    outcome: dict[str, Any]
    wrong: str = ""

    @property
    def struck(self) -> bool:
        """Whether the cell shows anything."""
        return not self.wrong.startswith(NEVER_STRUCK)


class KeptAlive:
    """Starts the operator again whenever it ends, as the kubelet does."""

    def __init__(self, operator: OperatorProcess) -> None:
        self.operator = operator
        self.restarts = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the operator, and look after it."""
        self.operator.start()
        self._thread.start()

    def kill(self) -> None:
        """Kill it; it comes again."""
        with self._lock:
            self.operator.kill()
            self.restarts += 1
            self.operator.launch()

    def close(self) -> None:
        """End it for good."""
        self._stop.set()
        self._thread.join(10)
        self.operator.kill()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with self._lock:
                if self.operator.ended is not None:
                    self.restarts += 1
                    self.operator.launch()


@contextmanager
def disturbed(stage: Stage, sources: Path, engines: FakeEngines) -> Iterator[tuple[Scene, Proxy, KeptAlive]]:
    """A scene whose operator runs and talks through a proxy."""
    proxies: list[Proxy] = []

    def operator(namespace: str) -> OperatorProcess:
        user = f"operator-{namespace}"
        proxy = Proxy(stage.plane.kubeconfig_for(user, [ADMINISTRATORS]))
        proxies.append(proxy)
        proxy.start()
        kubeconfig = proxy.write_kubeconfig(stage.plane.folder / f"{user}.proxied")
        return OperatorProcess(stage.plane, sources, user, kubeconfig, {"GEMMASPEC_NAMESPACES": namespace})

    scene = stage.scene(operator, engines)
    kept = KeptAlive(scene.operator)
    try:
        kept.start()
        yield scene, proxies[0], kept
    finally:
        kept.close()
        scene.clear()
        scene.kubelet.close()
        proxies[0].close()


def play(
    stage: Stage,
    sources: Path,
    engines: FakeEngines,
    scenario: Scenario,
    fault: Callable[[KeptAlive], Fault],
    plain: Result | None = None,
) -> Result:
    """Play a scenario under a fault. plain: the undisturbed run; None for being that run."""
    with disturbed(stage, sources, engines) as (scene, proxy, kept):
        scenario.prepare(scene)
        suffered = fault(kept)
        proxy.suffer(suffered)
        began = time.monotonic()
        wrong = _disturb(scene, scenario, proxy, plain)
        try:
            _wait(scene, scenario, plain)
            took = time.monotonic() - began
            scene.quiet()
            wrong = wrong or (difference(plain.outcome, outcome(scene, scenario)) if plain else "")
        except (TimeoutError, AssertionError) as error:
            took = time.monotonic() - began
            wrong = (difference(plain.outcome, outcome(scene, scenario)) if plain else "") or str(error)
        if "Traceback" in scene.operator.whole_log():
            wrong = wrong or "a trace in the operator's log: " + _trace(scene.operator.whole_log())
        hits = (suffered.hits, suffered.write_hits, proxy.writes, kept.restarts)
        return Result(scenario.name, suffered.name, took, *hits, outcome(scene, scenario), wrong)


def _disturb(scene: Scene, scenario: Scenario, proxy: Proxy, plain: Result | None) -> str:
    """Act under the fault for as long as it has to last, and heal. Returns what is wrong with the cell so far."""
    began, fault = time.monotonic(), proxy.fault
    scenario.act(scene)
    if plain is None:
        if scenario.then:
            scene.until(lambda: serves(scene), "what is cut short", END_SECONDS)
            scenario.then(scene)
        return ""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: fault.struck, "the fault", plain.seconds + STRIKE_SECONDS, every=0.05)
    if scenario.then:
        scenario.then(scene)
    time.sleep(max(0.0, began + max(SUFFER_SECONDS, plain.seconds) - time.monotonic()))
    struck = fault.struck
    proxy.heal()
    return "" if struck else f"{NEVER_STRUCK}: {proxy.writes} writes"


def _wait(scene: Scene, scenario: Scenario, plain: Result | None) -> None:
    if plain is None:
        scene.until(lambda: scenario.ended(scene), "the end", END_SECONDS)
    else:
        wait_for(lambda: outcome(scene, scenario) == plain.outcome, "the undisturbed run's end", END_SECONDS, every=0.3)


def _trace(log: str) -> str:
    return log[log.index("Traceback") :][:1500]


def difference(before: Any, after: Any, path: str = "") -> str:
    """Where two values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = [difference(before.get(k), after.get(k), f"{path}.{k}") for k in sorted({*before, *after})]
        return "; ".join(one for one in found if one)
    return "" if before == after else f"{path}: {after!r} for {before!r}"
