"""An engine that leaves: the middleware by itself, and the launcher's side of it. On real vLLM: e2e/test_serves.py."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gemmaspec.core import pod
from gemmaspec_engine import leaving
from gemmaspec_engine.leaving import DRAIN, SECRET, Leaving

PATH = "/gemmaspec/leave/made-up"


def request(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": []}


class Server:
    """The middleware over an application whose answers end when they are told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.front = Leaving(self._app)
        self.sent: list[Any] = []

    async def _app(self, scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/whole":
            await self.go.wait()
        kind = b"text/event-stream" if scope["path"] == "/stream" else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await self.go.wait()
        await send({"type": "http.response.body", "body": b"."})

    async def ask(self, path: str) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.front(request(path), None, send)
        return sent


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "made-up")


def closes(sent: list[Any]) -> bool:
    return (b"connection", b"close") in sent[0]["headers"]


async def test_the_answer_comes_when_nothing_runs_any_more() -> None:
    server = Server()
    running = asyncio.create_task(server.ask("/v1/completions"))
    await asyncio.sleep(0.01)
    going = asyncio.create_task(server.ask(PATH))
    await asyncio.sleep(0.3)
    late = asyncio.create_task(server.ask("/v1/completions"))
    await asyncio.sleep(1.2)
    assert not going.done(), "two requests run"
    server.go.set()
    assert not closes(await running), "its answer had begun before"
    assert closes(await late)
    assert (await asyncio.wait_for(going, 20))[0]["status"] == 200


async def test_before_that_connections_stay() -> None:
    server = Server()
    server.go.set()
    assert not closes(await server.ask("/v1/models"))


@pytest.mark.parametrize("path", ["/gemmaspec/leave/", "/gemmaspec/leave/guessed", "/gemmaspec/leave/made-up/x"])
async def test_only_the_launcher_can_ask(path: str) -> None:
    server = Server()
    server.go.set()
    assert (await server.ask(path))[-1]["body"] == b".", "the application answers"
    assert not closes(await server.ask("/v1/models"))


async def test_without_a_secret_nobody_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET)
    server = Server()
    server.go.set()
    assert (await server.ask("/gemmaspec/leave/"))[-1]["body"] == b"."


async def begun(server: Server, path: str) -> asyncio.Task[list[Any]]:
    """A request that runs."""
    found = asyncio.create_task(server.ask(path))
    await asyncio.sleep(0.01)
    return found


def error(body: bytes) -> str:
    return str(json.loads(body)["error"]["message"])


@pytest.mark.parametrize("drain", ["0", "1.2", "no number"])
async def test_what_outlasts_the_drain_is_cut_with_an_error(monkeypatch: pytest.MonkeyPatch, drain: str) -> None:
    monkeypatch.setenv(DRAIN, drain)
    monkeypatch.setattr(leaving, "PARTING_SECONDS", 1.2)
    server = Server()
    stream, whole, nearly = [await begun(server, path) for path in ("/stream", "/whole", "/other")]
    assert (await server.ask(PATH))[0]["status"] == 200, "the launcher is answered though they run"
    await asyncio.sleep(0.4 if drain == "1.2" else 0.0)
    server.go.set()
    events, answer = await stream, await whole
    assert events[0]["status"] == 200
    assert "drainSeconds" in error(events[1]["body"].removeprefix(b"data: "))
    assert len(events) == 2, "and that is its end"
    assert answer[0]["status"] == 503
    assert "drainSeconds" in error(answer[1]["body"])
    assert closes(answer)
    assert (await nearly)[-1]["body"] == b"."


async def test_what_ends_within_the_drain_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DRAIN, "60")
    monkeypatch.setattr(leaving, "PARTING_SECONDS", 1.2)
    server = Server()
    stream = await begun(server, "/stream")
    await server.ask(PATH)
    server.go.set()
    assert (await stream)[-1]["body"] == b"."


async def test_an_engine_that_has_left_takes_no_more_requests() -> None:
    server = Server()
    server.go.set()
    await server.ask(PATH)
    refused = await server.ask("/v1/completions")
    assert refused[0]["status"] == 503
    assert "leaving" in error(refused[1]["body"])
    assert closes(refused)
    assert (await server.ask("/health"))[-1]["body"] == b".", "who looks after it is answered as ever"


def test_the_pod_has_the_time_that_the_launcher_takes() -> None:
    assert pod.PARTING_SECONDS == leaving.PARTING_SECONDS
