"""Durations as people write them."""

from __future__ import annotations

import re
from typing import Final

_PARTS: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds(text: str) -> int:
    """Seconds of ``10m``, ``1h30m``, ``90s``. Raises ValueError for anything else, and for nothing."""
    found = _PARTS.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise ValueError(f"{text!r} is no duration: write hours, minutes and seconds as 10m, 1h30m or 90s")
    hours, minutes, rest = (int(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + rest
