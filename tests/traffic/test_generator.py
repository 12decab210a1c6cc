from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.traffic.fake_engine import FakeEngine
from tinypair.languages import prompt
from traffic import Traffic


async def until(traffic: Traffic, reached: Callable[[], bool], seconds: float = 20.0) -> None:
    """Runs the traffic until the condition holds, and no longer than `seconds`."""
    run = asyncio.create_task(traffic.run())
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        await asyncio.sleep(0.005)
    traffic.stop()
    await run
    assert reached()


async def test_calls_are_counted_by_the_engines_own_token_count() -> None:
    async with FakeEngine(per_chunk=5).running() as engine:
        traffic = Traffic(engine.url, streams=2, max_tokens=12)
        await until(traffic, lambda: len(traffic.calls) >= 6)
    assert all(call.ok and call.tokens == 12 and call.ttft is not None for call in traffic.calls)
    assert traffic.meter.total == 12 * len(traffic.calls)


async def test_requests_are_greedy_streamed_and_of_fixed_length() -> None:
    async with FakeEngine().running() as engine:
        traffic = Traffic(engine.url, streams=1, max_tokens=8, api_key="secret", seed=3)
        await until(traffic, lambda: len(traffic.calls) >= 2)
    question = engine.asked[0]
    assert (question["temperature"], question["max_tokens"], question["ignore_eos"]) == (0, 8, True)
    assert question["stream"] is True
    assert question["model"] == "fake"  # found by asking the engine
    assert question["messages"][0]["content"] == prompt("code", 3_000_000)
    assert engine.keys == {"Bearer secret"}


async def test_the_same_requests_can_be_sent_again_while_traffic_flows() -> None:
    async with FakeEngine().running() as engine:
        traffic = Traffic(engine.url, streams=1, max_tokens=4, seed=3)
        run = asyncio.create_task(traffic.run())
        async with asyncio.timeout(60):
            for turn in (1, 2):
                asked = len(engine.asked)
                traffic.begin_again(3)
                while len(engine.asked) < asked + 3 * turn:
                    await asyncio.sleep(0.005)
            traffic.stop()
            await run
    texts = [question["messages"][0]["content"] for question in engine.asked]
    assert texts.count(prompt("code", 3_000_000)) >= 2
    assert texts.count(prompt("code", 3_000_001)) >= 2


async def test_the_kind_changes_while_traffic_flows() -> None:
    async with FakeEngine().running() as engine:
        traffic = Traffic(engine.url, streams=2, max_tokens=4)
        run = asyncio.create_task(traffic.run())
        async with asyncio.timeout(20):
            while len(traffic.calls) < 4:
                await asyncio.sleep(0.005)
            assert traffic.kind == "code"
            assert {call.kind for call in traffic.calls} == {"code"}
            traffic.kind = "prose"
            changed = len(traffic.calls) + 2  # those under way were still code
            while len(traffic.calls) < changed + 4:
                await asyncio.sleep(0.005)
            traffic.stop()
            await run
    assert {call.kind for call in traffic.calls[changed:]} == {"prose"}


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
async def test_a_mix_has_the_share_asked_for(share: float) -> None:
    async with FakeEngine().running() as engine:
        traffic = Traffic(engine.url, streams=1, max_tokens=4, code_share=share)
        await until(traffic, lambda: len(traffic.calls) >= 40)
    assert traffic.kind is None
    code = sum(call.kind == "code" for call in traffic.calls)
    assert code == pytest.approx(share * len(traffic.calls), abs=1)


@pytest.mark.parametrize("failure", [503, "break"])
async def test_an_engine_that_fails_for_a_while_costs_calls_and_not_the_run(failure: int | str) -> None:
    async with FakeEngine(failures=3, failure=failure).running() as engine:
        traffic = Traffic(engine.url, streams=1, max_tokens=16)
        await until(traffic, lambda: traffic.summary().ok >= 2)
    first, good = traffic.calls[:3], traffic.calls[3:]
    assert all(call.error for call in first)
    assert all(call.ok for call in good)
    if failure == "break":
        assert all(call.tokens == 4 for call in first)  # what came before the break counts as received


async def test_nobody_listening_is_a_failure_with_a_reason() -> None:
    traffic = Traffic("http://127.0.0.1:9/v1", streams=1)
    await until(traffic, lambda: traffic.summary().failed >= 2)
    assert "Connection" in (traffic.calls[0].error or "")
    assert traffic.calls[0].ttft is None


async def test_a_run_ends_after_its_time_with_no_call_cut_short() -> None:
    async with FakeEngine().running() as engine:
        traffic = Traffic(engine.url, streams=3, max_tokens=8)
        async with asyncio.timeout(20):
            await traffic.run(0.3)
    assert traffic.calls
    assert all(call.ok for call in traffic.calls)


async def test_traffic_in_the_background_ends_with_its_block() -> None:
    async with FakeEngine().running() as engine:
        traffic = Traffic(engine.url, streams=2, max_tokens=4)

        def watch() -> int:
            with traffic.background():
                end = time.monotonic() + 20
                while len(traffic.calls) < 5 and time.monotonic() < end:
                    time.sleep(0.005)
            return len(traffic.calls)

        ended_with = await asyncio.to_thread(watch)
        await asyncio.sleep(0.1)
    assert ended_with >= 5
    assert len(traffic.calls) == ended_with
