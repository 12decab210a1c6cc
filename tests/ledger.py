"""What a long campaign has found so far, so that it can be played in parts, each begun where the one before stopped."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def digest(folders: Iterable[Path]) -> str:
    """A mark of all Python and YAML files below these folders: results of two states of them are not put together."""
    found = hashlib.sha256()
    for folder in folders:
        for file in sorted(path for ending in ("*.py", "*.yaml") for path in folder.rglob(ending)):
            found.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


class Ledger:
    """A file of JSON lines: the first says what is played, each other one is an entry.

    about: what has to be the same in every part. Entries of another campaign in the file are left out and replaced.
    """

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.entries: list[dict[str, Any]] = []
        lines = file.read_text().splitlines() if file.exists() else []
        if lines and json.loads(lines[0]) == about:
            self.entries = [json.loads(line) for line in lines[1:]]
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(about) + "\n")

    def add(self, entry: Mapping[str, Any]) -> None:
        """Keep an entry; it is in the file when this returns."""
        with self._lock:
            self.entries.append(dict(entry))
            with self._file.open("a") as file:
                file.write(json.dumps(entry) + "\n")
