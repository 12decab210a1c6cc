"""A stand-in for the agent in an engine: the agent's own code and port, in front of fake steps. No vLLM, no model."""

from __future__ import annotations

import random
import socket
import threading
from dataclasses import replace

from gemmaspec.core.live import AGENT_PORT
from gemmaspec_engine.agent.host import Agent, Engine
from gemmaspec_engine.agent.port import Port
from gemmaspec_engine.agent.settings import parse_config
from tests.engine.fake_scheduling import FakeRequest, decode, sampled

KS = (0, 1, 2, 4)
STEP_SECONDS = 0.002
REQUESTS = ("a", "b")


def free_block() -> int:
    """The second number of loopback addresses on which nobody has an agent yet."""
    for block in random.sample(range(16, 240), 32):
        with socket.socket() as tried:
            try:
                tried.bind((f"127.{block}.0.2", AGENT_PORT))
            except OSError:
                continue
            return block
    raise RuntimeError(f"port {AGENT_PORT} is taken on every loopback address that was tried")


class StandInAgent:
    """Makes steps for ever, in which ``conditional`` of the drafts are accepted, position by position."""

    def __init__(self, address: str, configuration: str, conditional: float = 0.9) -> None:
        config = replace(parse_config(configuration), host=address, state_dir="")
        self._address = address
        engine = Engine("0.32.0", KS, max(KS), 8, 2048, asynchronous=True, runner="V2")
        self.agent = Agent(engine, config)
        self.conditional = conditional
        self._random = random.Random(address)
        self._port = Port(address, AGENT_PORT, self.agent)
        self._stop = threading.Event()
        threading.Thread(target=self._port.serve_forever, args=(0.1,), daemon=True).start()
        self._steps = threading.Thread(target=self._run, daemon=True)
        self._steps.start()

    def close(self) -> None:
        """The engine's process has ended."""
        self._stop.set()
        self._steps.join(10)
        self.hang_up()

    def hang_up(self) -> None:
        """The agent's port is gone, and the engine goes on."""
        self._port.shutdown()
        self._port.server_close()

    def answer(self) -> None:
        """The port is there again."""
        self._port = Port(self._address, AGENT_PORT, self.agent)
        threading.Thread(target=self._port.serve_forever, args=(0.1,), daemon=True).start()

    def take_another_token(self) -> None:
        """The operator's key is another one than at the pod's start."""
        self.agent.config = replace(self.agent.config, token_sha256="0" * 64)

    def _run(self) -> None:
        requests = {name: FakeRequest() for name in REQUESTS}
        k = self.agent.controller.k
        while not self._stop.wait(STEP_SECONDS):
            output = decode(dict.fromkeys(REQUESTS, k))
            self.agent.scheduled(output, requests)
            counts = {name: 1 + self._accepted(k) for name in REQUESTS}
            k = output.num_spec_tokens_to_schedule
            self.agent.ended(output, sampled(counts), requests)

    def _accepted(self, k: int) -> int:
        for position in range(k):
            if self._random.random() >= self.conditional:
                return position
        return k
