"""Fake engines: HTTP servers that tell vLLM's counters for a scripted kind of traffic. No model, no tokens."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gemmaspec.adapters.engine import SCRAPE_SECONDS
from tests.integration.standin_agent import StandInAgent, free_block

# Time of a step: this many milliseconds without drafts, and this share more for each draft token.
STEP_MILLISECONDS = 10.0
STEP_SHARE = 0.15
TOKENS_A_REQUEST = 100


@dataclass(frozen=True)
class Traffic:
    """What comes in: conditional acceptance by position, and how many sequences run (0: nobody asks)."""

    conditional: tuple[float, ...] = ()
    running: int = 1

    def survivals(self, k: int) -> list[float]:
        """P(positions 0..i all accepted), for i below k."""
        found, product = [], 1.0
        for position in range(k):
            product *= self.conditional[position] if position < len(self.conditional) else 0.0
            found.append(product)
        return found


GOOD = Traffic((0.95,) * 8, running=8)
# Low enough that every K > 0 loses, and no fault: some are accepted.
BAD = Traffic((0.03,) + (0.1,) * 7, running=8)
BROKEN = Traffic((0.0,) * 8, running=8)
SILENCE = Traffic(running=0)


class FakeEngine:
    """One engine's counters, moved on by the clock.

    ``answer``: ok, error, garbage, halfway (no counters yet), late (after the operator's deadline).
    """

    def __init__(self, k: int, traffic: Traffic) -> None:
        self.k = k
        self.answer = "ok"
        self.scrapes = 0
        self.traffic = traffic
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """The engine's process began anew."""
        self._at = time.monotonic()
        self._steps = self._tokens = self._seconds = self._drafts = self._served = 0.0
        self._asked = 0
        self._accepted = [0.0] * self.k

    def serve(self, traffic: Traffic) -> None:
        """From now on traffic is of this kind."""
        with self._lock:
            self._advance()
            self.traffic = traffic

    def _advance(self) -> None:
        now = time.monotonic()
        step = STEP_MILLISECONDS * (1 + STEP_SHARE * self.k) / 1000
        steps = (now - self._at) / step * self.traffic.running
        self._at = now
        survivals = self.traffic.survivals(self.k)
        self._steps += steps
        self._tokens += steps * (1 + sum(survivals))
        self._served += steps * (1 + sum(survivals))
        self._seconds += steps * step
        if self.k:
            self._drafts += steps
            self._accepted = [a + steps * s for a, s in zip(self._accepted, survivals, strict=True)]

    def chat(self, tokens: int) -> None:
        """Answer one request of this many tokens, in no time: the counters gain what it would have taken."""
        with self._lock:
            self._advance()
            survivals = Traffic(self.traffic.conditional).survivals(self.k)
            steps = tokens / (1 + sum(survivals))
            self._steps += steps
            self._tokens += tokens
            self._asked += 1
            self._seconds += steps * STEP_MILLISECONDS * (1 + STEP_SHARE * self.k) / 1000
            if self.k:
                self._drafts += steps
                self._accepted = [a + steps * s for a, s in zip(self._accepted, survivals, strict=True)]

    def exposition(self) -> str:
        """The text of /metrics."""
        with self._lock:
            self._advance()
            lines = self._lines()
        return "\n".join(lines) + "\n"

    def _lines(self) -> list[str]:
        labels = 'engine="0",model_name="tiny"'
        requests = self._served // TOKENS_A_REQUEST + self._asked
        figures: dict[str, float] = {
            "vllm:num_requests_running": self.traffic.running,
            "vllm:generation_tokens_total": self._tokens,
            "vllm:inter_token_latency_seconds_sum": self._seconds,
            "vllm:inter_token_latency_seconds_count": self._steps,
        }
        if self.k:
            figures |= {
                "vllm:spec_decode_num_drafts_total": self._drafts,
                "vllm:spec_decode_num_draft_tokens_total": self._drafts * self.k,
                "vllm:spec_decode_num_accepted_tokens_total": sum(self._accepted),
            }
        lines = [f"{name}{{{labels}}} {value!r}" for name, value in figures.items()]
        lines += [
            f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{labels},position="{i}"}} {value!r}'
            for i, value in enumerate(self._accepted)
        ]
        for reason in ("stop", "length"):
            lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {requests / 2!r}')
        return lines

    def reply(self) -> tuple[int, str]:
        """HTTP status and body of a scrape."""
        self.scrapes += 1
        if self.answer == "late":
            time.sleep(SCRAPE_SECONDS + 0.5)
        if self.answer == "error":
            return 500, "boom"
        if self.answer == "garbage":
            return 200, "<html>vllm:generation_tokens_total</html>\nvllm:generation_tokens_total{ NaN NaN NaN\n"
        if self.answer == "halfway":
            return 200, "process_start_time_seconds 1.0\n"
        return 200, self.exposition()


class FakeEngines:
    """Every fake engine behind one server on all of the loopback: an address of its own for each pod."""

    def __init__(self) -> None:
        self._engines: dict[str, FakeEngine] = {}
        self.agents: dict[str, StandInAgent] = {}
        # Other sessions on this machine have agents too, on the one port that there is for them.
        self._block = free_block()
        self._count = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("0.0.0.0", 0), self._handler())
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        for address in list(self.agents):
            self.remove(address)
        self._server.shutdown()
        self._server.server_close()

    def add(self, k: int, traffic: Traffic, agent: str = "") -> str:
        """Start an engine, and with the agent's configuration given an agent beside it; returns its address."""
        with self._lock:
            self._count += 1
            address = f"127.{self._block}.{self._count // 250}.{self._count % 250 + 1}"
        self._engines[address] = FakeEngine(k, replace(traffic))
        if agent:
            self.agents[address] = StandInAgent(address, agent)
        return address

    def remove(self, address: str) -> None:
        """The engine is gone: connections to its address are refused an answer."""
        self._engines.pop(address, None)
        if agent := self.agents.pop(address, None):
            agent.close()

    def at(self, address: str) -> FakeEngine:
        """The engine at this address."""
        return self._engines[address]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        engines = self._engines

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                engine = engines.get(self.connection.getsockname()[0])
                status, text = engine.reply() if engine else (503, "")
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                engine = engines.get(self.connection.getsockname()[0])
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                tokens = int(asked["max_tokens"])
                if engine:
                    engine.chat(tokens)
                body = json.dumps({"usage": {"completion_tokens": tokens}}).encode()
                self.send_response(200 if engine else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Silence."""

        return Handler
