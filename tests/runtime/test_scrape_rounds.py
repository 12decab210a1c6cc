"""Rounds of scrapes: every engine once, spread over the time there is, and no faster than is good for the operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from gemmaspec.adapters.engine import Engines, ScrapeError, Told
from gemmaspec.core.acceptance import MAX_GAP_SECONDS
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.runtime.cache import Cache
from gemmaspec.runtime.queue import Key
from gemmaspec.runtime.scraper import AT_ONCE, MOST_A_SECOND, Scraper


def pod(number: int) -> Pod:
    return Pod(
        name=f"p{number}",
        uid=f"u{number}",
        revision="r",
        k=4,
        ip=f"10.0.{number // 250}.{number % 250}",
        node="n",
        phase="Running",
        ready=True,
        terminating=False,
        running=True,
        restarts=0,
    )


def cache(count: int) -> Cache:
    """Resources of one engine each."""
    pods = {("ns", f"r{number}"): [pod(number)] for number in range(count)}
    return Cache(dict.fromkeys(pods, ()), {}, pods)


class FakeEngines:
    """Engines that tell ``tokens``, but for the addresses that ``fail``."""

    def __init__(self) -> None:
        self.tokens = 1.0
        self.fail: dict[str, Exception] = {}
        self.begun: list[float] = []
        self.most = self.now = 0

    async def scrape(self, ip: str, port: int, now: float, before: Told | None = None) -> Told:
        self.begun.append(asyncio.get_running_loop().time())
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        if ip in self.fail:
            raise self.fail[ip]
        return Told(Sample(now, 0, 0, 0, (), self.tokens, 0, 0, 0, 0), 0)


def scraper(engines: FakeEngines, count: int, wake: Callable[[Key], None] = lambda _: None) -> Scraper:
    return Scraper(cast("Engines", engines), cache(count), wake, 5.0)


async def test_a_round_is_spread_and_asks_everybody_once() -> None:
    engines = FakeEngines()
    await scraper(engines, 50).round(0.5)
    gaps = [after - before for before, after in zip(engines.begun, engines.begun[1:], strict=False)]
    assert len(engines.begun) == 50
    assert engines.begun[-1] - engines.begun[0] >= 0.4, "not in one burst"
    assert min(gaps[:10]) >= 0 and max(gaps) < 5


async def test_without_a_pause_no_more_than_so_many_are_asked_at_once() -> None:
    engines = FakeEngines()
    await scraper(engines, 3 * AT_ONCE).round()
    assert (len(engines.begun), engines.most) == (3 * AT_ONCE, AT_ONCE)


async def test_one_engine_s_trouble_is_no_other_s() -> None:
    engines = FakeEngines()
    engines.fail = {"10.0.0.1": ScrapeError("it is away"), "10.0.0.2": RuntimeError("a bug")}
    woken: list[Key] = []
    await scraper(engines, 5, woken.append).round()
    assert sorted(woken) == [("ns", "r0"), ("ns", "r3"), ("ns", "r4")]


async def test_an_idle_engine_wakes_nobody() -> None:
    engines = FakeEngines()
    woken: list[Key] = []
    scraping = scraper(engines, 1, woken.append)
    await scraping.round()
    await scraping.round()
    assert woken == [("ns", "r0")]
    engines.tokens = 2.0
    await scraping.round()
    assert woken == [("ns", "r0")] * 2


def test_thousands_of_engines_are_scraped_less_often_and_none_loses_touch() -> None:
    assert scraper(FakeEngines(), 30).interval() == 5.0
    assert scraper(FakeEngines(), int(12 * MOST_A_SECOND)).interval() == 12.0
    assert scraper(FakeEngines(), int(100 * MOST_A_SECOND)).interval() == MAX_GAP_SECONDS / 2
