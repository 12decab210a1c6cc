"""What the soak counts: requests that failed, and whether memory grows."""

from __future__ import annotations

import random

from soak.accounts import WITHDRAWAL_SECONDS, Kill, account
from soak.memory import BLOCK_SECONDS, WARM_SECONDS, Look, slope
from traffic import Call

_KILLED = Kill(100.0, 100.5)


def _call(start: float, duration: float, tokens: int = 0, error: str | None = "APIConnectionError") -> Call:
    return Call(kind="code", start=start, duration=duration, tokens=tokens, ttft=None, error=error)


def test_only_what_was_in_flight_or_was_turned_away_is_excused() -> None:
    calls = [
        _call(99.0, 0.5, 8, None),
        in_flight := _call(99.5, 1.0, 3),
        turned_away := _call(101.0, 0.1),
        at_once := _call(100.2, 0.1, 1),
        begun := _call(102.0, 1.0, 3),
        before := _call(90.0, 1.0),
        late := _call(_KILLED.done + WITHDRAWAL_SECONDS + 1, 0.1),
    ]
    found = account(calls, [_KILLED])
    assert found.answered == 1
    assert found.in_flight == (in_flight, at_once), "a kill takes its time: it may have been asked for before the call"
    assert found.turned_away == (turned_away,)
    assert found.lost == (begun, before, late)


def test_without_a_kill_every_failure_is_a_loss() -> None:
    assert len(account([_call(1.0, 1.0)], []).lost) == 1


def _life(name: str, begun: float, minutes: float, height: float, per_hour: float) -> list[Look]:
    dice = random.Random(name)
    return [
        Look(name, begun + at, height + per_hour * at / 3600 + dice.gauss(0, 0.2), 20)
        for at in range(0, int(60 * minutes), 10)
    ]


def test_growth_is_seen_across_restarts_of_the_process() -> None:
    found = slope([*_life("a", 0, 20, 60, 30), *_life("b", 1300, 20, 66, 30)])
    assert found is not None
    assert found.lives == 2
    assert found.low < 30 < found.high
    assert found.low > 20


def test_what_does_not_grow_is_flat_though_its_first_minutes_grow() -> None:
    looks = _life("a", 0, 40, 60, 0)
    warming = [
        Look(look.life, look.seconds, look.rss - 20, 20) if look.seconds < WARM_SECONDS else look for look in looks
    ]
    found = slope(warming)
    assert found is not None
    assert found.low < 0 < found.high
    assert found.high < 1


def test_too_little_says_nothing() -> None:
    assert slope([]) is None
    assert slope(_life("a", 0, (WARM_SECONDS + BLOCK_SECONDS) / 60, 60, 0)) is None
