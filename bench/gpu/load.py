"""Streams of endless completions, and what they get in a window of time."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import math
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from served import Served

PROMPT_TOKENS = 256
WORDS = (1000, 262_000)
ENDLESS = (7800, 7800)
READY_SECONDS = 90.0


@dataclass
class Window:
    """What all streams together got."""

    rate: float
    """Tokens per second, of each stream from its first chunk in the window to its last: a window's edges cut steps,
    and a step of K=4 at one stream is half a percent of two seconds."""
    step_ms: float
    """Median time between two chunks of a stream: one step."""
    mean_ms: float
    steps: int
    per_second: list[int]
    """Tokens of each second."""

    def as_json(self) -> dict[str, float]:
        """For the raw results."""
        figures = {"tok_s": self.rate, "step_ms": self.step_ms, "mean_ms": self.mean_ms}
        return {name: round(value, 4) for name, value in figures.items()} | {"steps": self.steps}


@dataclass
class Streams:
    """Running streams; arrivals are (time, tokens)."""

    arrivals: list[list[tuple[float, int]]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def decoding(self) -> None:
        """Until every stream has had its first chunks. Raises RuntimeError when one failed."""
        end = time.monotonic() + READY_SECONDS
        while not all(len(stream) >= 3 for stream in self.arrivals):
            if self.failed or time.monotonic() > end:
                raise RuntimeError(f"streams do not run: {self.failed[:1]}")
            await asyncio.sleep(0.005)

    async def window(self, seconds: float) -> Window:
        """The next so many seconds."""
        begun = time.monotonic()
        await asyncio.sleep(seconds)
        ended = time.monotonic()
        rate, gaps, per_second = 0.0, [], [0] * math.ceil(ended - begun)
        for stream in self.arrivals:
            inside = stream[bisect.bisect_left(stream, (begun, 0)) : bisect.bisect_left(stream, (ended, 0))]
            gaps += [1000 * (after[0] - before[0]) for before, after in itertools.pairwise(inside)]
            if len(inside) > 1:
                rate += sum(count for _, count in inside[1:]) / (inside[-1][0] - inside[0][0])
            for at, count in inside:
                per_second[int(at - begun)] += count
        if self.failed:
            raise RuntimeError(self.failed[0])
        median, mean = (statistics.median(gaps), statistics.fmean(gaps)) if gaps else (0.0, 0.0)
        return Window(rate, median, mean, len(gaps), per_second)


async def _stream(
    session: aiohttp.ClientSession, engine: Served, dice: random.Random, streams: Streams, output: tuple[int, int]
) -> None:
    arrivals: list[tuple[float, int]] = []
    streams.arrivals.append(arrivals)
    try:
        while await _request(session, engine, dice, streams, arrivals, output):
            pass
    except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
        streams.failed.append(repr(error))


async def _request(
    session: aiohttp.ClientSession,
    engine: Served,
    dice: random.Random,
    streams: Streams,
    arrivals: list[tuple[float, int]],
    output: tuple[int, int],
) -> bool:
    """One completion; False when it was refused."""
    body = {
        "model": "m",
        "prompt": [dice.randrange(*WORDS) for _ in range(PROMPT_TOKENS)],
        "max_tokens": dice.randint(*output),
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    async with session.post(f"http://127.0.0.1:{engine.port}/v1/completions", json=body) as answer:
        if answer.status != 200:
            streams.failed.append(f"{answer.status} {(await answer.text())[:300]}")
            return False
        async for line in answer.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                arrivals.append((time.monotonic(), len(event["choices"][0].get("token_ids") or ())))
    return True


@asynccontextmanager
async def running(engine: Served, count: int, seed: int, output: tuple[int, int] = ENDLESS) -> AsyncIterator[Streams]:
    """So many streams while the block runs, each of one request after the other, ``output`` tokens long (least,
    most); they are hung up at its end.
    """
    streams, dice = Streams(), random.Random(seed)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.create_task(_stream(session, engine, dice, streams, output)) for _ in range(count)]
        try:
            await asyncio.sleep(0)
            await streams.decoding()
            yield streams
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
