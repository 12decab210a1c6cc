"""Ages as people read them."""

from __future__ import annotations

from typing import Final

from gemmaspec.core import moment

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def of(time: str | None, now: float) -> str:
    """How long ago an RFC 3339 time was at ``now`` (seconds since the epoch), like ``5m``; ``–`` without a time.

    The biggest unit of which there are two at least, as kubectl does it. A clock that is behind shows ``0s``.
    """
    then = moment.optional(time)
    if then is None:
        return "–"
    seconds = max(0, int(now - then))
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 2 * size), _UNITS[-1])
    return f"{seconds // size}{unit}"
