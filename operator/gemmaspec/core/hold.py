"""K held for a while, by an annotation of the resource: nothing in the spec, so that GitOps has nothing to fight.

``gemmaspec.io/hold-k: '{"k": 2, "until": "2026-11-22T17:05:00Z"}'``. Agents are told the end with it, and go back to
the spec by themselves, operator or not. An end in the past lets go at once. What can't be read holds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gemmaspec.api import identity
from gemmaspec.api.spec import MAX_K, Method, Mode
from gemmaspec.core import moment
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.resolve import Resolved

ANNOTATION: Final = f"{identity.GROUP}/hold-k"
# Nobody means to hold K for longer and forgets to edit the spec.
MOST_SECONDS: Final = 86_400.0
# How the status begins where it is in vain to wait.
NOT_HELD: Final = "not held"
# An end that an agent was told may differ from the annotation's by this, before it is told again.
TOLERANCE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Hold:
    """K until a point in time, seconds since the epoch."""

    k: int
    until: float

    def active(self, now: float) -> bool:
        """Whether its end has not come."""
        return self.until > now

    def text(self) -> str:
        """As the annotation's value."""
        return json.dumps({"k": self.k, "until": moment.text(self.until)})


def read(annotations: Mapping[str, Any], now: float) -> Hold | None:
    """What the annotation holds; None where there is none, or none that can be read."""
    try:
        told = json.loads(annotations[ANNOTATION])
        k, until = told["k"], moment.seconds(told["until"])
    except (KeyError, TypeError, ValueError):
        return None
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= MAX_K or until > now + MOST_SECONDS:
        return None
    return Hold(k, until)


def standing(annotations: Mapping[str, Any], now: float) -> Hold | None:
    """What the annotation holds now: nothing once its end has come."""
    found = read(annotations, now)
    return found if found is not None and found.active(now) else None


def unreadable(annotations: Mapping[str, Any], now: float) -> str:
    """What the annotation says where that can't be read; empty otherwise."""
    text = annotations.get(ANNOTATION)
    return str(text)[:100] if text is not None and read(annotations, now) is None else ""


def restarted(resolved: Resolved, hold: Hold) -> Resolved:
    """The spec as it is while K is held by a restart: that K, moved by nobody."""
    return replace(resolved, k=hold.k, control=replace(resolved.control, mode=Mode.FIXED))


def refusal(resolved: Resolved, hold: Hold, *, live: bool, on_trial: bool, fault: bool) -> str:
    """Why K is not held though the annotation asks for it; empty where it is."""
    if live and fault:
        return f"{NOT_HELD}: the drafter is broken, and speculation stays off"
    if not live and resolved.method is Method.OFF and hold.k:
        return f"{NOT_HELD}: spec.speculative.method is off, and there is no drafter"
    if not live and on_trial:
        return "waits: a revision is on trial, and its K is what it is judged by"
    return ""


def told(report: Report, wanted: Wanted, hold: Hold | None, now: float) -> tuple[Wanted, float | None] | None:
    """What an agent is to be told, and for how many seconds (None: from now on); None where it follows already.

    Settings with an end that no annotation speaks of are somebody else's, and end by themselves.
    """
    temporary = report.until is not None
    if hold is not None and hold.until > now:
        held = Wanted("Fixed", hold.k, 0, wanted.k_max)
        same = report.until is not None and abs(report.until - hold.until) <= TOLERANCE_SECONDS
        return None if same and report.settings == held else (held, hold.until - now)
    if temporary and hold is None:
        return None
    return (wanted, None) if temporary or report.settings != wanted else None
