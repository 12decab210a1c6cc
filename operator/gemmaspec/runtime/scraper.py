"""Scrapes every ready engine in turn and keeps what the longest window needs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from gemmaspec.adapters.engine import Engines, ScrapeError
from gemmaspec.core.acceptance import remember
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.live import AGENT_PORT
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.runtime import metrics
from gemmaspec.runtime.cache import Cache
from gemmaspec.runtime.queue import Key

log = logging.getLogger("gemmaspec.scraper")
_Told = TypeVar("_Told", Sample, Report)

AT_ONCE = 64
# Reports of agents are kept this long: the published K is what most steps of this time verified.
REPORT_SECONDS = 60.0


class Scraper:
    """Samples by pod. Wakes a resource when one of its engines has told something new."""

    def __init__(
        self,
        engines: Engines,
        cache: Cache,
        wake: Callable[[Key], None],
        seconds: float,
        token_of: Callable[[Key], str] = lambda _: "",
        window_of: Callable[[Key], float] = lambda _: 0.0,
    ) -> None:
        self._engines = engines
        self._cache = cache
        self._wake = wake
        self._seconds = seconds
        self._series: dict[str, list[Sample]] = {}
        self._downloads: dict[str, float] = {}
        self._reports: dict[str, deque[Report]] = {}
        self._token_of = token_of
        self._window_of = window_of
        self._at_once = asyncio.Semaphore(AT_ONCE)

    def samples(self, pods: Sequence[Pod]) -> Mapping[str, Sequence[Sample]]:
        """What is known of these pods, oldest first."""
        return _known(self._series, pods)

    def downloads(self, pods: Sequence[Pod]) -> Mapping[str, float]:
        """Share of the weights that these pods have downloaded, by pod uid."""
        return {pod.uid: self._downloads[pod.uid] for pod in pods if pod.uid in self._downloads}

    async def run(self) -> None:
        """Scrape for ever."""
        while True:
            began = time.monotonic()
            try:
                await self.round()
            except Exception:
                metrics.SCRAPE_ERRORS.inc()
                log.exception("a round of scrapes failed; the next one follows")
            await asyncio.sleep(max(0.5, self._seconds - (time.monotonic() - began)))

    async def round(self) -> None:
        """Scrape every ready engine once."""
        alive: set[str] = set()
        jobs = []
        for key in self._cache.every():
            pods = self._cache.pods(*key)
            alive.update(pod.uid for pod in pods)
            jobs += [self._scrape(key, pod) for pod in pods if pod.ready and pod.ip]
            jobs += [self._ask_agent(key, pod) for pod in pods if pod.live and pod.ready and pod.ip]
            jobs += [self._ask_download(key, pod) for pod in pods if pod.downloading and pod.ip]
        await asyncio.gather(*jobs)
        for known in (self._series, self._reports, self._downloads):
            for uid in set(known) - alive:
                del known[uid]

    async def _ask_agent(self, key: Key, pod: Pod) -> None:
        token = self._token_of(key)
        if not token or pod.ip is None:
            return
        async with self._at_once:
            try:
                report = await self._engines.report(pod.ip, AGENT_PORT, token, time.time())
            except ScrapeError as error:
                metrics.SCRAPE_ERRORS.inc()
                log.debug("%s/%s: the agent of %s does not tell: %s", *key, pod.name, error)
                return
        known = self._reports.setdefault(pod.uid, deque())
        if known and report.time < known[-1].time:  # the clock was set back: see core.acceptance.remember
            known.clear()
        known.append(report)
        while len(known) > 2 and known[1].time < report.time - REPORT_SECONDS:
            known.popleft()
        if len(known) == 1 or _says(known[-2]) != _says(report):
            self._wake(key)

    async def steer(self, key: Key, pod: Pod, wanted: Wanted, seconds: float | None = None) -> None:
        """Give an agent its settings, for so long or to stay, and hear what it says then. Raises ScrapeError."""
        token = self._token_of(key)
        if token and pod.ip:
            await self._engines.steer(pod.ip, AGENT_PORT, token, wanted, seconds)
            await self._ask_agent(key, pod)

    async def state(self, key: Key, pod: Pod) -> str:
        """What the pod's agent has learnt. Raises ScrapeError."""
        return await self._engines.state(pod.ip or "", AGENT_PORT, self._token_of(key))

    async def teach(self, key: Key, pod: Pod, state: str) -> None:
        """Give the pod's agent what another one has learnt, and hear what it says then. Raises ScrapeError."""
        await self._engines.teach(pod.ip or "", AGENT_PORT, self._token_of(key), state)
        await self._ask_agent(key, pod)

    def reports(self, pods: Sequence[Pod]) -> Mapping[str, Sequence[Report]]:
        """What these pods' agents said in the last minute, by pod uid."""
        return _known(self._reports, pods)

    async def _ask_download(self, key: Key, pod: Pod) -> None:
        assert pod.ip is not None
        async with self._at_once:
            try:
                share = await self._engines.downloaded(pod.ip, pod.port)
            except ScrapeError as error:
                log.debug("%s/%s: %s does not tell its download: %s", *key, pod.name, error)
                return
        self._downloads[pod.uid] = share
        self._wake(key)

    async def _scrape(self, key: Key, pod: Pod) -> None:
        assert pod.ip is not None
        async with self._at_once:
            try:
                sample = await self._engines.scrape(pod.ip, pod.port, time.time())
            except ScrapeError as error:
                metrics.SCRAPE_ERRORS.inc()
                log.debug("%s/%s: %s was not scraped: %s", *key, pod.name, error)
                return
        series = self._series.setdefault(pod.uid, [])
        idle = bool(series) and series[-1].generation_tokens == sample.generation_tokens
        remember(series, sample, lambda: self._window_of(key))
        if not idle:
            self._wake(key)


def _says(report: Report) -> tuple[object, ...]:
    """What of a report a pass may have to act on at once; the rest waits for the next one."""
    return report.settings, report.k, report.fallback


def _known(series: Mapping[str, Sequence[_Told]], pods: Sequence[Pod]) -> dict[str, tuple[_Told, ...]]:
    """Of these pods, copied. Each is looked up once: metrics are collected in a thread, and a pod may go meanwhile."""
    found = {pod.uid: series.get(pod.uid) for pod in pods}
    return {uid: tuple(told) for uid, told in found.items() if told is not None}
