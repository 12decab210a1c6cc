"""An engine that leaves: its clients go elsewhere, its requests end, and only then is it told to stop.

A Service takes a leaving pod out of its endpoints, but connections stay where they are, and clients keep theirs for
the next request. So the launcher asks first, over a path that an ASGI middleware answers in vLLM's API server: from
then on each response closes its connection, and the answer comes when no request runs any more, or at the end of the
time for it. After that the middleware refuses what is new, and a moment before vLLM's drain is over it ends what still
runs. Both are told an error that says why: vLLM 0.32 by itself kills its core then and leaves open streams without an
end until it is killed, and answers new requests with status 500 and words about its own futures.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from gemmaspec_engine import health
from gemmaspec_engine.guard import OPEN

__all__ = ["DRAIN", "MIDDLEWARE", "PARTING_SECONDS", "SECRET", "Leaving", "Parting"]

MIDDLEWARE: Final = "gemmaspec_engine.leaving.Leaving"
SECRET: Final = "GEMMASPEC_LEAVING"  # noqa: S105 (a variable's name)
"""Variable with what the launcher made up for this boot, so that nobody else can ask."""
DRAIN: Final = "GEMMASPEC_DRAIN_SECONDS"
"""Variable with the seconds of vLLM's own drain, ``--shutdown-timeout``."""
_PATH: Final = "/gemmaspec/leave/"
PARTING_SECONDS: Final = 10
"""How long clients may take to leave. Then vLLM hears of the stop, and its own drain lets running requests end: where
this is the only engine, kube-proxy goes on to send it new ones, and there would be no end of them."""
_POLL_SECONDS: Final = 0.1
# A client that has just read the end of an answer sends its next request within this time, or finds the end of the
# connection before it does.
_SILENT_SECONDS: Final = 1.0
# The answer reaches the launcher, and an error its client, so long before somebody else's clock runs out.
_EARLY_SECONDS: Final = 1.0

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


class _Request:
    """One that runs: passes on what the application answers, until it is cut."""

    def __init__(self, send: Send, closes: Callable[[], bool]) -> None:
        self._send, self._closes = send, closes
        self._kind: bytes | None = None
        self._over = False

    async def send(self, message: Message) -> None:
        """From the application; after the end it speaks to nobody, and hears so from the server."""
        if self._over:
            return
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            self._kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
            message["headers"] = [*headers, (b"connection", b"close")] if self._closes() else headers
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._over = True
        await self._send(message)

    async def cut(self, words: str) -> None:
        """End it with an error: a status where none was sent yet, an event in a stream of them. Any other answer that
        has begun is nearly whole.
        """
        streams = self._kind is not None and self._kind.startswith(b"text/event-stream")
        if self._over or not (streams or self._kind is None):
            return
        self._over = True
        if streams:
            await self._send({"type": "http.response.body", "body": b"data: " + _error(words) + b"\n\n"})
        else:
            await refuse(self._send, words)


async def refuse(send: Send, words: str) -> None:
    """503, as vLLM writes its errors."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _error(words)})


def _error(words: str) -> bytes:
    return json.dumps({"error": {"message": words, "type": "ServiceUnavailable", "param": None, "code": 503}}).encode()


class Leaving:
    """Counts requests, closes connections behind answers once the engine leaves, and tells when none is left.

    Then it takes no more, and ends with an error what runs for longer than the drain (``GEMMASPEC_DRAIN_SECONDS``).
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._path = _PATH + os.environ.get(SECRET, "")
        self._drain = _seconds(os.environ.get(DRAIN, ""))
        self._running: set[_Request] = set()
        self._idle_since = time.monotonic()
        self._leaving = self._gone = False
        self._end: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """One request or connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif hmac.compare_digest(scope["path"].encode(), self._path.encode()) and self._path != _PATH:
            await self._leave(send)
        elif self._gone and scope["path"] not in OPEN:
            await refuse(send, "this engine is leaving and takes no more requests: ask again")
        else:
            await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Any, send: Send) -> None:
        request = _Request(send, lambda: self._leaving)
        self._running.add(request)
        try:
            await self._app(scope, receive, request.send)
        finally:
            self._running.discard(request)
            self._idle_since = time.monotonic()

    async def _leave(self, send: Send) -> None:
        """Answer once nothing has run for a moment, or before the launcher stops to wait."""
        self._leaving = True
        self._idle_since = time.monotonic()
        latest = self._idle_since + PARTING_SECONDS - _EARLY_SECONDS
        while time.monotonic() < latest and (self._running or time.monotonic() - self._idle_since < _SILENT_SECONDS):
            await asyncio.sleep(_POLL_SECONDS)
        self._gone = True
        if self._drain <= _EARLY_SECONDS:
            await self._cut(0.0)
        elif self._end is None:
            self._end = asyncio.create_task(self._cut(self._drain - _EARLY_SECONDS))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})

    async def _cut(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        words = f"cut after the {self._drain:g} s that a leaving engine's requests have (spec.rollout.drainSeconds)"
        await asyncio.gather(*(request.cut(words) for request in self._running), return_exceptions=True)


def _seconds(text: str) -> float:
    """A length of time; none where it is not one: no wrong value may stop the engine."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0


class Parting:
    """The launcher's side: asks the engine to leave, in a thread, and knows when it may be told to stop."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._asked: threading.Thread | None = None
        self.secret = secrets.token_hex(16)

    def over(self) -> bool:
        """Whether nothing runs any more, or the time for it is over, or nobody answers. The first call begins it."""
        if self._asked is None:
            self._asked = threading.Thread(target=self._ask, daemon=True, name="parting")
            self._asked.start()
        return not self._asked.is_alive()

    def _ask(self) -> None:
        health.status(*self._target, _PATH + self.secret, PARTING_SECONDS)
