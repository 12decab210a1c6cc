"""Lists that pass through kopf's session."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from kopf._cogs.clients.api import iter_jsonlines

from gemmaspec.runtime.watching import Listed, Lists, Reduction, session

NOTHING = Reduction({}, lambda *_: None, lambda _, body: body)
PODS = "/api/v1/namespaces/llm/pods"


def answer(*uids: str, version: str = "7", more: str = "") -> dict[str, Any]:
    return {
        "metadata": {"resourceVersion": version, "continue": more},
        "items": [{"metadata": {"uid": u}} for u in uids],
    }


def test_a_list_is_told_once_it_is_whole() -> None:
    told: list[Any] = []
    lists = Lists(lambda *what: told.append(what))
    lists.passed(PODS, False, answer("a", "b", more="next"))
    lists.passed("/apis/apps/v1/deployments", False, answer("d"))
    lists.passed(PODS, True, answer("c"))
    lists.passed(PODS, False, answer("a"))
    assert told == [
        ("deployments", "", frozenset("d"), "7"),
        ("pods", "llm", frozenset("abc"), "7"),
        ("pods", "llm", frozenset("a"), "7"),
    ]


def test_a_list_that_broke_off_is_begun_anew() -> None:
    told: list[Any] = []
    lists = Lists(lambda *what: told.append(what))
    lists.passed(PODS, False, answer("a", more="next"))
    lists.passed(PODS, False, answer("b"))
    assert told == [("pods", "llm", frozenset("b"), "7")]


def test_other_answers_are_not_lists() -> None:
    told: list[Any] = []
    lists = Lists(lambda *what: told.append(what))
    for parsed in ({"kind": "APIResourceList", "resources": []}, [], "text", {"items": None}):
        lists.passed("/api/v1", False, parsed)
    assert told == []


@asynccontextmanager
async def ours_at(
    serve: Callable[[web.Request], Awaitable[web.StreamResponse]],
    reduction: Reduction,
    listed: Listed = lambda *_: None,
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Our session, and the address of a real HTTP server that answers like this."""
    application = web.Application()
    application.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with session(ssl.create_default_context(), {}, listed, reduction) as ours:
        yield ours, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_session_asks_for_metadata_and_tells_a_refused_watch_as_an_expired_one() -> None:
    asked: list[tuple[str, str]] = []

    async def serve(request: web.Request) -> web.Response:
        asked.append((request.path_qs, request.headers["Accept"]))
        if "watch" in request.query:
            return web.json_response({"kind": "Status", "code": 410}, status=410)
        return web.json_response({"metadata": {"resourceVersion": "3"}, "items": None})

    told: list[Any] = []
    async with ours_at(serve, NOTHING, lambda *what: told.append(what)) as (ours, at):
        async with ours.get(f"{at}/api/v1/configmaps") as response:
            assert (await response.json())["items"] == [], "kopf iterates over them"
        async with ours.get(f"{at}/api/v1/configmaps?watch=true") as response:
            assert response.status == 200
            events = [json.loads(line) async for line in response.content]
        async with ours.get(f"{at}/api/v1/pods") as response:
            assert response.status == 200
    assert [event["object"]["code"] for event in events] == [410]
    assert told == [("configmaps", "", frozenset(), "3")]
    assert [accept.partition(";g=")[0] for _, accept in asked] == [
        "application/json;as=PartialObjectMetadataList",
        "application/json;as=PartialObjectMetadata",
        "*/*",
    ]


async def test_events_and_lists_are_reduced_and_what_carries_no_object_is_not() -> None:
    added = {"type": "ADDED", "object": {"metadata": {"uid": "a"}, "spec": {"text": "x" * 100_000}}}
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    events = [added, bookmark, {"type": "ERROR", "object": {"code": 500}}, added]

    async def serve(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "3"}, "items": [added["object"]]})
        response = web.StreamResponse()
        await response.prepare(request)
        raw = "".join(json.dumps(event) + "\n" for event in events).encode()
        for start in range(0, len(raw), 30_000):
            await response.write(raw[start : start + 30_000])
        return response

    taken: list[tuple[str, str]] = []
    reduction = Reduction(
        {"pods": "Pod"},
        lambda kind, body: taken.append((kind, body["metadata"]["uid"])),
        lambda kind, body: {"uid": body["metadata"]["uid"], "watched": kind},
    )
    async with ours_at(serve, reduction) as (ours, at):
        async with ours.get(f"{at}/api/v1/pods") as response:
            assert (await response.json())["items"] == [], "kopf would hold each in a task of its own"
            assert taken == [("Pod", "a")]
        async with ours.get(f"{at}/api/v1/pods?watch=true") as response:
            lines = [line async for line in iter_jsonlines(response.content)]
    seen = {"type": "ADDED", "object": {"uid": "a", "watched": "Pod"}}
    assert [json.loads(line) for line in lines] == [seen, *events[1:3], seen]
