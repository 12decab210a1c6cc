"""The committed pair: where its folders are, and the manifest of their hashes (standard library only)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "pair"
PARTS: Final = ("target", "assistant", "assistant-mixed")
_MANIFEST: Final = "manifest.json"


def _files(folder: Path) -> list[Path]:
    return sorted(file for part in PARTS for file in (folder / part).rglob("*") if file.is_file())


def size(folder: Path = FOLDER) -> int:
    """Bytes of the pair's files."""
    return sum(file.stat().st_size for file in _files(folder))


def hashes(folder: Path = FOLDER) -> dict[str, str]:
    """The sha256 of every file of the pair, by its path inside ``folder``."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(folder)
    }


def read(folder: Path = FOLDER) -> dict[str, str]:
    """The hashes recorded when the pair was made."""
    recorded: dict[str, str] = json.loads((folder / _MANIFEST).read_text())
    return recorded


def write(folder: Path) -> None:
    """Records the hashes of the pair in ``folder``."""
    (folder / _MANIFEST).write_text(json.dumps(hashes(folder), indent=1, sort_keys=True) + "\n")
