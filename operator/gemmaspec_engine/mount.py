"""Reads the mounted pin and proves that it, and every file that it names, is unchanged."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from gemmaspec_engine import fingerprint
from gemmaspec_engine.pin import Pin, PinError, parse

__all__ = ["MountError", "load", "package"]

_RESTORE = "Something changed the engine's files in place: restore them, or let the operator roll a new revision."


class MountError(Exception):
    """What is mounted is not what was pinned; ``reason`` is PinInvalid or FilesChanged."""

    def __init__(self, reason: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.reason, self.message, self.remedy = reason, message, remedy


def package() -> Path:
    """The directory of gemmaspec_engine; the one above it is the mount.

    Not resolved: a ConfigMap's files are symbolic links into a directory of their own.
    """
    return Path(__file__).absolute().parent


def load() -> Pin:
    """The pin, from GEMMASPEC_PIN or beside the package. Raises MountError.

    GEMMASPEC_PIN_SHA256, where set, is the hash of the pin itself: it stands in the pod template, which cannot
    change under a running pod as a mounted ConfigMap can.
    """
    path = Path(os.environ.get("GEMMASPEC_PIN") or package().parent / "pin.json")
    try:
        content = path.read_bytes()
        pin = parse(content.decode())
    except (OSError, UnicodeDecodeError, PinError) as error:
        raise MountError("PinInvalid", f"{path}: {error}") from None
    problems = [str(mismatch) for mismatch in fingerprint.changed(path.parent, pin.files)]
    expected, actual = os.environ.get("GEMMASPEC_PIN_SHA256"), hashlib.sha256(content).hexdigest()
    if expected and expected != actual:
        problems.insert(0, str(fingerprint.Mismatch(path.name, expected, actual)))
    if problems:
        raise MountError("FilesChanged", "; ".join(problems), _RESTORE)
    return pin
