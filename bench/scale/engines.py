"""``python -m bench.scale.engines PORT EXPOSITION``: one server that answers as every engine's /metrics.

It listens on every address of this machine, so that each pod that KWOK plays has an engine there.
What it says was recorded from vLLM. Counters stand still, or grow, all at the rate at which they were recorded, from
the moment at which a file ``EXPOSITION.busy`` is made. GET /scrapes tells how often it was asked.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Final, cast

import uvloop

# In how many seconds of traffic the recorded counters had come together, about.
RECORDED_SECONDS: Final = 60.0
GROWING: Final = re.compile(
    rb"^(vllm:(?:spec_decode_\w+_total|generation_tokens_total|request_success_total|inter_token_latency_seconds_sum"
    rb"|inter_token_latency_seconds_count)\{[^\n]*\} )(\S+)$",
    re.MULTILINE,
)


class Engines:
    """What all engines say."""

    def __init__(self, exposition: bytes, busy: Path) -> None:
        self._idle = _answer(exposition)
        self._parts = GROWING.split(exposition)
        self._busy = busy
        self._scrapes = 0

    def reply(self, request: bytes) -> bytes:
        """The answer to a request."""
        if request.startswith(b"GET /scrapes"):
            return _answer(str(self._scrapes).encode())
        self._scrapes += 1
        return self._grown() if self._busy.exists() else self._idle

    def _grown(self) -> bytes:
        factor = 1.0 + (time.time() - self._busy.stat().st_mtime) / RECORDED_SECONDS
        parts = list(self._parts)
        parts[2::3] = [repr(float(value) * factor).encode() for value in parts[2::3]]
        return _answer(b"".join(parts))


class Connection(asyncio.Protocol):
    """One connection. Requests come whole: they are shorter than a packet."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self._transport.write(self._engines.reply(data))


def _answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve(port: int, exposition: Path) -> None:
    """Serve for ever."""
    engines = Engines(exposition.read_bytes(), exposition.with_suffix(".busy"))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engines), "0.0.0.0", port, backlog=4096, reuse_port=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
