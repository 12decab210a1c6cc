"""An ASGI middleware for vLLM's ``--middleware``: closes the routes that its API key leaves open.

vLLM asks for the key under ``/v1`` only; tokenizing, pooling, ``/invocations``, LoRA and development routes answer
anybody. With a key set, the guard lets through without it what probes and Prometheus need, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

__all__ = ["OPEN", "Guard"]

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]

OPEN: Final = frozenset({"/health", "/ping", "/metrics"})
"""Paths that answer without the key: the kubelet has none, and NetworkPolicies say who may scrape."""
_DENIED: Final = json.dumps(
    {"error": {"message": "this route needs the API key: Authorization: Bearer …", "type": "Unauthorized", "code": 401}}
).encode()
# RFC 6455, 7.4.1: the endpoint is terminating the connection because of a policy.
_POLICY_VIOLATION: Final = 1008


class Guard:
    """Asks for the key (``VLLM_API_KEY``) on every path but the open ones; without a key it lets everything through."""

    def __init__(self, app: App) -> None:
        self._app = app
        key = os.environ.get("VLLM_API_KEY", "")
        self._digest = hashlib.sha256(key.encode()).digest() if key else b""

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """One request or connection."""
        if self._admits(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _DENIED})

    def _admits(self, scope: Scope) -> bool:
        if not self._digest or scope["type"] not in ("http", "websocket"):
            return True
        if scope["type"] == "http" and (scope["method"] == "OPTIONS" or scope["path"] in OPEN):
            return True  # a browser's preflight request carries no key
        return self._knows(scope.get("headers", ()))

    def _knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(hashlib.sha256(key).digest(), self._digest)
