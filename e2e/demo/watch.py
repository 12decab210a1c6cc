"""A stream of changes from the API server, through one long-lived kubectl."""

from __future__ import annotations

import codecs
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from typing import Any, cast

from testbed.kubectl import Kubectl

_CHUNK = 1 << 16
_PAUSE = 1.0  # seconds before a stream that broke off is opened again


def objects(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects in a stream that holds nothing but objects and white space, each as soon as it is whole."""
    decoder, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")()
    waiting = ""
    for chunk in chunks:
        waiting = (waiting + text.decode(chunk)).lstrip()
        while waiting:
            try:
                found, end = decoder.raw_decode(waiting)
            except ValueError:
                break  # the rest of it is still to come
            yield found
            waiting = waiting[end:].lstrip()


class Watch:
    """Calls `changed(type, object)` for every object of a query that is there, is added, changes or goes.

    type: ADDED, MODIFIED or DELETED. Calls come from a thread of the watch's own, one at a time. A stream that
    breaks off is opened again, and then tells everything that is there as ADDED.
    """

    def __init__(self, kubectl: Kubectl, query: list[str], changed: Callable[[str, dict[str, Any]], None]) -> None:
        self._command = [*kubectl.command, "get", *query, "--watch", "--output-watch-events", "-o", "json"]
        self._changed = changed
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            quiet = subprocess.DEVNULL
            with subprocess.Popen(self._command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet) as process:
                self._process = process
                for event in _events(cast("BufferedReader", process.stdout)):
                    if self._stopping.is_set():
                        break
                    self._changed(event["type"], event["object"])
                process.kill()
            if not self._stopping.is_set():
                time.sleep(_PAUSE)


def _events(stream: BufferedReader) -> Iterator[dict[str, Any]]:
    chunks = iter(lambda: stream.read1(_CHUNK), b"")
    return (found for found in objects(chunks) if found.get("type") in ("ADDED", "MODIFIED", "DELETED"))
