"""A few cells of the table of faults (`make faults` plays them all)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults import catalogue
from tests.faults.cell import KeptAlive, play
from tests.faults.proxy import Fault
from tests.faults.scenarios import SCENARIOS
from tests.integration.fake_engine import FakeEngines
from tests.integration.stage import Stage

pytestmark = pytest.mark.control_plane
# Each has found a bug, or would find the worst ones.
CELLS: tuple[tuple[str, Callable[[KeptAlive], Fault]], ...] = (
    ("create", lambda kept: catalogue.Crash(4, kept.kill)),
    ("create", lambda _: catalogue.LostAnswer()),
    ("create", lambda _: catalogue.HalfAnswer()),
    ("K change", lambda _: catalogue.Drop()),
)


def test_faults_change_no_end(stage: Stage, operator_sources: Path, fake_engines: FakeEngines) -> None:
    where = (stage, operator_sources, fake_engines)
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    with ThreadPoolExecutor(5) as pool:
        plain = {name: pool.submit(play, *where, scenarios[name], lambda _: Fault()) for name in ("create", "K change")}
        expected = {name: future.result() for name, future in plain.items()}
        cells = [pool.submit(play, *where, scenarios[name], make, expected[name]) for name, make in CELLS]
        results = [future.result() for future in cells]
    assert [result.wrong for result in (*expected.values(), *results)] == [""] * 6
    assert expected["create"].outcome["engines"] == 1
