"""The last words of a container: a small JSON object that kubelet copies into the pod's status."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

__all__ = ["LIMIT_BYTES", "LastWords", "encode", "write"]

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
    """As one line of JSON within the budget; what is too long loses the end of the message, then the remedy."""
    message, remedy = " ".join(words.message.split()), " ".join(words.remedy.split())
    while True:
        fields: dict[str, object] = {"stage": words.stage, "reason": words.reason, "message": message}
        if remedy:
            fields["remedy"] = remedy
        fields |= {"exitCode": words.exit_code, "boots": words.boots}
        encoded = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
        excess = len(encoded) - LIMIT_BYTES
        if excess <= 0:
            return encoded
        if len(message) > 200:
            message = _shorten(message, excess)
        elif remedy:
            remedy = _shorten(remedy, excess) if len(remedy) > excess else ""
        else:
            message = _shorten(message, excess)


def _shorten(text: str, excess: int) -> str:
    # A character takes one to six bytes of JSON, so cut gently and let the loop repeat.
    return text[: max(0, len(text) - max(2, excess // 6 + 1))].rstrip("… ") + "…"


def write(words: LastWords) -> None:
    """Write to the container's termination log; never raises, since there is nothing left to save by then."""
    path = os.environ.get("GEMMASPEC_TERMINATION_LOG", "/dev/termination-log")
    try:
        with open(path, "wb") as file:
            file.write(encode(words))
    except OSError as error:
        print(f"gemmaspec: cannot write {path}: {error}", file=sys.stderr, flush=True)
