"""Engines and agents that do not answer: nothing is known of them, and everything of the others. Engines are fakes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from gemmaspec.adapters.engine import Engines, ScrapeError, Told
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.runtime import scraper
from gemmaspec.runtime.cache import Cache
from gemmaspec.runtime.queue import Key
from gemmaspec.runtime.scraper import Scraper

KEY = ("ns", "tiny")
PODS = tuple(
    Pod(f"tiny-{n}", f"uid-{n}", "r", 4, f"10.0.0.{n}", "n1", "Running", True, False, True, 0, live=True)
    for n in (1, 2)
)


class FakeCache:
    """Two live engines."""

    def every(self) -> list[Key]:
        return [KEY]

    def pods(self, namespace: str, name: str) -> tuple[Pod, ...]:
        return PODS

    def resource(self, namespace: str, name: str) -> None:
        return None


@dataclass
class FakeEngines:
    """Answers for those addresses that are not ``mute``; a mute one takes as long as a deadline."""

    mute: set[str] = field(default_factory=set)
    deadline: float = 0.05
    asked: Counter[str] = field(default_factory=Counter)

    async def scrape(self, ip: str, port: int, now: float, known: Told | None = None) -> Told:
        await self._answer(ip)
        return Told(Sample(now, 0, 0, 0, (), float(self.asked[ip]), 0, 0, 0, 0), 0)

    async def report(self, ip: str, port: int, token: str, now: float) -> Report:
        await self._answer(ip)
        return Report(now, True, "", 4, Wanted("Fixed", 4, 0, 4), (), 0, {})

    async def _answer(self, ip: str) -> None:
        self.asked[ip] += 1
        if ip in self.mute:
            await asyncio.sleep(self.deadline)
            raise ScrapeError("HTTP 401")


class Watched:
    """A scraper over fake engines, and whom it woke."""

    def __init__(self) -> None:
        self.engines = FakeEngines()
        self.woken: list[Key] = []
        fakes: Any = (self.engines, FakeCache())
        self.scraper = Scraper(
            cast("Engines", fakes[0]), cast("Cache", fakes[1]), self.woken.append, 1.0, token_of=lambda _: "token"
        )


async def test_an_engine_that_hangs_costs_the_others_nothing() -> None:
    watched = Watched()
    watched.engines.mute = {"10.0.0.1"}
    began = time.monotonic()
    for _ in range(3):
        await watched.scraper.round()
    assert time.monotonic() - began < 30, "deadlines, and no more"
    found = watched.scraper.samples(PODS)
    assert {uid: len(series) for uid, series in found.items()} == {"uid-2": 3}
    assert set(watched.scraper.reports(PODS)) == {"uid-2"}


async def test_an_agent_is_silent_after_a_while_and_speaks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    await watched.scraper.round()
    watched.engines.mute = {"10.0.0.1"}
    await watched.scraper.round()
    assert watched.scraper.silent(PODS) == frozenset(), "one lost answer is none"
    monkeypatch.setattr(scraper, "SILENT_SECONDS", 0.0)
    watched.woken.clear()
    await watched.scraper.round()
    assert watched.scraper.silent(PODS) == {"uid-1"}
    assert KEY in watched.woken
    assert watched.scraper.silent([replace(PODS[0], uid="other")]) == frozenset()
    watched.engines.mute = set()
    watched.woken.clear()
    await watched.scraper.round()
    assert watched.scraper.silent(PODS) == frozenset()
    assert KEY in watched.woken


async def test_a_clock_that_was_set_back_starts_reports_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    for now in (1000.0, 1005.0, 400.0, 405.0):
        monkeypatch.setattr(scraper.time, "time", lambda now=now: now)
        await watched.scraper.round()
    reports = watched.scraper.reports(PODS)["uid-1"]
    assert [report.time for report in reports] == [400.0, 405.0]
    assert [sample.time for sample in watched.scraper.samples(PODS)["uid-1"]] == [400.0, 405.0]
