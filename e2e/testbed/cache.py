"""Builds that are made once: a folder named by the content that produced it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT_VARIABLE = "GEMMASPEC_CACHE"


def cache_root() -> Path:
    """The folder of everything downloaded or built: $GEMMASPEC_CACHE, else the user's cache folder."""
    chosen = os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "gemmaspec"


def digest_of(parts: Iterable[str | bytes]) -> str:
    """SHA-256 over the parts, each preceded by its length so that no two lists look alike; 64 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made when absent); the kernel drops it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def first_free(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Hold the first of several names that no other process holds; it is free again when the holder dies.

    Raises RuntimeError when all are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with (folder / f"{name}.held").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield name
            return
    raise RuntimeError(f"every name in {folder} is held by a running process")


def built(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `<cache>/<kind>-<key>`, made by `build(empty folder)` when it is not there yet.

    A build that fails or is killed leaves nothing behind that a later call would take for a result;
    two builders of the same folder wait for each other, and the second finds the work done.
    """
    home = cache_root() / f"{kind}-{key}"
    if home.is_dir():
        return home
    with locked(home.parent / "locks" / (home.name + ".lock")):
        if home.is_dir():
            return home
        unfinished = home.with_name(home.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        build(unfinished)
        unfinished.rename(home)
    return home
