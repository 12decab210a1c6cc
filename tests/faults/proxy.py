"""A proxy between the operator and kube-apiserver that does what a network and an API server may do to a client.

The operator speaks plain HTTP to it, it speaks TLS to the API server as the operator's user. What it does wrong is
decided by a :class:`Fault`; without one it passes everything on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from testbed.api import Api

GONE = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
GONE_EVENT = json.dumps({"type": "ERROR", "object": GONE | {"message": "too old resource version"}}).encode() + b"\n"
SKIPPED_HEADERS = {"host", "authorization", "content-length", "transfer-encoding", "connection", "accept-encoding"}


@dataclass(frozen=True)
class Asked:
    """A request of the operator. ``number``: how many writes came before it."""

    method: str
    path: str
    query: Mapping[str, str]
    number: int

    @property
    def is_write(self) -> bool:
        """Whether it asks for a change."""
        return self.method != "GET"

    @property
    def is_watch(self) -> bool:
        """Whether it opens a stream of events."""
        return self.query.get("watch") in ("1", "true")

    @property
    def is_list(self) -> bool:
        """Whether it asks for a collection."""
        return (
            self.method == "GET"
            and not self.is_watch
            and "/namespaces/" in self.path
            and self.path.count("/") in (5, 6)
        )


@dataclass(frozen=True)
class Answer:
    """An answer of the API server, or one that is given in its place."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Cut(Exception):
    """The connection ends here."""


class Fault:
    """What goes wrong. This one: nothing. ``hits`` counts how often something did, ``write_hits`` to a write."""

    name = "none"
    # Whether it has to strike a write before it can be said to have been survived.
    concerns_writes = False
    # Watches that were told lies end with a 410 when the fault is over, as a watch does that has missed something.
    tells_lies = False

    def __init__(self) -> None:
        self.hits = 0
        self.write_hits = 0

    @property
    def struck(self) -> bool:
        """Whether it has happened as it is meant to."""
        return (self.write_hits if self.concerns_writes else self.hits) > 0

    def struck_at(self, asked: Asked) -> None:
        """Count."""
        self.hits += 1
        self.write_hits += asked.is_write

    async def before(self, asked: Asked) -> Answer | None:
        """An answer in the API server's place; None to pass the request on. May raise Cut."""
        return None

    async def after(self, asked: Asked, answer: Answer) -> Answer:
        """The answer that the operator gets. May raise Cut."""
        return answer

    def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The events that the operator gets, one JSON line each. May raise Cut."""
        return lines


class Proxy:
    """Runs in a thread of its own. ``fault`` may be replaced at any time by :meth:`suffer` and :meth:`heal`."""

    def __init__(self, kubeconfig: Path) -> None:
        self._api = Api(kubeconfig)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._watches: set[asyncio.Task[Any]] = set()
        self.fault = Fault()
        self.writes = 0
        self.port = 0
        self._last_words = b""

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def close(self) -> None:
        """Stop listening, and end every connection."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def suffer(self, fault: Fault) -> None:
        """From now on this goes wrong. Writes are counted anew, and watches begin anew: it concerns them too."""
        self.writes = 0
        self.fault = fault
        self._loop.call_soon_threadsafe(self._end_watches, b"")

    def heal(self) -> None:
        """Nothing goes wrong any more; who was told lies is told that it has missed something."""
        lied, self.fault = self.fault.tells_lies, Fault()
        if lied:
            self._loop.call_soon_threadsafe(self._end_watches, GONE_EVENT)

    def write_kubeconfig(self, file: Path) -> Path:
        """A kubeconfig that leads here."""
        cluster = {"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        user = {"name": "operator", "user": {"token": "unused"}}
        context = {"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}
        parts = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "proxy"}
        file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config"} | parts))
        return file

    async def _start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(
            f"https://{self._api.address}",
            connector=aiohttp.TCPConnector(ssl=self._api.tls, limit=0),
            timeout=timeout,
            auto_decompress=True,
        )
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        for task in self._watches:
            task.cancel()
        await self._runner.cleanup()
        await self._session.close()

    def _end_watches(self, last_words: bytes) -> None:
        self._last_words = last_words
        for task in self._watches:
            task.cancel()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        number = self.writes
        asked = Asked(request.method, request.path, request.query, number)
        self.writes += asked.is_write
        try:
            instead = await self.fault.before(asked)
            if instead:
                return _response(instead)
            return await (self._watch if asked.is_watch else self._pass)(request, asked)
        except (Cut, aiohttp.ClientError, ConnectionError):
            if request.transport:
                request.transport.abort()
            return web.Response(status=502)

    def _upstream(self, request: web.Request, body: bytes | None) -> Any:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in SKIPPED_HEADERS}
        return self._session.request(request.method, request.rel_url, data=body, headers=headers)

    async def _pass(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        async with self._upstream(request, await request.read() or None) as upstream:
            body = await upstream.read()
            kept = ("content-type", "retry-after")
            headers = {key: value for key, value in upstream.headers.items() if key.lower() in kept}
        return _response(await self.fault.after(asked, Answer(upstream.status, body, headers)))

    async def _watch(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._watches.add(task)
        try:
            async with self._upstream(request, None) as upstream:
                if upstream.status != 200:
                    return _response(Answer(upstream.status, await upstream.read()))
                await response.prepare(request)
                async for line in self.fault.stream(asked, _lines(upstream)):
                    await response.write(line)
        except asyncio.CancelledError:
            if task.uncancel() or not response.prepared:
                raise
            with contextlib.suppress(ConnectionError):
                await response.write(self._last_words)
        finally:
            self._watches.discard(task)
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response


async def _lines(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines, however long."""
    kept = b""
    async for data in upstream.content.iter_any():
        *whole, kept = (kept + data).split(b"\n")
        for line in whole:
            if line:
                yield line + b"\n"


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": "application/json"} | dict(answer.headers)
    return web.Response(status=answer.status, body=answer.body, headers=headers)
