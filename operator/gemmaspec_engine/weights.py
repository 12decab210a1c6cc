"""``python3 -m gemmaspec_engine.weights --port N --model REPO[@REVISION] …``: brings weights into the box's cache.

An init container behind preflight, with the engine's image (its huggingface_hub) and the only container besides
preflight that holds the hub's token.  The engine then starts with HF_HUB_OFFLINE=1 and can't load anything else.
Downloads are resumed where they stopped; two pods that share a cache take turns.  While it works, the engine's port
answers ``/progress``, from where the operator's conditions know how far it is.  With ``--state-dir`` nothing is
brought for an engine of which preflight found that it can never start.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gemmaspec_engine import termination
from gemmaspec_engine.state import refused

__all__ = ["Failure", "Repository", "complete", "explain", "hub_cache", "main", "parse_model", "size_of"]

# Formats that vLLM does not load, in repositories that carry several.
IGNORED = ("*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.pth", "original/*", "onnx/*", "metal/*", "coreml/*")
_EX_TEMPFAIL = 75
# Left free on the disk: kubelet evicts pods when less remains.
SPARE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Repository:
    """A model repository at a revision (None: the default branch)."""

    name: str
    revision: str | None

    @property
    def pinned(self) -> bool:
        """Whether the revision is a whole commit id, which can't come to mean other bytes."""
        return self.revision is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


@dataclass(frozen=True)
class Failure:
    """Why a download failed, with the way out."""

    reason: str
    message: str
    remedy: str


def parse_model(text: str) -> Repository:
    """``org/name@revision`` or ``org/name``. Raises ValueError for anything else."""
    name, _, revision = text.partition("@")
    if name.count("/") != 1 or name.startswith("/") or name.endswith("/"):
        raise ValueError(f"{text!r} is not org/name or org/name@revision")
    return Repository(name, revision or None)


def explain(error: BaseException, repository: Repository) -> Failure:
    """A download's error in words of the resource."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind, where = type(error).__name__, f"{repository.name}@{repository.revision or 'main'}"
    if status in (401, 403) or kind == "GatedRepoError":
        remedy = "Accept the model's licence on the hub, and give a token that may read it in spec.cache.download."
        return Failure("HubTokenRejected", f"the hub refuses {where} (HTTP {status})", remedy)
    if kind == "RevisionNotFoundError":
        return Failure("RevisionNotFound", f"the hub has no {where}", "Correct the revision in the spec.")
    if status == 404 or kind == "RepositoryNotFoundError":
        remedy = "Correct the name, or give a token that may read it in spec.cache.download."
        return Failure("ModelNotFound", f"the hub has no {where}", remedy)
    if isinstance(error, OSError) and error.errno == 28:
        return Failure("CacheFull", f"the disk is full: {error}", "Give the weight cache a larger volume.")
    text = " ".join(str(error).split())[:300]
    return Failure("DownloadFailed", f"{where}: {kind}: {text}", "It goes on where it stopped at the next try.")


def size_of(folder: Path) -> int:
    """Bytes of the files below ``folder``, unfinished downloads included; 0 where there is none."""
    total = 0
    for entry in folder.rglob("*"):
        try:
            total += 0 if entry.is_symlink() or not entry.is_file() else entry.stat().st_size
        except OSError:
            continue  # a download was renamed while we looked
    return total


def hub_cache() -> Path:
    """Where huggingface_hub keeps repositories."""
    home = os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser())
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def complete(cache: Path, repository: Repository) -> bool:
    """Whether these very bytes were brought: then no hub is needed."""
    return repository.pinned and _mark(cache, repository).exists()


def _mark(cache: Path, repository: Repository) -> Path:
    return _place(cache, repository.name) / ".gemmaspec-complete" / (repository.revision or "main")


def _place(cache: Path, name: str) -> Path:
    return cache / ("models--" + name.replace("/", "--"))


class Progress:
    """How far the download is; served on the engine's port."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.expected: dict[str, int] = {}

    def body(self) -> dict[str, Any]:
        """What ``/progress`` answers."""
        done = sum(min(size_of(self.folder(name)), total) for name, total in self.expected.items())
        return {"bytesDone": done, "bytesTotal": sum(self.expected.values()), "models": sorted(self.expected)}

    def folder(self, name: str) -> Path:
        """Where huggingface_hub keeps the repository's files."""
        return _place(self._cache, name) / "blobs"


def serve(progress: Progress, port: int) -> ThreadingHTTPServer:
    """Answer ``/progress`` in the background; anything else is 503: this is no engine yet."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(progress.body()).encode()
            self.send_response(200 if self.path == "/progress" else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)  # noqa: S104 (a pod serves its network)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextmanager
def turn(cache: Path, repository: Repository) -> Iterator[None]:
    """Hold the repository's lock: pods that share the cache download it one after the other."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".gemmaspec-{repository.name.replace('/', '--')}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"gemmaspec weights: {repository.name}: another pod downloads it; waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bring(repository: Repository, progress: Progress, cache: Path) -> None:
    import huggingface_hub as hub  # the image's own; slow to import, and absent where tests import this module

    if complete(cache, repository):
        return
    mark = _mark(cache, repository)
    try:
        _download(hub, repository, progress, cache)
    except OSError as error:
        if not mark.exists() or getattr(error, "response", None) is not None or error.errno == 28:
            raise
        print(f"gemmaspec weights: the hub can't be reached; {repository.name} as it was cached", flush=True)
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _download(hub: Any, repository: Repository, progress: Progress, cache: Path) -> None:
    info = hub.HfApi().model_info(repository.name, revision=repository.revision, files_metadata=True, timeout=30)
    wanted = [item for item in info.siblings or () if not _ignored(item.rfilename)]
    total = sum(item.size or 0 for item in wanted)
    progress.expected[repository.name] = total
    with turn(cache, repository):
        missing = total - size_of(progress.folder(repository.name))
        free = shutil.disk_usage(cache).free
        if missing + SPARE_BYTES > free and missing > 0:
            raise OSError(28, f"{missing / 1e9:.1f} GB are missing and {free / 1e9:.1f} GB are free in {cache}")
        where = hub.snapshot_download(
            repository.name, revision=repository.revision, ignore_patterns=list(IGNORED), etag_timeout=30
        )
    print(f"gemmaspec weights: {repository.name}: {total / 1e9:.2f} GB at {where}", flush=True)


def _ignored(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in IGNORED)


def _say(ok: bool, failure: Failure | None, models: Sequence[Repository]) -> None:
    body: dict[str, Any] = {"stage": "weights", "ok": ok}
    if failure is None:
        body |= {"reason": "Cached", "message": ", ".join(model.name for model in models)}
    else:
        body |= {"reason": failure.reason, "message": failure.message, "remedy": failure.remedy}
    termination.write_bytes(termination.fit(body, ("message", "remedy")))


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is there; 75: not yet, kubelet tries again and the download goes on where it stopped."""
    parser = argparse.ArgumentParser(prog="gemmaspec_engine.weights")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=parse_model, action="append", required=True)
    parser.add_argument("--state-dir", type=Path)
    asked = parser.parse_args(arguments)
    if asked.state_dir is not None and (reason := refused(asked.state_dir)) is not None:
        text = f"nothing is downloaded: preflight found {reason}"
        print(f"gemmaspec weights: {text}", file=sys.stderr)
        _say(False, Failure("NotDownloaded", text, ""), asked.model)
        return 0
    cache = hub_cache()
    progress = Progress(cache)
    server = serve(progress, asked.port)
    try:
        for repository in asked.model:
            try:
                _bring(repository, progress, cache)
            except Exception as error:  # noqa: BLE001 whatever the hub's client raises becomes a reason
                failure = explain(error, repository)
                print(f"gemmaspec weights: {failure.reason}: {failure.message} {failure.remedy}", file=sys.stderr)
                _say(False, failure, asked.model)
                return _EX_TEMPFAIL
    finally:
        server.shutdown()
    _say(True, None, asked.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
