"""An ASGI middleware for vLLM's ``--middleware``: closes the routes that its API key leaves open.

It also opens one: the operator, which never sees the key, asks a chat by a token of its own, of which the pod knows the
hash (``GEMMASPEC_ASKER_SHA256``).

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

__all__ = ["ASKED", "OPEN", "Guard"]

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]

OPEN: Final = frozenset({"/health", "/ping", "/metrics"})
"""Paths that answer without the key: the kubelet has none, and NetworkPolicies say who may scrape."""
ASKED: Final = ("POST", "/v1/chat/completions")
"""What the operator's token opens."""
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
        self._key = key.encode()
        self._digest = hashlib.sha256(self._key).digest() if key else b""
        self._asker = _bytes(os.environ.get("GEMMASPEC_ASKER_SHA256", ""))

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """One request or connection."""
        if self._admits(scope):
            await self._app(scope, receive, send)
        elif self._asks(scope):
            await self._app(self._with_key(scope), receive, send)
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

    def _asks(self, scope: Scope) -> bool:
        """Whether this is the operator's warm-up: a chat, by its token."""
        if not self._asker or scope["type"] != "http" or (scope["method"], scope["path"]) != ASKED:
            return False
        return _bears(scope.get("headers", ()), self._asker)

    def _with_key(self, scope: Scope) -> Scope:
        """The request with the key, for which vLLM itself asks."""
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"authorization"]
        return {**scope, "headers": [*headers, (b"authorization", b"Bearer " + self._key)]}

    def _knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        return _bears(headers, self._digest)


def _bears(headers: Iterable[tuple[bytes, bytes]], digest: bytes) -> bool:
    """Whether the bearer token is the one of this SHA-256."""
    given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
    scheme, _, key = given.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(hashlib.sha256(key).digest(), digest)


def _bytes(digest: str) -> bytes:
    """A digest from its hexadecimal form; nothing where it is none: no wrong value may stop the engine."""
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return b""
