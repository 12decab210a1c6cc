"""What this engine must be: the typed content of ``pin.json``.

The operator renders ``pin.json`` into the same ConfigMap as these files, so reader and writer always have the
same version.  That is why parsing is strict: a key that this version does not know is a mistake, never a feature
of the future, and the message names the key, the value found and what would be accepted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

__all__ = ["BootPin", "MemoryPin", "Pin", "PinError", "parse"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEVICES = ("cuda", "cpu", "discrete")
_REQUIRED = object()


class PinError(ValueError):
    """``pin.json`` cannot be read as a pin; the text names the field."""


@dataclass(frozen=True)
class MemoryPin:
    """Memory that must be free before the engine may start.

    ``device`` says whose memory it is: ``cuda`` is a GPU that shares the host's memory (GB10), so that
    ``/proc/meminfo`` speaks for it; ``discrete`` is a GPU with memory of its own, about which the host's figures
    say nothing; ``cpu`` runs in the host's memory and needs ``needed_bytes`` when that is given.
    """

    device: str
    utilization: float | None
    """Share of total memory the engine claims (vLLM's ``--gpu-memory-utilization``), in (0, 1]."""
    reserve_bytes: int
    """Bytes that must stay free beside the engine's claim, for the host."""
    needed_bytes: int | None
    """Device ``cpu``: bytes the engine needs. None: nothing is waited for."""
    wait_seconds: float
    """How long to wait for free memory before giving up."""


@dataclass(frozen=True)
class BootPin:
    """How boots are spaced, and when one counts as proved."""

    healthy_seconds: float
    """Uninterrupted seconds of a healthy ``/health`` after which earlier failures no longer count."""
    backoff_seconds: float
    """Pause before the boot that follows one failed boot; it doubles with each further failure."""
    backoff_max_seconds: float


@dataclass(frozen=True)
class Pin:
    """Everything ``pin.json`` says."""

    files: dict[str, str]
    """Path relative to the directory that holds ``pin.json`` → sha256 (hex) of its bytes."""
    vllm: str | None
    """The vLLM version that must be installed; None: any."""
    memory: MemoryPin
    boot: BootPin
    max_restarts: int
    """Restarts after the first boot; the boot after the last allowed one parks instead of starting vLLM."""
    state_dir: str
    """Directory that outlives a container restart and dies with the pod (an emptyDir)."""


class _Fields:
    """One JSON object being read: hands out typed values and, at the end, refuses what nobody asked for."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise PinError(f"{where} must be an object, not {value!r}")
        self._where = where
        self._left: dict[str, Any] = dict(value)

    def take(self, name: str, default: object = _REQUIRED) -> Any:
        """The value under ``name``; ``default`` where it is absent. Where the default is None, null says the same."""
        if name not in self._left:
            if default is _REQUIRED:
                raise PinError(f"{self.path(name)} is missing")
            return default
        return self._left.pop(name)

    def number(self, name: str, default: object = _REQUIRED, least: float = 0) -> Any:
        value = self.take(name, default)
        if value is default:
            return value
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not least <= value < float("inf")
        ):
            raise PinError(f"{self.path(name)} must be a number of at least {least:g}, not {value!r}")
        return value

    def integer(self, name: str, default: object = _REQUIRED) -> Any:
        value = self.number(name, default)
        if value is not default and not isinstance(value, int):
            raise PinError(f"{self.path(name)} must be a whole number, not {value!r}")
        return value

    def text(self, name: str, default: object = _REQUIRED) -> Any:
        value = self.take(name, default)
        if value is not default and (not isinstance(value, str) or not value):
            raise PinError(f"{self.path(name)} must be a non-empty string, not {value!r}")
        return value

    def path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def end(self) -> None:
        if self._left:
            raise PinError(f"unknown field {self.path(min(self._left))}")


def parse(text: str) -> Pin:
    """Read the text of ``pin.json``.

    Raises PinError for anything that is not exactly a pin.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise PinError(f"not JSON: {error}") from None
    top = _Fields(raw, "")
    pin = Pin(
        files=_files(top.take("files")),
        vllm=top.text("vllm", None),
        memory=_memory(top.take("memory", {"device": "discrete"})),
        boot=_boot(top.take("boot", {})),
        max_restarts=top.integer("maxRestarts", 3),
        state_dir=_absolute(top.text("stateDir"), "stateDir"),
    )
    top.end()
    return pin


def _files(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise PinError(f"files must be an object of path → sha256, not {value!r}")
    for path, digest in value.items():
        parts = PurePosixPath(path).parts
        if not path or path.startswith("/") or ".." in parts:
            raise PinError(f"files: {path!r} must be a path below the pin's own directory")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise PinError(f"files[{path!r}] must be 64 lower-case hex digits, not {digest!r}")
    return dict(value)


def _memory(value: object) -> MemoryPin:
    fields = _Fields(value, "memory")
    device = fields.text("device")
    if device not in _DEVICES:
        raise PinError(f"memory.device must be one of {', '.join(_DEVICES)}, not {device!r}")
    utilization = fields.number("utilization", None)
    if utilization is not None and not 0 < utilization <= 1:
        raise PinError(f"memory.utilization must be above 0 and at most 1, not {utilization!r}")
    if device == "cuda" and utilization is None:
        raise PinError("memory.utilization is missing (device cuda)")
    memory = MemoryPin(
        device=device,
        utilization=utilization,
        reserve_bytes=fields.integer("reserveBytes", 0),
        needed_bytes=fields.integer("neededBytes", None),
        wait_seconds=fields.number("waitSeconds", 1800),
    )
    fields.end()
    return memory


def _boot(value: object) -> BootPin:
    fields = _Fields(value, "boot")
    boot = BootPin(
        # Ten minutes: longer than a 31B boot's own first minutes of compilation and first prefill, and the same
        # span after which kubelet forgets its crash-loop back-off, so that both forget together.
        healthy_seconds=fields.number("healthySeconds", 600),
        backoff_seconds=fields.number("backoffSeconds", 20),
        backoff_max_seconds=fields.number("backoffMaxSeconds", 600),
    )
    fields.end()
    return boot


def _absolute(path: str, where: str) -> str:
    if not path.startswith("/"):
        raise PinError(f"{where} must be an absolute path, not {path!r}")
    return path
