"""What this engine must be: the typed content of ``pin.json``.

The operator renders ``pin.json`` into the same ConfigMap as these files, so reader and writer always have the
same version.  That is why parsing is strict: a key that this version does not know is a mistake, never a feature
of the future, and the message names the key, the value found and what would be accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gemmaspec_engine.versions import valid_wish

__all__ = ["BootPin", "MemoryPin", "PatchPin", "Pin", "PinError", "PreflightPin", "TransformersPin", "parse"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEVICES = ("cuda", "cpu", "discrete")
_REQUIRED = object()


class PinError(ValueError):
    """``pin.json`` cannot be read as a pin; the text names the field."""


@dataclass(frozen=True, kw_only=True)
class MemoryPin:
    """Memory that must be free before the engine may start.

    ``device`` says whose memory it is: ``cuda`` is a GPU that shares the host's memory (GB10), so that
    ``/proc/meminfo`` speaks for it; ``discrete`` is a GPU with memory of its own, about which the host's figures
    say nothing; ``cpu`` runs in the host's memory and needs ``needed_bytes`` when that is given.
    """

    device: str
    mode: str = "Fixed"
    """``Fixed``: ``utilization`` is the engine's ``--gpu-memory-utilization``.  ``Auto``: preflight computes it, and
    the launcher adds that argument."""
    utilization: float | None = None
    """Share of total memory the engine claims, in (0, 1]; None with ``Auto``."""
    max_utilization: float | None = None
    """``Auto``: the largest share that the pod's memory request covers; None: whatever it comes to."""
    reserve_bytes: int = 0
    """Bytes that must stay free beside the engine's claim, for the host."""
    needed_bytes: int | None = None
    """Device ``cpu``: bytes the engine needs. None: the launcher waits for nothing."""
    wait_seconds: float = 1800
    """How long to wait for free memory before giving up."""
    overhead_bytes: int | None = None
    """``Auto``: bytes beside weights, drafter and KV cache; None: ``budget.DEFAULT_OVERHEAD_BYTES``."""


@dataclass(frozen=True)
class BootPin:
    """How boots are spaced, and when one counts as proved."""

    healthy_seconds: float
    """Uninterrupted seconds of a healthy ``/health`` after which earlier failures no longer count."""
    backoff_seconds: float
    """Pause before the boot that follows one failed boot; it doubles with each further failure."""
    backoff_max_seconds: float


@dataclass(frozen=True)
class PatchPin:
    """One Python module whose source is replaced by pinned bytes."""

    module: str
    """Dotted name, e.g. ``vllm.model_executor.models.gemma4_mtp``."""
    sha256: str
    path: str | None
    """Where a ConfigMap mounts the bytes; exactly one of ``path`` and ``url`` is given."""
    url: str | None

    def file(self, patch_dir: str) -> str:
        """Where preflight puts the verified bytes, and the engine reads them."""
        return f"{patch_dir.rstrip('/')}/{self.module}.py"


@dataclass(frozen=True)
class TransformersPin:
    """Which transformers the engine must import."""

    mode: str
    """``Verify``: the image's own must fit.  ``Install``: preflight puts it into ``overlay_dir``."""
    version: str | None
    """One version or comparisons, as ``versions.matches`` reads them; with ``git`` optional."""
    git_url: str | None
    git_commit: str | None
    overlay_dir: str | None
    """A volume shared by preflight (writable) and engine; ``Install`` only."""


@dataclass(frozen=True)
class PreflightPin:
    """How preflight works."""

    probe_seconds: float
    """Deadline for importing vLLM and asking it (30 s on a GB10 with a cold page cache)."""
    fetch_seconds: float
    """Deadline for each patch, each config file and each package."""
    memory_seconds: float
    """How long memory may take to become free before preflight reports that it does not fit."""


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
    image: str
    """The image as the spec names it; some known-bad images are recognised by it. May be empty."""
    transformers: TransformersPin | None
    patches: Sequence[PatchPin]
    patch_dir: str
    """The emptyDir of verified patches; empty without patches."""
    preflight: PreflightPin


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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
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
        image=top.text("image", None) or "",
        transformers=_transformers(top.take("transformers", None)),
        patches=_patches(top.take("patches", None)),
        patch_dir=_absolute(top.text("patchDir", None) or "/", "patchDir"),
        preflight=_preflight(top.take("preflight", None) or {}),
    )
    top.end()
    if pin.vllm is not None and not valid_wish(pin.vllm):
        raise PinError(f"vllm must be a version or comparisons of versions, not {pin.vllm!r}")
    if pin.patches and pin.patch_dir == "/":
        raise PinError("patchDir is missing (patches are pinned)")
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
    mode = fields.take("mode", "Fixed")
    if mode not in ("Fixed", "Auto") or (mode == "Auto" and device == "cpu"):
        raise PinError(f"memory.mode must be Fixed, or Auto on a GPU, not {mode!r}")
    if device == "cuda" and (utilization is None) != (mode == "Auto"):
        raise PinError("memory.utilization must be given with mode Fixed and only then")
    memory = MemoryPin(
        device=device,
        mode=mode,
        utilization=utilization,
        max_utilization=fields.number("maxUtilization", None),
        reserve_bytes=fields.integer("reserveBytes", 0),
        needed_bytes=fields.integer("neededBytes", None),
        wait_seconds=fields.number("waitSeconds", 1800),
        overhead_bytes=fields.integer("overheadBytes", None),
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


def _transformers(value: object) -> TransformersPin | None:
    if value is None:
        return None
    fields = _Fields(value, "transformers")
    mode = fields.text("mode", "Verify")
    if mode not in ("Verify", "Install"):
        raise PinError(f"transformers.mode must be Verify or Install, not {mode!r}")
    version, git, overlay = (
        fields.text("version", None),
        fields.take("git", None),
        fields.text("overlayDir", None),
    )
    fields.end()
    if version is not None and not valid_wish(version):
        raise PinError(f"transformers.version must be a version or comparisons of versions, not {version!r}")
    if version is None and git is None:
        raise PinError("transformers needs a version or git")
    if (overlay is not None) != (mode == "Install"):
        raise PinError("transformers.overlayDir must be given with mode Install and only then")
    url, commit = _git(git)
    return TransformersPin(mode, version, url, commit, overlay and _absolute(overlay, "transformers.overlayDir"))


def _git(value: object) -> tuple[str | None, str | None]:
    if value is None:
        return None, None
    fields = _Fields(value, "transformers.git")
    url, commit = fields.text("url"), fields.text("commit")
    fields.end()
    if not re.match(r"https://[^\s]+$", url):
        raise PinError(f"transformers.git.url must be an https address, not {url!r}")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise PinError(f"transformers.git.commit must be 40 lower-case hex digits, not {commit!r}")
    return url, commit


def _patches(value: object) -> tuple[PatchPin, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise PinError(f"patches must be a list, not {value!r}")
    found = tuple(_patch(entry, f"patches[{at}]") for at, entry in enumerate(value))
    modules = [patch.module for patch in found]
    for module in modules:
        if modules.count(module) > 1:
            raise PinError(f"patches: {module} is replaced twice")
    return found


def _patch(value: object, where: str) -> PatchPin:
    fields = _Fields(value, where)
    patch = PatchPin(fields.text("module"), fields.text("sha256"), fields.text("path", None), fields.text("url", None))
    fields.end()
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", patch.module):
        raise PinError(f"{where}.module must be a dotted module name, not {patch.module!r}")
    if not _SHA256.fullmatch(patch.sha256):
        raise PinError(f"{where}.sha256 must be 64 lower-case hex digits, not {patch.sha256!r}")
    if (patch.path is None) == (patch.url is None):
        raise PinError(f"{where} needs either path or url")
    if patch.path is not None:
        _absolute(patch.path, f"{where}.path")
    if patch.url is not None and not re.match(r"https?://[^\s]+$", patch.url):
        raise PinError(f"{where}.url must be an http(s) address, not {patch.url!r}")
    return patch


def _preflight(value: object) -> PreflightPin:
    fields = _Fields(value, "preflight")
    found = PreflightPin(
        probe_seconds=fields.number("probeSeconds", 300),
        fetch_seconds=fields.number("fetchSeconds", 60),
        memory_seconds=fields.number("memorySeconds", 20),
    )
    fields.end()
    return found


def _absolute(path: str, where: str) -> str:
    if not path.startswith("/"):
        raise PinError(f"{where} must be an absolute path, not {path!r}")
    return path
