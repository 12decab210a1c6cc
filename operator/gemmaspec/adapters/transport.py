"""Ways to the HTTP port of an engine's pod: straight to it, or through the API server's proxy.

The proxy takes the caller's credentials away and passes the rest on: an engine that wants an API key of its own can't
be asked through it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import aiohttp

from gemmaspec.adapters.cluster import ApiFailure, Cluster

ASK_SECONDS: Final = 15.0


class Unreached(Exception):
    """No answer, or another one than 200. ``status`` is the HTTP status, 0 where there was none."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}" if status else message)
        self.status = status


class Transport(Protocol):
    """A way to one port."""

    @property
    def where(self) -> str:
        """Where it leads, for messages."""

    async def get(self, path: str) -> str:
        """The text at a path. Raises Unreached."""

    async def put(self, path: str, body: Mapping[str, Any]) -> str:
        """The answer to a PUT of JSON. Raises Unreached."""

    def post(self, path: str, body: Mapping[str, Any], seconds: float) -> AbstractAsyncContextManager[Lines]:
        """The answer to a POST of JSON, line by line as it comes. Raises Unreached, while it is read too."""


Lines = AsyncIterable[bytes]


class Direct:
    """Straight to a port: ``url`` without a trailing slash; ``bearer`` is an API key, or an agent's token."""

    def __init__(self, url: str, bearer: str = "") -> None:
        self.where = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> str:
        """See Transport."""
        async with self._answer("GET", path, None, ASK_SECONDS) as response:
            return await response.text()

    async def put(self, path: str, body: Mapping[str, Any]) -> str:
        """See Transport."""
        async with self._answer("PUT", path, body, ASK_SECONDS) as response:
            return await response.text()

    @asynccontextmanager
    async def post(self, path: str, body: Mapping[str, Any], seconds: float) -> AsyncIterator[Lines]:
        """See Transport."""
        async with self._answer("POST", path, body, seconds) as response:
            yield response.content

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=self._headers)
        limit = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(
                method, self.where + path, json=body, timeout=limit, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise Unreached(response.status, said(await response.text()))
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreached(0, f"{self.where}: {type(error).__name__}: {error}") from error


class Proxied:
    """A port through the API server: the right to `get` and `create` pods/proxy (or services/proxy) is enough.

    kind: `pods` or `services`.
    """

    def __init__(self, cluster: Cluster, namespace: str, kind: str, name: str, port: int) -> None:
        self.where = f"{kind}/{name} in {namespace}, port {port}"
        self._cluster = cluster
        self._base = f"/api/v1/namespaces/{namespace}/{kind}/{name}:{port}/proxy"

    async def get(self, path: str) -> str:
        """See Transport."""
        try:
            return await self._cluster.get_text(self._base + path)
        except ApiFailure as failure:
            raise Unreached(failure.status, f"{self.where}: {failure.message}") from failure

    async def put(self, path: str, body: Mapping[str, Any]) -> str:
        """See Transport."""
        raise Unreached(0, f"{self.where}: PUT {path} of {len(body)} fields: settings do not go through the API server")

    @asynccontextmanager
    async def post(self, path: str, body: Mapping[str, Any], seconds: float) -> AsyncIterator[Lines]:
        """See Transport."""
        try:
            async with self._cluster.opened("POST", self._base + path, body, seconds) as content:
                yield content
        except ApiFailure as failure:
            raise Unreached(failure.status, f"{self.where}: {failure.message}") from failure


def said(text: str) -> str:
    """What an error's body says, in one line."""
    try:
        told = json.loads(text)
        inner = told.get("error", told.get("message", told)) if isinstance(told, dict) else told
        words = inner.get("message", inner) if isinstance(inner, dict) else inner
    except ValueError:
        words = text
    return " ".join(str(words).split())[:300] or "no words"
