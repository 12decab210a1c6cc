"""The agent's own account of its time, over recorded kinds of steps. Figures: `python -m bench.stepcost`."""

from __future__ import annotations

import pytest

from gemmaspec_engine.agent.host import Agent, Engine
from gemmaspec_engine.agent.settings import Config
from tests.engine.fake_scheduling import FakeRequest, decode, sampled

GENEROUS_US = 2000.0
"""Forty times what is promised: the machine may be busy and slow."""


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("mode", ["Fixed", "Adaptive"])
def test_a_step_waits_for_little_and_every_step_is_learnt(mode: str, batch: int) -> None:
    agent = Agent(Engine("0.32.0", (0, 1, 2, 4), 4, 16, 2048, asynchronous=True, runner="V2"), Config())
    agent.put_k({"mode": mode, "k": 4})
    requests = {f"r{number}": FakeRequest() for number in range(batch)}
    k, steps = 4, 300
    for left in reversed(range(steps)):
        output = decode(dict.fromkeys(requests, k))
        agent.scheduled(output, requests)
        agent.computing()
        k = output.num_spec_tokens_to_schedule
        agent.ended(output, sampled({name: 1 + (number + left) % 3 for number, name in enumerate(requests)}), requests)
        if not left:
            agent.rests()
    found = agent.overhead.quantiles()
    assert agent.controller.exceptions == {}
    assert agent.tally.steps == steps
    assert 0 < found["heldP50Us"] < found["p50Us"] < GENEROUS_US
    assert 0 < found["heldWallP50Us"] < found["wallP50Us"] < GENEROUS_US
    assert agent.overhead.count == steps
