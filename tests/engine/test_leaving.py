"""An engine that leaves: the middleware by itself, and the launcher's side of it. On real vLLM: e2e/test_serves.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gemmaspec.core import pod
from gemmaspec_engine import leaving
from gemmaspec_engine.leaving import SECRET, Leaving

PATH = "/gemmaspec/leave/made-up"


def request(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": []}


class Server:
    """The middleware over an application whose answers end when they are told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.front = Leaving(self._app)
        self.sent: list[Any] = []

    async def _app(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
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


def test_the_pod_has_the_time_that_the_launcher_takes() -> None:
    assert pod.PARTING_SECONDS == leaving.PARTING_SECONDS
