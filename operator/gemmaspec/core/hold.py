"""K held for a while, by an annotation of the resource: nothing in the spec, so that GitOps has nothing to fight.

``gemmaspec.io/hold-k: '{"k": 2, "until": "2026-11-22T17:05:00Z"}'``. Agents are told the end with it, and go back to
the spec by themselves, operator or not. An end in the past lets go at once. What can't be read holds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gemmaspec.api import identity
from gemmaspec.api.spec import MAX_K
from gemmaspec.core import moment
from gemmaspec.core.agent import Report, Wanted

ANNOTATION: Final = f"{identity.GROUP}/hold-k"
# Nobody means to hold K for longer and forgets to edit the spec.
MOST_SECONDS: Final = 86_400.0
# An end that an agent was told may differ from the annotation's by this, before it is told again.
TOLERANCE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Hold:
    """K until a point in time, seconds since the epoch."""

    k: int
    until: float

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
