"""Lists that pass through kopf's session."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from kopf._cogs.clients.api import iter_jsonlines

from gemmaspec.runtime.watching import Listed, Lists, Objects, session

NOTHING = Objects({}, lambda *_: None, lambda *_: None)
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
    objects: Objects,
    listed: Listed = lambda *_: None,
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Our session, and the address of a real HTTP server that answers like this."""
    application = web.Application()
    application.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with session(ssl.create_default_context(), {}, listed, objects) as ours:
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


async def test_objects_go_past_kopf_and_what_carries_none_does_not() -> None:
    """Of events kopf sees how far they have come, so that it resumes there."""

    def event(what: str, version: int) -> dict[str, Any]:
        metadata = {"uid": "a", "resourceVersion": str(version)}
        return {"type": what, "object": {"metadata": metadata, "spec": {"text": "x" * 100_000}}}

    error = {"type": "ERROR", "object": {"code": 500}}
    events = [event("ADDED", 8), event("MODIFIED", 9), reached(11), error, event("DELETED", 13)]

    async def serve(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "3"}, "items": [event("", 2)["object"]]})
        response = web.StreamResponse()
        await response.prepare(request)
        raw = "".join(json.dumps(event) + "\n" for event in events).encode()
        for start in range(0, len(raw), 30_000):
            await response.write(raw[start : start + 30_000])
        return response

    listed: list[tuple[str, str]] = []
    watched: list[tuple[str, str, str]] = []

    def watch(kind: str, what: str, body: Mapping[str, Any]) -> None:
        watched.append((kind, what, body["metadata"]["resourceVersion"]))
        if what == "MODIFIED":
            raise ValueError("this one can't be read")

    objects = Objects({"pods": "Pod"}, lambda kind, body: listed.append((kind, body["metadata"]["uid"])), watch)
    async with ours_at(serve, objects) as (ours, at):
        async with ours.get(f"{at}/api/v1/pods") as response:
            assert (await response.json())["items"] == [], "kopf would hold each in a task of its own"
            assert listed == [("Pod", "a")]
        async with ours.get(f"{at}/api/v1/pods?watch=true") as response:
            lines = [json.loads(line) async for line in iter_jsonlines(response.content)]
        async with ours.get(f"{at}/api/v1/events?watch=true") as response:
            assert [json.loads(line) async for line in iter_jsonlines(response.content)] == events, "not ours to take"
    assert watched == [("Pod", "ADDED", "8"), ("Pod", "MODIFIED", "9"), ("Pod", "DELETED", "13")]
    seen = [line for line in lines if line not in (reached(8), reached(9))]  # as they come, or one for both
    assert seen == [reached(11), error, reached(13)]
    assert reached(9) in lines


def reached(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}
