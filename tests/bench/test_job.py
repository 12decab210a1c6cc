"""The benchmark's Job against a fake engine: it asks for K on its port, and its result or failure waits there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gemmaspec.adapters import engine
from gemmaspec.bench.__main__ import MOST_BYTES, Job, stored
from gemmaspec.bench.published import load
from gemmaspec.core.bench.result import Run, parse
from gemmaspec.core.observation import Wish
from tests.bench.fake_station import FakeStation

PROMPTS = "code: Write it.\nprose: Tell it.\n"


@pytest.fixture
async def station() -> AsyncIterator[FakeStation]:
    async with FakeStation().running_on() as running:
        yield running


def told(station: FakeStation, **asked: Any) -> dict[str, Any]:
    prompts = {"name": "mine", "key": "prompts.yaml"}
    small = {"request": "first", "concurrency": [1, 2], "runs": 2, "tokens": 8, "prompts": prompts}
    return {
        "engine": station.url,
        "agent": station.agent_url,
        "asked": small | asked,
        "current": 2,
        "facts": {"target": "fake/target", "ks": [0, 1, 2], "maxNumSeqs": 4},
    }


@asynccontextmanager
async def followed(job: Job, station: FakeStation) -> AsyncIterator[list[Wish]]:
    """Does what the operator does: asks which K is wanted, and holds it."""
    app = web.Application()
    app.router.add_get("/wish", job.wish)
    app.router.add_get("/result", job.result)
    heard: list[Wish] = []
    async with TestClient(TestServer(app)) as client:
        engines = engine.Engines()
        address, port = str(client.host), int(client.port or 0)

        async def follow() -> None:
            while True:
                wish = await engines.wish(address, port, 100.0)
                if not heard or heard[-1].number != wish.number:
                    heard.append(wish)
                    station.held = wish.k
                await asyncio.sleep(0.01)

        task = asyncio.create_task(follow())
        try:
            yield heard
            async with asyncio.timeout(30):
                while not heard or not (heard[-1].summary or heard[-1].failure):
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await engines.close()


async def test_it_asks_for_k_and_its_result_waits_to_be_fetched(station: FakeStation) -> None:
    job = Job(told(station), PROMPTS)
    async with followed(job, station) as heard:
        await job.run()
    last = heard[-1]
    assert last.k is None, "K is let go before the result is offered"
    assert last.summary is not None
    assert last.summary["schedule"]
    result = parse(last.result)
    assert len(result.runs) == 3 * 2 * 2 * 2
    assert (result.engine.target, result.engine.actuator) == ("fake/target", None)
    assert {wish.k for wish in heard} == {0, 1, 2, None}
    assert all(wish.seconds <= 60.0 for wish in heard)


async def test_a_failure_is_told_and_ends_the_wish(station: FakeStation) -> None:
    station.fail_after = 10
    job = Job(told(station), PROMPTS)
    async with followed(job, station) as heard:
        await job.run()
    assert "the engine died" in heard[-1].failure
    assert (heard[-1].k, heard[-1].summary) == (None, None)


@pytest.mark.parametrize(
    ("text", "asked", "words"),
    [
        ("- a list", {}, "holds list; it takes a mapping"),
        ("{", {}, "is no YAML"),
        (PROMPTS, {"ks": [7]}, "ks is 7, and the engine was started for K = 0, 1, 2"),
        (PROMPTS, {"tokens": 30000}, "and the engine takes 8192; give fewer tokens"),
    ],
)
async def test_what_cannot_be_measured_is_told(
    station: FakeStation, text: str, asked: dict[str, Any], words: str
) -> None:
    job = Job(told(station, **asked), text)
    async with followed(job, station) as heard:
        await job.run()
    assert words in heard[-1].failure


async def test_without_prompts_of_the_users_the_projects_own_are_taken(station: FakeStation) -> None:
    asked = told(station, runs=1, concurrency=[1])
    del asked["asked"]["prompts"]
    job = Job(asked)
    async with followed(job, station) as heard:
        await job.run()
    assert {run.workload for run in parse(heard[-1].result).runs} == {"ja_finance", "en_finance", "py_code"}


def test_a_result_that_a_config_map_has_no_room_for_loses_its_runs() -> None:
    whole = load()["fp8-26b-sweep"]
    run = Run(workload="code", concurrency=1, k=0, run=0, seconds=1.0, tokens=1, tokens_per_second=1.0)
    text = stored(whole.model_copy(update={"runs": [run] * 20000}))
    assert len(text.encode()) < MOST_BYTES
    assert "20000 single runs are left out" in json.loads(text)["notes"][-1]
    assert json.loads(text)["cells"]
