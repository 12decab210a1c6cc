"""K held for a while: what agents are told of it, and what of it counts as evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmaspec.core import hold, live
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.hold import ANNOTATION, Hold

NOW = 1_795_343_400.0
WANTED = Wanted("Adaptive", 4, 0, 4)
HELD = Wanted("Fixed", 2, 0, 4)


def report(
    settings: Wanted, until: float | None = None, time: float = NOW, steps: dict[int, int] | None = None
) -> Report:
    return Report(time, True, "", settings.k, settings, (), 0, steps or {}, until=until)


def test_an_annotation_is_read() -> None:
    wanted = Hold(2, NOW + 60)
    assert hold.read({ANNOTATION: wanted.text()}, NOW) == wanted
    assert hold.read({}, NOW) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "[]",
        '{"k": 2}',
        '{"k": "2", "until": "2026-11-22T17:05:00Z"}',
        '{"k": true, "until": "2026-11-22T17:05:00Z"}',
        '{"k": 33, "until": "2026-11-22T17:05:00Z"}',
        '{"k": -1, "until": "2026-11-22T17:05:00Z"}',
        '{"k": 2, "until": "soon"}',
        '{"k": 2, "until": "2036-11-22T17:05:00Z"}',
    ],
)
def test_what_cannot_be_read_holds_nothing(text: str) -> None:
    assert hold.read({ANNOTATION: text}, NOW) is None


def test_an_agent_is_told_of_a_hold_once_and_of_its_end() -> None:
    held = Hold(2, NOW + 60)
    assert hold.told(report(WANTED), WANTED, held, NOW) == (HELD, 60.0)
    assert hold.told(report(HELD, NOW + 58), WANTED, held, NOW) is None
    assert hold.told(report(HELD, NOW + 20), WANTED, held, NOW) == (HELD, 60.0), "renewed"
    ended = Hold(2, NOW - 1)
    assert hold.told(report(HELD, NOW + 20), WANTED, ended, NOW) == (WANTED, None)
    assert hold.told(report(WANTED), WANTED, ended, NOW) is None


def test_settings_with_an_end_that_nobody_spoke_of_are_left_to_end() -> None:
    assert hold.told(report(HELD, NOW + 20), WANTED, None, NOW) is None
    assert hold.told(report(HELD), WANTED, None, NOW) == (WANTED, None)


def test_a_held_k_is_nobodys_choice() -> None:
    before = report(WANTED, steps={4: 100}, time=NOW)
    during = report(HELD, NOW + 30, time=NOW + 5, steps={4: 100, 0: 500})
    after = replace(before, time=NOW + 40, steps={4: 200, 0: 900})
    assert live.running_k([(before, during)]) is None
    assert live.running_k([(before, during, after)]) is None, "no step is known to be after the hold"
    later = replace(after, time=NOW + 45, steps={4: 300, 0: 900})
    found = live.running_k([(before, during, after, later)])
    assert found is not None
    assert found[0] == 4
