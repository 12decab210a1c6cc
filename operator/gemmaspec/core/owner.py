"""Whose children objects are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Owner:
    """The resource that owns the children."""

    namespace: str
    name: str
    uid: str
