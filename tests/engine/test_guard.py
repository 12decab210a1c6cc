"""The guard by itself: which requests reach the application. On real vLLM: e2e/test_serves.py."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from gemmaspec_engine.guard import Guard

KEY = b"correct-horse"


def answer(scope: dict[str, Any]) -> list[Any]:
    """What is sent back; ``reached`` where the application was asked."""
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        sent.append("reached")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(app)(scope, None, send))
    return sent


def request(path: str, authorization: bytes = b"", method: str = "GET") -> dict[str, Any]:
    headers = [(b"Authorization", authorization)] if authorization else []
    return {"type": "http", "method": method, "path": path, "headers": headers}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY.decode())


@pytest.mark.parametrize("path", ["/health", "/ping", "/metrics"])
def test_probes_and_scrapes_need_no_key(path: str) -> None:
    assert answer(request(path)) == ["reached"]


@pytest.mark.parametrize("path", ["/tokenize", "/invocations", "/v1/models", "/", "/health/", "//health", "/metrics/x"])
def test_everything_else_needs_it(path: str) -> None:
    start, body = answer(request(path))
    assert start["status"] == 401
    assert b"API key" in body["body"]
    assert answer(request(path, b"Bearer " + KEY)) == ["reached"]


@pytest.mark.parametrize(
    "given", [b"Bearer ", b"Bearer correct-hors", b"Basic correct-horse", b"correct-horse", KEY * 2]
)
def test_nothing_but_the_key_opens(given: bytes) -> None:
    assert answer(request("/tokenize", given))[0]["status"] == 401


TOKEN = b"of-the-operator"
CHAT = "/v1/chat/completions"


def asked(monkeypatch: pytest.MonkeyPatch, scope: dict[str, Any]) -> Any:
    """The request as the application gets it; None where it is sent away."""
    monkeypatch.setenv("GEMMASPEC_ASKER_SHA256", hashlib.sha256(TOKEN).hexdigest())
    reached = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope)

    async def send(_message: Any) -> None:
        """Not looked at."""

    asyncio.run(Guard(app)(scope, None, send))
    return reached[0] if reached else None


def test_the_operator_asks_a_chat_without_knowing_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asked(monkeypatch, request(CHAT, b"Bearer " + TOKEN, "POST"))
    assert reached["headers"] == [(b"authorization", b"Bearer " + KEY)], "vLLM asks for the key itself"


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("POST", CHAT, b"Bearer other"),
        ("POST", CHAT, b""),
        ("GET", CHAT, b"Bearer " + TOKEN),
        ("POST", "/v1/completions", b"Bearer " + TOKEN),
        ("POST", "/tokenize", b"Bearer " + TOKEN),
    ],
)
def test_its_token_opens_nothing_else(monkeypatch: pytest.MonkeyPatch, method: str, path: str, given: bytes) -> None:
    assert asked(monkeypatch, request(path, given, method)) is None


def test_a_digest_that_is_none_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMASPEC_ASKER_SHA256", "")
    assert answer(request(CHAT, b"Bearer ", "POST"))[0]["status"] == 401


def test_a_websocket_without_the_key_is_closed() -> None:
    assert answer({"type": "websocket", "path": "/v1/realtime", "headers": []})[0]["type"] == "websocket.close"


def test_browsers_may_ask_first_and_the_server_may_start() -> None:
    assert answer(request("/v1/models", method="OPTIONS")) == ["reached"]
    assert answer({"type": "lifespan"}) == ["reached"]


def test_without_a_key_nothing_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    assert answer(request("/tokenize")) == ["reached"]
