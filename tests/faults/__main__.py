"""``python -m tests.faults``: every fault in every scenario. Prints the table and writes bench/results/faults.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "operator")]

from testbed import ControlPlane  # noqa: E402
from tests.faults import catalogue  # noqa: E402
from tests.faults.cell import KeptAlive, Result, difference, play  # noqa: E402
from tests.faults.proxy import Fault  # noqa: E402
from tests.faults.scenarios import SCENARIOS, Scenario  # noqa: E402
from tests.integration.fake_engine import FakeEngines  # noqa: E402
from tests.integration.stage import Stage, copied_sources, definition  # noqa: E402
from tests.ledger import Ledger, digest  # noqa: E402

MAKES = Callable[[KeptAlive], Fault]
PLAIN_RUNS = 2
NOTHING = Fault.name
PLAYS_OF_A_KILL = 3


def main() -> int:
    """Play the table; 1 where a cell ended wrongly."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--scenario", help="only scenarios whose name holds this")
    parser.add_argument("--fault", help="only faults whose name holds this")
    parser.add_argument("--minutes", type=float, default=120.0, help="begin no more cells after this")
    parser.add_argument("--go-on", type=Path, metavar="FILE", help="keep cells here, and play what is not in it yet")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(controllers=True) as plane:
        sources = copied_sources(Path(folder))
        stage, engines = Stage(plane, definition(sources)), FakeEngines()
        mark = digest([ROOT / "operator", ROOT / "tests/faults", ROOT / "tests/integration"])
        ledger = Ledger(options.go_on or Path(folder) / "cells", {"sources": mark})
        table = Table(stage, sources, engines, options, ledger)
        results = table.play()
        engines.close()
        stage.close()
        ledger.add({"part": time.monotonic() - began})
    seconds = [entry["part"] for entry in ledger.entries if "part" in entry]
    text = render(results, table.left_out, seconds)
    print(text)
    if not options.dry:
        (ROOT / "bench/results/faults.md").write_text(text)
    return int(bool(table.left_out) or any(result.wrong for result in results))


class Table:
    """All cells, some at once."""

    def __init__(
        self, stage: Stage, sources: Path, engines: FakeEngines, options: argparse.Namespace, ledger: Ledger
    ) -> None:
        self._where = (stage, sources, engines)
        self._options = options
        self._ledger = ledger
        self.left_out = 0
        self._scenarios = [s for s in SCENARIOS if (options.scenario or "") in s.name]
        known = [Result(**entry) for entry in ledger.entries if "scenario" in entry]
        self._known = {(result.scenario, result.fault): result for result in known}

    def play(self) -> list[Result]:
        """Undisturbed runs first: they say how each scenario must end, and how many writes it takes."""
        with ThreadPoolExecutor(self._options.at_once) as pool:
            plain = self._plain(pool)
            made = [
                (make, scenario, result)
                for scenario, result in zip(self._scenarios, plain, strict=True)
                for make in self._faults(result.writes)
            ]
            made.sort(key=lambda cell: cell[0](_NOBODY).name)  # all scenarios of a fault, then the next fault
            names = [(scenario.name, make(_NOBODY).name) for make, scenario, _ in made]
            known = [self._known[name] for name in names if name in self._known]
            new = [cell for cell, name in zip(made, names, strict=True) if name not in self._known]
            cells = [pool.submit(self._cell, scenario, make, result) for make, scenario, result in new]
            played = plain + known + list(self._ended(cells))
            self.left_out = len(made) + len(plain) - len(played)
            return played

    def _plain(self, pool: ThreadPoolExecutor) -> list[Result]:
        """The undisturbed runs."""
        waiting = {
            scenario.name: [pool.submit(self._undisturbed, scenario) for _ in range(PLAIN_RUNS)]
            for scenario in self._scenarios
            if (scenario.name, NOTHING) not in self._known
        }
        for name, futures in waiting.items():
            agreed = self._agreed([told(future.result()) for future in futures])
            self._known[name, NOTHING] = agreed
            self._ledger.add(asdict(agreed))
        return [self._known[scenario.name, NOTHING] for scenario in self._scenarios]

    def _undisturbed(self, scenario: Scenario) -> Result:
        return play(*self._where, scenario, lambda _: Fault())

    @staticmethod
    def _agreed(runs: list[Result]) -> Result:
        """The undisturbed run with the fewest writes: how many it takes depends a little on the moment."""
        for run in runs[1:]:
            runs[0].wrong = runs[0].wrong or difference(runs[0].outcome, run.outcome)
        return replace(min(runs, key=lambda run: run.writes), wrong=runs[0].wrong)

    def _cell(self, scenario: Scenario, make: MAKES, plain: Result) -> Result:
        """A cell. A kill at one of the last writes is played again when that run got by with fewer."""
        for _ in range(PLAYS_OF_A_KILL):
            result = play(*self._where, scenario, make, plain)
            if result.struck or not isinstance(make(_NOBODY), catalogue.Crash):
                break
        return result

    def _ended(self, cells: list[Future[Result]]) -> Iterator[Result]:
        """Cells as they end. When the time is over, those that have not begun are left out."""
        end = time.monotonic() + 60 * self._options.minutes
        for future in as_completed(cells):
            if time.monotonic() > end:
                for other in cells:
                    other.cancel()
            if not future.cancelled():
                self._ledger.add(asdict(future.result()))
                yield told(future.result())

    def _faults(self, writes: int) -> list[MAKES]:
        made: list[MAKES] = [lambda _, make=make: make() for make in catalogue.ALL]  # type: ignore[misc]
        made += [lambda kept, n=n: catalogue.Crash(n, kept.kill) for n in range(1, writes + 1)]  # type: ignore[misc]
        asked = self._options.fault or ""
        return [make for make in made if asked in make(_NOBODY).name]


_NOBODY: Any = type("Nobody", (), {"kill": None})()


def told(result: Result) -> Result:
    """Print a cell as it ends."""
    verdict = f"WRONG: {result.wrong[:3000]}" if result.wrong else "as undisturbed"
    line = (
        f"{result.scenario:17} {result.fault:32} {result.seconds:6.1f} s {result.hits:4} hits "
        f"({result.write_hits} on writes) {result.writes:4} writes"
    )
    print(f"{line} {result.restarts} restarts: {verdict}", flush=True)
    return result


def render(results: list[Result], left_out: int, seconds: list[float]) -> str:
    """The table: faults down, scenarios across; in each cell how often it struck and the writes that it took."""
    scenarios = list(dict.fromkeys(result.scenario for result in results))
    faults = list(dict.fromkeys(result.fault for result in results))
    faults.sort(key=lambda name: (name != "none", name.startswith("killed"), _number(name), name))
    cells = {(result.scenario, result.fault): result for result in results}
    wrong = [result for result in results if result.wrong]
    never = sum(not result.struck for result in wrong)
    parts = f" ({len(seconds)} parts)" if len(seconds) > 1 else ""
    extra = sum(_more_starts(result, cells[result.scenario, "none"]) for result in results)
    lines = [
        "# Faults × scenarios",
        "",
        f"`make {' '.join(['faults', *_given()])}`: an operator as a process, a real kube-apiserver behind a proxy",
        "that does the fault, fake engines. A cell is right when the fault struck; when children, status and the",
        "number of engine starts are those of the undisturbed run; when the operator has fallen silent; and when its",
        "log holds no trace. A fault lasts as long as the undisturbed scenario took, and until it has struck: one that",
        "concerns writes, a write. A resource is deleted when the fault strikes, in the middle of a change of K.",
        "",
        f"{len(results)} cells in {sum(seconds) / 60:.0f} minutes{parts}, {left_out} left out, {len(wrong)} wrong,",
        f"of which {never} because the fault never struck; {extra} engines started that the undisturbed run did not.",
        "",
        "In a cell: how often the fault struck (of that, writes) / writes of the operator / restarts of the operator.",
        "–: the undisturbed scenario has no such write.",
        "",
        "| fault | " + " | ".join(scenarios) + " |",
        "|---|" + "---|" * len(scenarios),
    ]
    for fault in faults:
        row = [_cell(cells.get((scenario, fault))) for scenario in scenarios]
        lines.append(f"| {fault} | " + " | ".join(row) + " |")
    lines += ["", *(f"- {result.scenario}, {result.fault}: {result.wrong[:300]}" for result in wrong)]
    return "\n".join(lines).rstrip() + "\n"


def _given() -> list[str]:
    given = " ".join(sys.argv[1:])
    return [f'ARGS="{given}"'] if given else []


def _more_starts(result: Result, plain: Result) -> int:
    ours, theirs = (one.outcome["starts"] for one in (result, plain))
    if isinstance(ours, int):
        return int(max(0, ours - theirs))
    return max(0, sum(count for _, count in ours) - sum(count for _, count in theirs))


def _number(name: str) -> int:
    return int(name.split()[-1]) if name.split()[-1].isdigit() and name.startswith("killed") else 0


def _cell(result: Result | None) -> str:
    if result is None:
        return "–"
    if not result.struck:
        return "**never struck**"
    hits = f"{result.hits} ({result.write_hits})" if result.write_hits else f"{result.hits}"
    return "**wrong**" if result.wrong else f"{hits} / {result.writes} / {result.restarts}"


if __name__ == "__main__":
    sys.exit(main())
