"""Points in time: seconds since the epoch inside, RFC 3339 text in the API."""

from __future__ import annotations

from datetime import UTC, datetime


def text(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds: ``2026-11-22T09:30:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(value: str) -> float:
    """Seconds since the epoch of an RFC 3339 text. Raises ValueError for anything else."""
    return datetime.fromisoformat(value).timestamp()


def optional(value: str | None) -> float | None:
    """Like :func:`seconds`, None for an absent or unreadable text."""
    try:
        return seconds(value) if value else None
    except ValueError:
        return None
