"""A real vLLM engine with the agent, and clients for its two ports."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmaspec_engine.agent.grid import schedule_for
from tinypair import manifest, serving
from tinypair.languages import prompt

SEQUENCES = 8
GRID = (0, 1, 2, 4)
TOKEN = "a token of the tests"
STALL_SECONDS = 4.0
SOURCE = Path(__file__).resolve().parents[2] / "operator"
PLUGIN = Path(__file__).with_name("plugin")
LIMITS = (
    f"--max-num-seqs={SEQUENCES}",
    "--max-num-batched-tokens=256",  # prompts are prefilled in chunks
    "--num-gpu-blocks-override=26",  # 8 long streams do not fit: some are preempted
)
"""The same for the engine without speculation: the texts are compared."""


@dataclass(frozen=True)
class Completion:
    """One answer of the engine."""

    text: str
    tokens: tuple[int, ...]
    finished: str | None


@dataclass
class LiveEngine:
    """A running engine and its agent."""

    engine: serving.Engine
    port: int
    fault: Path
    log: Path

    def ask(self, method: str, path: str, body: object = None, token: str = TOKEN, seconds: float = 10.0) -> Any:
        """(status, JSON or text) of the agent's port."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        return status, (text if path == "/metrics" else json.loads(text))

    def put(self, **settings: Any) -> dict[str, Any]:
        """PUT /k, which must succeed."""
        status, answer = self.ask("PUT", "/k", settings)
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def status(self) -> dict[str, Any]:
        status, answer = self.ask("GET", "/status")
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def counter(self, name: str) -> float:
        """The sum of one of vLLM's own counters."""
        lines = self.engine.get("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def _request(engine: serving.Engine, text: str, tokens: int, **more: Any) -> urllib.request.Request:
    body = {
        "model": serving.SERVED_NAME,
        "prompt": text,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        **more,
    }
    headers = {"Content-Type": "application/json"}
    return urllib.request.Request(f"{engine.url}/v1/completions", json.dumps(body).encode(), headers)


@contextmanager
def asked(engine: serving.Engine, text: str, tokens: int) -> Iterator[None]:
    """A completion that nobody waits for: its client hangs up at the block's end."""
    request = _request(engine, text, tokens, stream=False)
    client = http.client.HTTPConnection(request.host, timeout=120)
    try:
        client.request("POST", request.selector, request.data, dict(request.header_items()))
        yield
    finally:
        client.close()


def complete(engine: serving.Engine, text: str, tokens: int, seconds: float = 120.0, **more: Any) -> Completion:
    """One greedy completion, streamed. Raises when the stream breaks off or the engine answers an error."""
    request = _request(engine, text, tokens, **more)
    pieces: list[str] = []
    ids: list[int] = []
    finished = None
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            choice = event["choices"][0]
            pieces.append(choice["text"])
            ids += choice.get("token_ids") or []
            finished = choice["finish_reason"] or finished
    return Completion("".join(pieces), tuple(ids), finished)


def prompts(count: int, characters: int = 400) -> list[str]:
    """Code and prose by turns."""
    return [prompt("code" if i % 2 else "prose", 7000 + i, characters) for i in range(count)]


def streams(engine: serving.Engine, texts: Sequence[str], tokens: int, at_once: int = SEQUENCES) -> list[Completion]:
    """All of them, so many at a time; in the order of ``texts``."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda text: complete(engine, text, tokens), texts))


@contextmanager
def plain_engine(environment: Path, folder: Path) -> Iterator[serving.Engine]:
    """The same engine without speculation and without the agent."""
    with serving.serving(environment, 0, folder / "plain.log", more=LIMITS, seconds=300) as engine:
        yield engine


@contextmanager
def live_engine(environment: Path, folder: Path, asynchronous: bool) -> Iterator[LiveEngine]:
    """An engine with the agent; start mode Fixed at the largest K."""
    port, fault = serving.free_port(), folder / "fault"
    agent = {
        "port": port,
        "host": "127.0.0.1",
        "tokenSha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "stateDir": str(folder),
        "stallSeconds": STALL_SECONDS,
    }
    settings = {
        "PYTHONPATH": f"{SOURCE}:{PLUGIN}",
        "GEMMASPEC_AGENT": json.dumps(agent),
        "TESTED_ASYNC": "1" if asynchronous else "",
        "TESTED_FAULT": str(fault),
    }
    speculative = {
        "method": "mtp",
        "model": str(manifest.FOLDER / "assistant-mixed"),
        "num_speculative_tokens": max(GRID),
        "num_speculative_tokens_per_batch_size": schedule_for(GRID, SEQUENCES),
    }
    more = [
        *LIMITS,
        "--scheduler-cls=gemmaspec_engine.agent.scheduler.LiveScheduler",
        f"--speculative-config={json.dumps(speculative)}",
    ]
    log = folder / "live.log"
    with serving.serving(environment, 0, log, settings=settings, more=more, seconds=300) as engine:
        yield LiveEngine(engine, port, fault, log)
