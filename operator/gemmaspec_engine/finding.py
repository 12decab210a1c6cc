"""What a preflight check can find."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks wrong."""

    reason: str
    """Stable, CamelCase; the operator and its users match on it."""
    message: str
    remedy: str
    fatal: bool = True
    """False: a warning; the engine may start."""
    deterministic: bool = True
    """True: trying again changes nothing."""
    source: str = ""
    """Where the knowledge comes from (an upstream issue), if it is not plain from the message."""
