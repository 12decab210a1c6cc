"""What the scraper keeps of what engines and agents tell."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from gemmaspec.adapters.engine import Engines, ScrapeError
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.observation import Pod
from gemmaspec.runtime.cache import Cache
from gemmaspec.runtime.scraper import Scraper

KEY = ("ns", "one")
POD = Pod("p", "pod-1", "r", 4, "10.0.0.1", "n1", "Running", True, False, True, 0, live=True)


class FakeEngines:
    """Stands for the agents: a question is answered when the test says so, with what is true when it is asked."""

    def __init__(self) -> None:
        self.fallback = ""
        self.answers: list[asyncio.Event] = []

    async def report(self, ip: str, port: int, token: str, now: float) -> Report:
        found = Report(now, True, "", 4, Wanted("Adaptive", 4, 0, 4), (), 0, {}, fallback=self.fallback)
        self.answers.append(asyncio.Event())
        await self.answers[-1].wait()
        return found


async def test_what_was_asked_first_and_heard_last_is_old() -> None:
    """Else an agent's exception is taken for over, or for new, until the next round."""
    engines = FakeEngines()
    woken: list[object] = []
    cache = SimpleNamespace(every=lambda: [KEY], pods=lambda *_: [POD])
    scraper = Scraper(cast("Engines", engines), cast("Cache", cache), woken.append, 1.0, token_of=lambda _: "t")
    ask: Any = scraper._ask_agent
    early = asyncio.create_task(ask(KEY, POD))
    await asyncio.sleep(0)
    engines.fallback = "choose: ArithmeticError"
    late = asyncio.create_task(ask(KEY, POD))
    await asyncio.sleep(0)
    for number, task in ((1, late), (0, early)):
        engines.answers[number].set()
        await task
    assert [report.fallback for report in scraper.reports([POD])[POD.uid]] == ["choose: ArithmeticError"]
    assert woken == [KEY]


class FakeLaunchers:
    """Stands for pods whose engine does not serve: each answers what it waits for, or nobody does."""

    def __init__(self) -> None:
        self.told: str | None = "WaitingForMemory"

    async def waits(self, ip: str, port: int) -> str:
        if self.told is None:
            raise ScrapeError("connection refused")
        return self.told


async def test_what_a_launcher_waits_for_is_known_until_its_engine_boots() -> None:
    launchers, woken = FakeLaunchers(), list[object]()
    booting = replace(POD, ready=False)
    cache = SimpleNamespace(every=lambda: [KEY], pods=lambda *_: [booting, replace(booting, uid="x", running=False)])
    scraper = Scraper(cast("Engines", launchers), cast("Cache", cache), woken.append, 1.0)
    for _ in range(2):
        await scraper.round()
    assert scraper.waits([booting]) == {booting.uid: "WaitingForMemory"}
    assert woken == [KEY], "once, and not for the one that has not begun"
    launchers.told = None
    await scraper.round()
    assert scraper.waits([booting]) == {booting.uid: ""}
    assert woken == [KEY, KEY]
