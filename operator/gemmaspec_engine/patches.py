"""Brings the pinned patches into the directory that the engine reads them from."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from gemmaspec_engine.finding import Finding
from gemmaspec_engine.fingerprint import sha256_of
from gemmaspec_engine.pin import PatchPin, Pin

__all__ = ["bring"]

_MOST_BYTES = 8 << 20  # a Python module is a few hundred KiB at most


class _Unfetched(Exception):
    def __init__(self, text: str, deterministic: bool) -> None:
        super().__init__(text)
        self.deterministic = deterministic


def bring(pin: Pin) -> list[Finding]:
    """Copy every pinned patch, verified, to the patch directory. Returns what could not be brought.

    A file that is there already with the right hash is kept: the source need not be reachable again.
    """
    return [finding for patch in pin.patches if (finding := _bring_one(pin, patch)) is not None]


def _bring_one(pin: Pin, patch: PatchPin) -> Finding | None:
    place = Path(patch.file(pin.patch_dir))
    if place.exists() and sha256_of(place) == patch.sha256:
        return None
    source = patch.path or patch.url or ""
    try:
        content = _read(patch, pin.preflight.fetch_seconds)
    except _Unfetched as error:
        text = f"the patch for {patch.module} cannot be read from {source}: {error}"
        remedy = "Correct spec.engine.patches[].source, or make it reachable from this node."
        return Finding("PatchSourceMissing", text, remedy, deterministic=error.deterministic)
    actual = hashlib.sha256(content).hexdigest()
    if actual != patch.sha256:
        text = f"the patch for {patch.module} from {source} has sha256 {actual}, pinned is {patch.sha256}"
        return Finding("PatchHashMismatch", text, "Pin the hash of the bytes you reviewed, or correct the source.")
    _write(place, content)
    return None


def _read(patch: PatchPin, deadline: float) -> bytes:
    try:
        if patch.path is not None:
            return Path(patch.path).read_bytes()
        with urllib.request.urlopen(patch.url or "", timeout=deadline) as answer:  # noqa: S310  http(s) by the pin
            content: bytes = answer.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        # 4xx says that the request is wrong, except "too early", "too many" and "timeout".
        raise _Unfetched(f"HTTP {error.code}", 400 <= error.code < 500 and error.code not in (408, 425, 429)) from None
    except FileNotFoundError:
        raise _Unfetched("no such file", True) from None
    except (OSError, ValueError) as error:
        raise _Unfetched(str(getattr(error, "reason", error)), False) from None
    if len(content) > _MOST_BYTES:
        raise _Unfetched(f"more than {_MOST_BYTES} bytes", True)
    return content


def _write(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.chmod(0o444)
    fresh.replace(place)
