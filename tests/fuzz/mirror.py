"""What a namespace holds, kept up to date by watches: a look at it costs the API server nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from testbed.api import Api
from tests.integration.scene import OWNED

# A watch ends after so long, and the next one goes on where it ended.
WATCH_SECONDS = 240
# Looked at again after this long though nothing was told: some conditions are about time.
LOOK_SECONDS = 0.5
OBJECTS = frozenset({"ADDED", "MODIFIED", "DELETED"})


class Mirror:
    """Objects of some kinds in one namespace. paths: API path by plural. owner: plural of those that own the others."""

    def __init__(self, api: Api, paths: Mapping[str, str], owner: str) -> None:
        self._api = api
        self._owner = owner
        self._kept: dict[str, dict[str, dict[str, Any]]] = {plural: {} for plural in paths}
        self._news: dict[str, threading.Event] = defaultdict(threading.Event)
        self._stopping = threading.Event()
        self._connections: dict[str, http.client.HTTPSConnection] = {}
        self._threads = [threading.Thread(target=self._run, args=entry, daemon=True) for entry in paths.items()]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stopping.set()
        for connection in list(self._connections.values()):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # a close would not wake the thread that reads

    def one(self, plural: str, name: str) -> dict[str, Any] | None:
        """The object, or None."""
        return self._kept[plural].get(name)

    def all(self, plural: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return list(self._kept[plural].values())

    def owned(self, plural: str, name: str) -> list[dict[str, Any]]:
        """The objects of a kind that carry the label of the owner ``name``."""
        return [one for one in self.all(plural) if _owner_of(one) == name]

    def wait(self, name: str, probe: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so of the owner ``name`` and what it owns; False after so many seconds."""
        end, news = time.monotonic() + seconds, self._news[name]
        while True:
            news.clear()
            if probe():
                return True
            if time.monotonic() >= end:
                return False
            news.wait(LOOK_SECONDS)

    def _run(self, plural: str, path: str) -> None:
        version = ""
        while not self._stopping.is_set():
            try:
                version = self._watch(plural, path, version or self._list(plural, path))
            except (OSError, ValueError, AttributeError, http.client.HTTPException):  # cut off, by ``close`` too
                version = ""
                self._stopping.wait(0.2)

    def _list(self, plural: str, path: str) -> str:
        status, body = self._api.get(path, 60.0)
        if status != 200:
            raise OSError(f"{path}: {status}")
        listed = json.loads(body)
        before = self._kept[plural]
        self._kept[plural] = {one["metadata"]["name"]: one for one in listed["items"]}
        self._tell(plural, [*before.values(), *listed["items"]])
        return str(listed["metadata"]["resourceVersion"])

    def _watch(self, plural: str, path: str, version: str) -> str:
        """Follow one watch to its end; returns where the next one begins, "" for anew."""
        connection = http.client.HTTPSConnection(self._api.address, timeout=WATCH_SECONDS + 30, context=self._api.tls)
        self._connections[plural] = connection
        try:
            asked = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
            connection.request("GET", f"{path}?{asked}")
            answer = connection.getresponse()
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = str(event["object"]["metadata"]["resourceVersion"])
                if event["type"] in OBJECTS:
                    self._take(plural, event["type"], event["object"])
        finally:
            connection.close()
        return version

    def _take(self, plural: str, kind: str, one: dict[str, Any]) -> None:
        name = one["metadata"]["name"]
        if kind == "DELETED":
            self._kept[plural].pop(name, None)
        else:
            self._kept[plural][name] = one
        self._tell(plural, [one])

    def _tell(self, plural: str, objects: Iterable[Mapping[str, Any]]) -> None:
        for one in objects:
            self._news[one["metadata"]["name"] if plural == self._owner else _owner_of(one)].set()


def _owner_of(one: Mapping[str, Any]) -> str:
    return str((one["metadata"].get("labels") or {}).get(OWNED, ""))
