"""placeholder"""
from __future__ import annotations

from typing import ClassVar

from .reference import Fixed


class Rollback(Fixed):
    name: ClassVar[str] = "rollback"
