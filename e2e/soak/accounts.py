"""What became of the requests: answered, in flight on an engine that was killed, turned away by it, or lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from traffic import Call

# The kubelet looks at its containers once a second, kube-proxy follows the endpoints a second later, and a machine
# that is busy with an engine's start takes some more: until then a Service leads to an engine that is dead.
WITHDRAWAL_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Kill:
    """A kill of an engine: it happened between two moments, in seconds since the epoch, as a call's start."""

    asked: float
    done: float


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """Every call in one of four groups."""

    answered: int
    in_flight: tuple[Call, ...]
    """Began before an engine was killed, and broke off after it."""
    turned_away: tuple[Call, ...]
    """Reached no engine: began while the Service still led to one that had been killed. Not lost: to be asked again."""
    lost: tuple[Call, ...]
    """All other failures. There must be none."""


def account(calls: Sequence[Call], kills: Sequence[Kill]) -> Accounts:
    """Sort the calls."""
    failed = [call for call in calls if not call.ok]
    in_flight = tuple(call for call in failed if any(_flew(call, kill) for kill in kills))
    rest = [call for call in failed if call not in in_flight]
    turned_away = tuple(call for call in rest if any(_turned_away(call, kill) for kill in kills))
    lost = tuple(call for call in rest if call not in turned_away)
    return Accounts(answered=len(calls) - len(failed), in_flight=in_flight, turned_away=turned_away, lost=lost)


def _flew(call: Call, kill: Kill) -> bool:
    return call.start <= kill.done and kill.asked <= call.start + call.duration


def _turned_away(call: Call, kill: Kill) -> bool:
    return not call.tokens and kill.asked <= call.start <= kill.done + WITHDRAWAL_SECONDS
