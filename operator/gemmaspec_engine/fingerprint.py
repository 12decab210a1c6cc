"""Are the files on disk the ones that were pinned?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mismatch", "changed", "sha256_of"]


@dataclass(frozen=True)
class Mismatch:
    """One file that is not what the pin says; ``actual`` is None when it cannot be read."""

    path: str
    pinned: str
    actual: str | None

    def __str__(self) -> str:
        if self.actual is None:
            return f"{self.path} cannot be read (pinned sha256 {self.pinned})"
        return f"{self.path} has sha256 {self.actual}, pinned is {self.pinned}"


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def changed(root: Path, files: dict[str, str]) -> list[Mismatch]:
    """Every pinned file below ``root`` whose bytes differ from its pinned sha256, in path order."""
    found = []
    for path, pinned in sorted(files.items()):
        try:
            actual: str | None = sha256_of(root / path)
        except OSError:
            actual = None
        if actual != pinned:
            found.append(Mismatch(path, pinned, actual))
    return found
