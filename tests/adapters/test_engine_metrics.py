"""Expositions become samples; whatever is no whole exposition of vLLM is missing data, never bad data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmaspec.adapters import engine
from gemmaspec.adapters.engine import MOST_BYTES, Engines, ScrapeError, parse
from gemmaspec.core.observation import Sample
from tests.simulated.exposition import exposition

REAL = sorted((Path(__file__).parents[1] / "data").glob("metrics-vllm-*.txt"))


def test_a_whole_exposition_is_read() -> None:
    sample = parse(exposition(), 5.0)
    assert sample == Sample(
        time=5.0,
        drafts=100.0,
        draft_tokens=200.0,
        accepted_tokens=150.0,
        accepted_per_position=(90.0, 60.0),
        generation_tokens=1000.0,
        requests_finished=7.0,
        step_seconds_sum=4.0,
        step_seconds_count=200.0,
        running=3.0,
    )


def test_without_speculation_there_are_no_drafts() -> None:
    sample = parse(exposition(positions=()), 0.0)
    assert (sample.drafts, sample.accepted_per_position, sample.generation_tokens) == (0.0, (), 1000.0)


def test_engines_of_one_process_are_added_up() -> None:
    text = exposition() + exposition().replace('engine="0"', 'engine="1"')
    sample = parse(text, 0.0)
    assert (sample.drafts, sample.accepted_per_position) == (200.0, (180.0, 120.0))


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.stem)
def test_what_real_engines_write(file: Path) -> None:
    sample = parse(file.read_text(encoding="utf-8"), 1.0)
    assert sample.generation_tokens >= 0
    assert sample.accepted_tokens <= sample.draft_tokens
    assert sum(sample.accepted_per_position) == sample.accepted_tokens
    assert list(sample.accepted_per_position) == sorted(sample.accepted_per_position, reverse=True)
    assert all(accepted <= sample.drafts for accepted in sample.accepted_per_position)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not end with a line"),
        ("\n", "lacks vllm:generation_tokens_total"),
        ("<html><body>404</body></html>\n", "lacks vllm:generation_tokens_total"),
        ("\x00\xff\n", "lacks vllm:generation_tokens_total"),
        ("vllm:generation_tokens_total{engine=\n", "no Prometheus exposition"),
        ("vllm:generation_tokens_total\n", "no Prometheus exposition"),
        ('vllm:generation_tokens_total{engine="0"} NaN\n', "negative or not a number"),
        ('vllm:generation_tokens_total{engine="0"} +Inf\n', "negative or not a number"),
        ('vllm:generation_tokens_total{engine="0"} -1\n', "negative or not a number"),
        (exposition(positions=(float("nan"), 1.0)), "negative or not a number"),
        (exposition().replace('position="1"', 'position="one"'), "no Prometheus exposition"),
        (exposition().replace('position="1"', 'position="999999999"'), "position 999999999"),
        (exposition().replace('position="1"', 'position="-1"'), "position -1"),
        (exposition().split("vllm:spec_decode_num_accepted_tokens_per_pos")[0] + "\n", "it is cut off"),
        (exposition().split("# HELP vllm:spec_decode_num_accepted_tokens_total")[0], "it is cut off"),
        (exposition()[:-3], "cut off"),
    ],
)
def test_what_is_no_exposition(text: str, said: str) -> None:
    with pytest.raises(ScrapeError) as refused:
        parse(text, 0.0)
    assert said in str(refused.value)


@given(cut=st.integers(0, len(exposition())), junk=st.text(max_size=20))
def test_half_an_exposition_is_refused_or_right(cut: int, junk: str) -> None:
    whole = parse(exposition(), 0.0)
    try:
        found = parse(exposition()[:cut] + junk, 0.0)
    except ScrapeError:
        return
    assert found.accepted_per_position in ((), whole.accepted_per_position[: len(found.accepted_per_position)])
    assert found.drafts in (0.0, whole.drafts)


@given(st.text(alphabet='vllm:generation_tokens_total{}="0,\\ \n#1.eE+-NaIf', max_size=200))
@settings(max_examples=300)
def test_garbage_raises_nothing_else(garbage: str) -> None:
    for text in (garbage, "vllm:generation_tokens_total" + garbage, garbage + "\n", exposition() + garbage + "\n"):
        try:
            assert isinstance(parse(text, 0.0), Sample)
        except ScrapeError:
            continue


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """A real HTTP server with one route; gives its port."""
    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client() -> AsyncIterator[Engines]:
    engines = Engines()
    try:
        yield engines
    finally:
        await engines.close()


async def test_a_long_answer_in_many_parts_is_read_to_its_end() -> None:
    padding = "".join(f"# HELP vllm:other_{i} Padding as long as histograms make it.\n" for i in range(4000))
    text = exposition(generated=1.0)
    text = text.replace("# TYPE vllm:inter", padding + "# TYPE vllm:inter")

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        raw = text.encode()
        for start in range(0, len(raw), 5000):
            await response.write(raw[start : start + 5000])
            await asyncio.sleep(0)
        return response

    async with serving(answer) as port, client() as engines:
        sample = (await engines.scrape("127.0.0.1", port, 3.0)).sample
    assert (sample.time, sample.accepted_per_position) == (3.0, (90.0, 60.0))


async def test_an_engine_that_repeats_itself_is_not_parsed_again_and_one_that_moves_is() -> None:
    texts = [exposition(), exposition(), exposition(generated=1001.0)]

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=texts.pop(0))

    async with serving(answer) as port, client() as engines:
        first = await engines.scrape("127.0.0.1", port, 1.0)
        again = await engines.scrape("127.0.0.1", port, 2.0, first)
        moved = await engines.scrape("127.0.0.1", port, 3.0, again)
    assert again.sample == replace(first.sample, time=2.0)
    assert again.sample.accepted_per_position is first.sample.accepted_per_position
    assert (moved.sample.time, moved.sample.generation_tokens) == (3.0, 1001.0)


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [(503, "no", "HTTP 503"), (302, "", "HTTP 302"), (200, "# " + "x" * (MOST_BYTES + 1), "not an engine")],
)
async def test_what_is_no_answer_of_an_engine(status: int, text: str, said: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers={"Location": "http://169.254.169.254/"})

    async with serving(answer) as port, client() as engines:
        with pytest.raises(ScrapeError) as refused:
            await engines.scrape("127.0.0.1", port, 0.0)
    assert said in str(refused.value)


async def test_nobody_listens() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response()

    async with serving(answer) as port:
        pass
    async with client() as engines:
        with pytest.raises(ScrapeError):
            await engines.scrape("127.0.0.1", port, 0.0)
        with pytest.raises(ScrapeError):
            await engines.scrape("::1", port, 0.0)


async def test_an_engine_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SCRAPE_SECONDS", 0.2)
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(exposition()[:200].encode())
        asked.set()
        await asyncio.wait_for(given_up.wait(), 60)
        return response

    async with serving(answer) as port, client() as engines:
        with pytest.raises(ScrapeError, match="Timeout"):
            await asyncio.wait_for(engines.scrape("127.0.0.1", port, 0.0), 30)
        given_up.set()
    assert asked.is_set()


async def test_an_answer_that_breaks_off() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(exposition().encode())
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(answer) as port, client() as engines:
        with pytest.raises(ScrapeError):
            await engines.scrape("127.0.0.1", port, 0.0)
