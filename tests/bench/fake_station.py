"""A fake of an engine with its agent: vLLM's chat endpoint and counters, the agent's /metrics and PUT /k, no model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

VLLM = """# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{engine="0"}} {generated}
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0"}} {running}
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_sum{{engine="0"}} {seconds}
vllm:inter_token_latency_seconds_count{{engine="0"}} {outputs}
"""
CHARACTERS_PER_TOKEN = 4


class FakeStation:
    """Each step takes ``step`` seconds and brings K + 1 tokens: all drafts are accepted.

    broken: status or words with which chats fail after so many. other_k: K that steps verify whatever is held.
    overhead: tokens of a prompt besides its text's.
    """

    def __init__(self, ks: tuple[int, ...] = (0, 1, 2), step: float = 0.002, token: str = "secret") -> None:
        self.ks, self.step, self.token = ks, step, token
        self.k, self.held, self.other_k = max(ks), None, None
        self.asked: list[dict[str, Any]] = []
        self.puts: list[dict[str, Any]] = []
        self.taught: list[dict[str, Any]] = []
        self.fail_after: int | None = None
        self.generated = self.running = 0
        self.steps, self.requests, self.tokens = (dict.fromkeys(ks, 0) for _ in range(3))
        self.url = self.agent_url = ""
        self.overhead = 0

    @property
    def now(self) -> int:
        """K of the next step."""
        if self.other_k is not None:
            return self.other_k
        return self.k if self.held is None else self.held

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake", "max_model_len": 8192}]})

    async def metrics(self, _: web.Request) -> web.Response:
        outputs = sum(self.requests.values())
        text = VLLM.format(generated=self.generated, running=self.running, seconds=outputs * self.step, outputs=outputs)
        return web.Response(text=text)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        self.asked.append(question)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        self.running += 1
        done = 0
        try:
            while done < question["max_tokens"]:
                if self.fail_after is not None and len(self.asked) > self.fail_after:
                    await stream.write(b'data: {"error": {"message": "the engine died"}}\n\n')
                    return stream
                await asyncio.sleep(self.step)
                k = self.now
                done = min(done + k + 1, question["max_tokens"])
                self._count(k, done, question)
                await self._send(stream, question, done)
            await stream.write(b"data: [DONE]\n\n")
        finally:
            self.running -= 1
        return stream

    def _count(self, k: int, done: int, question: dict[str, Any]) -> None:
        del done, question
        self.steps[k] += 1
        self.requests[k] += 1
        self.tokens[k] += k + 1
        self.generated += k + 1

    async def _send(self, stream: web.StreamResponse, question: dict[str, Any], done: int) -> None:
        length = len(question["messages"][0]["content"]) // CHARACTERS_PER_TOKEN + self.overhead
        usage = {"prompt_tokens": length, "completion_tokens": done}
        await stream.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())

    async def agent_metrics(self, _: web.Request) -> web.Response:
        lines = ["gemmaspec_agent_live 1"]
        if self.held is not None:
            lines.append(f"gemmaspec_agent_held_k {self.held}")
        for name, counts in (
            ("decisions_total", self.steps),
            ("decode_steps_total", self.steps),
            ("decode_requests_total", self.requests),
            ("decode_tokens_total", self.tokens),
            ("step_seconds_count", self.steps),
        ):
            lines += [f'gemmaspec_agent_{name}{{k="{k}"}} {count}' for k, count in counts.items()]
        lines += [f'gemmaspec_agent_step_seconds_sum{{k="{k}"}} {n * self.step}' for k, n in self.steps.items()]
        for position in range(max(self.ks)):
            drafts = sum(n for k, n in self.steps.items() if k > position)
            lines += [f'gemmaspec_agent_{n}_total{{position="{position}"}} {drafts}' for n in ("drafted", "accepted")]
        return web.Response(text="\n".join(lines) + "\n")

    async def put_k(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "bearer token missing or wrong"}, status=401)
        body = await request.json()
        self.puts.append(body)
        self.held = None if body["untilSeconds"] < 1 else body["k"]
        return web.json_response({})

    async def put_state(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "bearer token missing or wrong"}, status=401)
        self.taught.append(await request.json())
        return web.json_response({})

    @contextmanager
    def in_a_thread(self) -> Iterator[None]:
        """Answers from a thread of its own, for a command that runs its own loop."""
        ready, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

        async def serve() -> None:
            async with self.running_on():
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        assert ready.wait(60)
        yield
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()

    @asynccontextmanager
    async def running_on(self) -> AsyncIterator[FakeStation]:
        """Two ports of the loopback address."""
        engine, agent = web.Application(), web.Application()
        engine.router.add_get("/v1/models", self.models)
        engine.router.add_get("/metrics", self.metrics)
        engine.router.add_post("/v1/chat/completions", self.chat)
        agent.router.add_get("/metrics", self.agent_metrics)
        agent.router.add_put("/k", self.put_k)
        agent.router.add_put("/state", self.put_state)
        runners = [web.AppRunner(app) for app in (engine, agent)]
        try:
            for runner in runners:
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url, self.agent_url = (f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners)
            yield self
        finally:
            for runner in runners:
                await runner.cleanup()
