"""A fake of vLLM's chat endpoint: streams numbered tokens, several a chunk, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class FakeEngine:
    """failures: how many of the next requests to answer with `failure`: a status, or "break" off the stream."""

    per_chunk: int = 4
    failures: int = 0
    failure: int | str = 503
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    url: str = ""

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        self.asked.append(question)
        self.keys.add(request.headers.get("Authorization", ""))
        failing = self.failures > 0
        self.failures -= failing
        if failing and isinstance(self.failure, int):
            return web.json_response({"error": {"message": "not now"}}, status=self.failure)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for done in range(0, question["max_tokens"], self.per_chunk):
            tokens = min(done + self.per_chunk, question["max_tokens"])
            await self._send(stream, tokens)
            if failing:
                assert request.transport is not None
                request.transport.abort()
                return stream
        await stream.write(b"data: [DONE]\n\n")
        return stream

    async def _send(self, stream: web.StreamResponse, tokens: int) -> None:
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "fake",
            "choices": [{"index": 0, "delta": {"content": "x" * self.per_chunk}, "finish_reason": None}],
            "usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3},
        }
        await stream.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeEngine]:
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()
