"""The HTTP session through which kopf lists and watches, and what kopf is not told.

Of ConfigMaps only their metadata travels: the engine files in one are hundreds of kilobytes, and immutable. In full, a
thousand of them would be most of the operator's memory. What agents have learnt is read when it is given to one.

kopf parses every event with the standard library, and holds each object in a task of its own. The session takes the
objects out of lists and events, and tells them itself, in the order in which they came. Of a list kopf sees that it
has come, and of events how far the watch has: from there kopf resumes it.

A watch that ended with a 410 is followed by a new list, and kopf does not say which objects vanished in between:
they would stay in its indices for ever. The session reads the lists that pass through it. A 410 that comes as the
answer to a watch, and not within it, would end kopf 1.45: it is told as an event, which is followed by a new list.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import aiohttp
import orjson
from aiohttp.base_protocol import BaseProtocol

log = logging.getLogger("gemmaspec.watching")

OK: Final = 200
GONE: Final = 410
# Events of a watch that carry an object.
OBJECTS: Final = frozenset({"ADDED", "MODIFIED", "DELETED"})

# Metadata alone, as meta/v1 serves every kind.
METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
# Called with the plural, the namespace ("" for all), the uids of a whole list, and its resource version.
Listed = Callable[[str, str, frozenset[str], str], None]


@dataclass(frozen=True)
class Objects:
    """Who takes objects, of which kopf then sees nothing. kinds: those that this is about, by plural. listed: takes a
    kind, and one of a list. watched: takes a kind, the type of an event, and its object.
    """

    kinds: Mapping[str, str]
    listed: Callable[[str, Mapping[str, Any]], None]
    watched: Callable[[str, str, Mapping[str, Any]], None]


def session(
    trust: ssl.SSLContext,
    headers: Mapping[str, str],
    listed: Listed,
    objects: Objects,
    proxy: str | None = None,
    trust_env: bool = False,
) -> aiohttp.ClientSession:
    """A session for kopf, with its own connections: watches hold theirs open."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=trust),
        headers=headers,
        proxy=proxy,
        trust_env=trust_env,
        middlewares=(metadata_of_config_maps, expired_in_the_stream, _taking(objects)),
        response_class=_answers(Lists(listed), objects),
    )


async def metadata_of_config_maps(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Ask for metadata where ConfigMaps are listed or watched."""
    if request.url.path.endswith("/configmaps"):
        request.headers["Accept"] = METADATA.format("" if "watch" in request.url.query else "List")
    return await handler(request)


async def expired_in_the_stream(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Make a watch of one event, the 410, from a watch that was refused with it."""
    response = await handler(request)
    if response.status == GONE and "watch" in request.url.query:
        event = {"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": GONE, "reason": "Expired"}}
        await response.read()
        loop = asyncio.get_running_loop()
        response.status = 200
        response.content = aiohttp.StreamReader(BaseProtocol(loop), 2**16, loop=loop)
        response.content.feed_data(orjson.dumps(event) + b"\n")
        response.content.feed_eof()
    return response


def _taking(objects: Objects) -> aiohttp.ClientMiddlewareType:
    async def taking(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        response = await handler(request)
        kind = objects.kinds.get(request.url.path.rpartition("/")[2])
        if kind is not None and response.status == OK and "watch" in request.url.query:
            stream = TakenStream(response.content, partial(objects.watched, kind))
            response.content = cast("aiohttp.StreamReader", stream)
        return response

    return taking


class TakenStream:
    """The lines of a watch without their objects, in the way in which kopf reads them."""

    def __init__(self, stream: aiohttp.StreamReader, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._stream = stream
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Whole lines, as they come."""
        rest = b""
        async for chunk in self._stream.iter_chunked(size):
            *lines, rest = (rest + chunk).split(b"\n")
            if left := b"".join(self._left(lines)):
                yield left
        if rest:
            yield rest

    def _left(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """What kopf sees: where the last object stands, and what carries none."""
        version = None
        for line in filter(None, lines):
            event = orjson.loads(line)
            if event["type"] in OBJECTS:
                version = self._take(event["type"], event["object"])
                continue
            if version is not None:
                yield _reached(version)
                version = None
            yield line + b"\n"
        if version is not None:
            yield _reached(version)

    def _take(self, kind: str, body: Mapping[str, Any]) -> str:
        try:
            self._tell(kind, body)
        except Exception:  # of one object: the watch goes on
            log.exception("an event can't be read: %s %s", kind, body.get("metadata"))
        return str(body["metadata"]["resourceVersion"])


def _reached(version: str) -> bytes:
    """A bookmark, from which kopf resumes a watch."""
    return orjson.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}) + b"\n"


def _answers(lists: Lists, objects: Objects) -> type[aiohttp.ClientResponse]:
    class Answer(aiohttp.ClientResponse):
        """An answer whose JSON is parsed by orjson, since lists are long, and looked at."""

        async def json(self, **_: Any) -> Any:
            parsed = orjson.loads(await self.read())
            if isinstance(parsed, dict) and parsed.get("items", ()) is None:
                parsed["items"] = []  # an empty list of metadata, which kopf can't iterate over
            kind = objects.kinds.get(self.url.path.rpartition("/")[2])
            taken = isinstance(parsed, dict) and "items" in parsed and kind is not None
            if taken:
                for item in parsed["items"]:
                    objects.listed(str(kind), item)
            lists.passed(self.url.path, "continue" in self.url.query, parsed)
            return {**parsed, "items": []} if taken else parsed

    return Answer


class Lists:
    """Puts the chunks of lists together."""

    def __init__(self, listed: Listed) -> None:
        self._listed = listed
        self._uids: dict[str, set[str]] = {}

    def passed(self, path: str, continued: bool, parsed: Any) -> None:
        """An answer has come. Tells ``listed`` when it ends a list."""
        if not isinstance(parsed, dict) or not isinstance(parsed.get("items"), list):
            return
        uids = {item["metadata"]["uid"] for item in parsed["items"]}
        known = self._uids[path] = uids | (self._uids.get(path, set()) if continued else set())
        metadata = parsed.get("metadata", {})
        if metadata.get("continue"):
            return
        del self._uids[path]
        parts = path.split("/")
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts[:-1] else ""
        self._listed(parts[-1], namespace, frozenset(known), str(metadata.get("resourceVersion", "")))
