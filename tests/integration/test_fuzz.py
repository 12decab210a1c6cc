"""Some mutations of a spec (`make fuzz` plays thousands)."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import Part, play
from tests.integration.fake_engine import FakeEngines
from tests.integration.scene import Scene

# Not in the gate: what is drawn depends on the schema, and the oracle still calls some fields ignored that act.
pytestmark = [pytest.mark.control_plane, pytest.mark.campaign]


def test_mutations_act_or_are_refused_and_reverting_restores(running: Scene, fake_engines: FakeEngines) -> None:
    before = running.operator.whole_log().count("Traceback")
    verdicts = [verdict for _, verdict in play(running, fake_engines.port, Part(36, 6, 7))]
    assert [f"{verdict.text}: {verdict.wrong}" for verdict in verdicts if verdict.wrong] == []
    assert {verdict.how for verdict in verdicts} >= {"refused", "acted"}
    assert running.operator.ended is None
    assert running.operator.whole_log().count("Traceback") == before
