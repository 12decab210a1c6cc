"""The last words of a container: a small JSON object that kubelet copies into the pod's status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LIMIT_BYTES", "LastWords", "encode", "fit", "write", "write_bytes"]

LIMIT_BYTES = 1024
"""Budget for one message.  kubelet cuts at 4 KiB a container and 12 KiB a pod; with init containers and a sidecar
beside the engine, 1 KiB each keeps every message whole."""


@dataclass(frozen=True)
class LastWords:
    """Why a container ended.  ``reason`` is stable and machine-readable; the rest is for people."""

    stage: str
    reason: str
    message: str
    exit_code: int
    boots: int
    remedy: str = ""


def encode(words: LastWords) -> bytes:
    """As one line of JSON within the budget."""
    fields: dict[str, Any] = {"stage": words.stage, "reason": words.reason, "message": words.message}
    if words.remedy:
        fields["remedy"] = words.remedy
    fields |= {"exitCode": words.exit_code, "boots": words.boots}
    return fit(fields, ("message", "remedy"))


def fit(fields: Mapping[str, Any], shortened: Sequence[str]) -> bytes:
    """JSON of ``fields`` within the budget.

    Too much text costs first the end of the first name in ``shortened``, down to 200 characters, then the others
    whole, then the rest of the first.
    """
    first, *others = shortened
    left = {name: " ".join(v.split()) if name in shortened else v for name, v in fields.items()}
    while True:
        encoded = json.dumps(left, ensure_ascii=False).encode("utf-8", "replace")
        excess = len(encoded) - LIMIT_BYTES
        longest = max(others, key=lambda name: len(left.get(name, "")), default=first)
        if excess <= 0:
            return encoded
        if len(left[first]) > 200:
            left[first] = _shorten(left[first], excess)
        elif left.get(longest):
            left[longest] = _shorten(left[longest], excess) if len(left[longest]) > excess else ""
        elif len(left[first]) > 1:
            left[first] = _shorten(left[first], excess)
        else:
            raise ValueError(f"the other fields alone take {len(encoded)} bytes")


def _shorten(text: str, excess: int) -> str:
    # A character takes one to six bytes of JSON, so cut gently and let the loop repeat.
    return text[: max(0, len(text) - max(2, excess // 6 + 1))].rstrip("… ") + "…"


def write(words: LastWords) -> None:
    """Write to the container's termination log; never raises, since there is nothing left to save by then."""
    write_bytes(encode(words))


def write_bytes(content: bytes) -> None:
    """Write to the container's termination log; never raises."""
    path = os.environ.get("GEMMASPEC_TERMINATION_LOG", "/dev/termination-log")
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        print(f"gemmaspec: cannot write {path}: {error}", file=sys.stderr, flush=True)
