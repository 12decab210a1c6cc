"""One request to the engine's chat endpoint, and when its tokens came."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

from gemmaspec.adapters.transport import Transport, Unreached
from gemmaspec.core.bench.figures import Stream
from gemmaspec.core.bench.sweep import Workload

CHAT: Final = "/v1/chat/completions"
_DATA: Final = b"data:"


async def ask(
    engine: Transport, model: str, workload: Workload, mark: str, temperature: float, seconds: float
) -> Stream:
    """Ask and wait for the whole answer. Raises Unreached.

    mark: of this request alone; it salts the prefix cache, so that no earlier prompt answers for the engine. In the
    prompt itself it would change what is measured.
    """
    body = question(model, workload, mark, temperature)
    begun = time.perf_counter()
    first, last, tokens, prompt = None, begun, 0, 0
    async with engine.post(CHAT, body, seconds) as lines:
        async for usage in _usages(lines):
            prompt = int(usage.get("prompt_tokens") or prompt)
            now = int(usage.get("completion_tokens") or 0)
            if now > tokens:
                last = time.perf_counter()
                first = last if first is None else first
                tokens = now
    if first is None or tokens < workload.tokens:
        raise Unreached(
            0, f"{engine.where}: the answer ended after {tokens} of {workload.tokens} tokens ({workload.name})"
        )
    return Stream(first - begun, last - begun, tokens, prompt)


def question(model: str, workload: Workload, mark: str, temperature: float) -> dict[str, Any]:
    """The body of the request. vLLM's own keys: an answer has exactly its tokens, and each chunk counts them."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": workload.text}],
        "cache_salt": mark,
        "max_tokens": workload.tokens,
        "temperature": temperature,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


async def _usages(lines: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The usage of each event of the stream. Raises Unreached for an error in the middle of it."""
    async for line in lines:
        if not line.startswith(_DATA):
            continue
        data = line.removeprefix(_DATA).strip()
        if data == b"[DONE]":
            continue  # to the very end: a proxy takes a stream that is left before for one that broke off
        try:
            event = json.loads(data)
        except ValueError as error:
            raise Unreached(0, f"the stream holds what is no JSON: {data[:120]!r}") from error
        if event.get("error"):
            raise Unreached(0, f"the engine ended the stream: {str(event['error'])[:300]}")
        if event.get("usage"):
            yield event["usage"]
