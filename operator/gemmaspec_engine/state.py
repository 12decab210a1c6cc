"""Files in the state directory, which preflight and launcher share: written so that a reader sees all or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["RESULT", "read_json", "refused", "write_json"]

RESULT = "preflight.json"
"""Preflight's result: at least ``ok``, ``deterministic``, ``reason``, ``message``, ``remedy``."""


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` by the JSON of ``value`` so that a crash leaves the old or the new one. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None when there is no such file. Raises OSError, or ValueError for anything else."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object")
    return found


def refused(state_dir: Path) -> str | None:
    """The reason for which preflight found that this engine can never start; None when it may.

    A result that is missing or can't be read refuses nothing: the launcher reports that.
    """
    try:
        result = read_json(state_dir / RESULT)
    except (OSError, ValueError):
        return None
    if result is None or result.get("ok") is not False or result.get("deterministic") is not True:
        return None
    return str(result.get("reason", "PreflightFailed"))
