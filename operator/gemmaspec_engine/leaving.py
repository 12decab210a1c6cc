"""An engine that leaves: its clients go elsewhere, its requests end, and only then is it told to stop.

A Service takes a leaving pod out of its endpoints, but connections stay where they are, and clients keep theirs for
the next request; vLLM refuses that one once it was told to stop. So the launcher asks first, over a path that an ASGI
middleware answers in vLLM's API server: from then on each response closes its connection, and the answer comes when no
request runs any more.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from gemmaspec_engine import health

__all__ = ["MIDDLEWARE", "PARTING_SECONDS", "SECRET", "Leaving", "Parting"]

MIDDLEWARE: Final = "gemmaspec_engine.leaving.Leaving"
SECRET: Final = "GEMMASPEC_LEAVING"  # noqa: S105 (a variable's name)
"""Variable with what the launcher made up for this boot, so that nobody else can ask."""
_PATH: Final = "/gemmaspec/leave/"
PARTING_SECONDS: Final = 10
"""How long clients may take to leave. Then vLLM hears of the stop, and its own drain lets running requests end: where
this is the only engine, kube-proxy goes on to send it new ones, and there would be no end of them."""
_POLL_SECONDS: Final = 0.1
# A client that has just read the end of an answer sends its next request within this time, or finds the end of the
# connection before it does.
_SILENT_SECONDS: Final = 1.0

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


class Leaving:
    """Counts requests, closes connections behind answers once the engine leaves, and tells when none is left."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._path = _PATH + os.environ.get(SECRET, "")
        self._running = 0
        self._idle_since = time.monotonic()
        self._leaving = False

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """One request or connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif hmac.compare_digest(scope["path"].encode(), self._path.encode()) and self._path != _PATH:
            await self._leave(send)
        else:
            await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Any, send: Send) -> None:
        async def sent(message: MutableMapping[str, Any]) -> None:
            if self._leaving and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        self._running += 1
        try:
            await self._app(scope, receive, sent)
        finally:
            self._running -= 1
            self._idle_since = time.monotonic()

    async def _leave(self, send: Send) -> None:
        """Answer once nothing has run for a moment; the launcher does not wait for ever."""
        self._leaving = True
        self._idle_since = time.monotonic()
        while self._running or time.monotonic() - self._idle_since < _SILENT_SECONDS:
            await asyncio.sleep(_POLL_SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})


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
