"""Streams of chat completions through the official client, for as long as one likes."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import openai
from openai import AsyncOpenAI

from tinypair.languages import Kind, prompt
from traffic.call import Call, Summary
from traffic.meter import Meter

_RETRY_FIRST: Final = 0.2  # seconds after a failure; doubled at each further one
_RETRY_MOST: Final = 2.0
# A chunk of vLLM's stream holds all tokens of an engine step, so only the running usage counts them exactly.
_VLLM_OPTIONS: Final = {
    "ignore_eos": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


class Traffic:
    """`streams` requests at a time against one engine, each answered in full before the next one goes out.

    code_share: how many of the requests are code (1: all, 0: only prose); may be set at any moment and holds
    for requests that start from then on. Failures are recorded and retried with a growing pause: an engine
    that restarts costs calls, not the run. With one seed the requests are the same ones in the same order.
    pooled: connections are kept, as clients do; a Service spreads connections and not requests, so that an engine
    which comes later sees nothing of them. Without, each request may go to another engine.
    pause: seconds that a stream waits between an answer and its next request.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        code_share: float = 1.0,
        streams: int = 4,
        max_tokens: int = 128,
        prompt_chars: int = 160,
        call_seconds: float = 60.0,
        seed: int = 0,
        pooled: bool = True,
        pause: float = 0.0,
    ) -> None:
        self.base_url = base_url
        self.code_share = code_share
        self.streams = streams
        self.calls: list[Call] = []
        self.meter = Meter()
        self._model = model
        self._api_key = api_key or "none"  # the client insists on one
        self._max_tokens = max_tokens
        self._prompt_chars = prompt_chars
        self._call_seconds = call_seconds
        self._pooled = pooled
        self._pause = pause
        self._numbers = itertools.count(seed * 1_000_000)
        self._code_owed = 0.0
        self._stopping = threading.Event()
        self._under_way: set[int] = set()

    @property
    def under_way(self) -> int:
        """Requests that went out and are not answered yet. From any thread."""
        return len(self._under_way)

    @property
    def kind(self) -> Kind | None:
        """The kind of all new requests; None when they are mixed."""
        if self.code_share >= 1:
            return "code"
        return "prose" if self.code_share <= 0 else None

    @kind.setter
    def kind(self, kind: Kind) -> None:
        self.code_share = 1.0 if kind == "code" else 0.0

    def rate(self, window: float = 5.0) -> float:
        """Tokens per second that came over the last `window` seconds, all streams together."""
        return self.meter.rate(window)

    def summary(self, kind: Kind | None = None) -> Summary:
        """Figures over the calls so far."""
        return Summary.of(list(self.calls), kind)

    def begin_again(self, seed: int) -> None:
        """The requests that go out from now on are those of this seed, from the first one on. From any thread."""
        self._numbers = itertools.count(seed * 1_000_000)

    def stop(self) -> None:
        """No new requests from now on; those under way are still answered. From any thread."""
        self._stopping.set()

    async def run(self, seconds: float | None = None) -> None:
        """Sends requests for `seconds`, or until stopped, and returns when the last one has been answered."""
        client = AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._api_key,
            max_retries=0,
            timeout=self._call_seconds,
            default_headers={} if self._pooled else {"Connection": "close"},
        )
        end = None if seconds is None else time.monotonic() + seconds
        async with client, asyncio.TaskGroup() as streams:
            for _ in range(self.streams):
                streams.create_task(self._stream(client, end))

    @contextmanager
    def background(self) -> Iterator[Traffic]:
        """The traffic flows in a thread of its own while the block runs, and has ended after it."""
        thread = threading.Thread(target=lambda: asyncio.run(self.run()), name="traffic", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join(self._call_seconds + _RETRY_MOST)

    def _next_kind(self) -> Kind:
        """Spreads the kinds evenly instead of drawing lots, so that short runs have the share asked for."""
        self._code_owed += self.code_share
        if self._code_owed >= 0.5:
            self._code_owed -= 1.0
            return "code"
        return "prose"

    def _goes_on(self, end: float | None) -> bool:
        return not self._stopping.is_set() and (end is None or time.monotonic() < end)

    async def _stream(self, client: AsyncOpenAI, end: float | None) -> None:
        pause = _RETRY_FIRST
        while self._goes_on(end):
            call = await self._call(client, self._next_kind(), next(self._numbers))
            self.calls.append(call)
            if call.ok:
                pause = _RETRY_FIRST
                await asyncio.sleep(self._pause)
                continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_MOST)

    async def _call(self, client: AsyncOpenAI, kind: Kind, number: int) -> Call:
        start, begun = time.time(), time.monotonic()
        arrivals = _Arrivals(self.meter, begun)
        error: str | None = None
        self._under_way.add(number)
        try:
            async with asyncio.timeout(self._call_seconds):
                await self._ask(client, kind, number, arrivals)
            if arrivals.tokens < self._max_tokens:
                error = f"the stream ended after {arrivals.tokens} of {self._max_tokens} tokens"
        except TimeoutError:
            error = f"no full answer within {self._call_seconds:g} s"
        except (openai.OpenAIError, ValueError) as problem:
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        finally:
            self._under_way.discard(number)
        return Call(
            kind=kind,
            start=start,
            duration=time.monotonic() - begun,
            tokens=arrivals.tokens,
            ttft=arrivals.first,
            error=error,
        )

    async def _ask(self, client: AsyncOpenAI, kind: Kind, number: int, arrivals: _Arrivals) -> None:
        if self._model is None:
            self._model = (await client.models.list()).data[0].id
        stream = await client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt(kind, number, self._prompt_chars)}],
            max_tokens=self._max_tokens,
            temperature=0,
            stream=True,
            extra_body=_VLLM_OPTIONS,
        )
        async with stream:
            async for chunk in stream:
                if chunk.usage is not None:
                    arrivals.reached(chunk.usage.completion_tokens)


class _Arrivals:
    """The tokens of one call as they come."""

    def __init__(self, meter: Meter, begun: float) -> None:
        self.tokens = 0
        self.first: float | None = None
        self._meter = meter
        self._begun = begun

    def reached(self, tokens: int) -> None:
        if tokens > self.tokens:
            if self.first is None:
                self.first = time.monotonic() - self._begun
            self._meter.add(tokens - self.tokens)
            self.tokens = tokens
