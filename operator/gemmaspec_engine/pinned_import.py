"""Makes ``import`` load pinned bytes for some modules, in every Python process of the engine.

A bind mount over a file inside the image needs a path that depends on the image, and would follow a ConfigMap's
changes.  Instead ``site/sitecustomize.py``, which each interpreter runs at its start, calls ``install`` here; vLLM's
engine core and workers are fresh interpreters with the same environment, so they do the same.  The hash is checked
in each of them on the very bytes that are executed.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["ENV", "PinnedFinder", "install"]

ENV = "GEMMASPEC_PINNED_IMPORTS"
"""Environment variable: JSON object of module → [path, sha256]."""


class _PinnedLoader(importlib.abc.InspectLoader):
    """Runs a module from a file whose hash is known."""

    def __init__(self, name: str, path: str, sha256: str) -> None:
        self.name, self.path, self.sha256 = name, path, sha256

    def _bytes(self) -> bytes:
        content = Path(self.path).read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if actual != self.sha256:
            raise ImportError(
                f"gemmaspec: {self.path} has sha256 {actual}, pinned for {self.name} is {self.sha256}",
                name=self.name,
            )
        return content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        """The patch's own path: tracebacks, ``inspect`` and torch.compile read the source there."""
        return self.path

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        """The pinned text."""
        return self._bytes().decode()

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002
        """Only single modules are pinned."""
        return False

    def exec_module(self, module: ModuleType) -> None:
        """Run the bytes that were just hashed, and leave the hash in the module for preflight to see."""
        content = self._bytes()
        module.__dict__["__gemmaspec_sha256__"] = hashlib.sha256(content).hexdigest()
        exec(compile(content, self.path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  that is what importing is


class PinnedFinder(importlib.abc.MetaPathFinder):
    """Answers for the pinned modules and nothing else."""

    def __init__(self, pinned: Mapping[str, tuple[str, str]]) -> None:
        self._pinned = dict(pinned)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """The pinned source's spec; the module's package is the image's own."""
        found = self._pinned.get(fullname)
        if found is None:
            return None
        loader = _PinnedLoader(fullname, *found)
        spec = importlib.machinery.ModuleSpec(fullname, loader, origin=found[0])
        spec.has_location = True
        return spec


def install(environ: Mapping[str, str] = os.environ) -> None:
    """Install the finder for what the environment names; nothing when it names nothing.

    Raises ValueError when the variable cannot be read: an engine that should be patched must not run unpatched.
    """
    raw = environ.get(ENV)
    if not raw:
        return
    pinned = json.loads(raw)
    if not isinstance(pinned, dict) or not all(isinstance(v, list) and len(v) == 2 for v in pinned.values()):
        raise ValueError(f"{ENV} must map modules to [path, sha256], not {raw!r}")
    sys.meta_path.insert(0, PinnedFinder({name: (str(path), str(sha)) for name, (path, sha) in pinned.items()}))
