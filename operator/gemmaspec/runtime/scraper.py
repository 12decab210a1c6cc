"""Scrapes every ready engine in turn and keeps what the longest window needs.

A round is spread over its time: passes and watches of thousands of resources go on in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from gemmaspec.adapters.engine import Engines, ScrapeError, Told
from gemmaspec.core import names
from gemmaspec.core.acceptance import MAX_GAP_SECONDS, remember
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.live import AGENT_PORT
from gemmaspec.core.observation import Pod, Sample, Wish
from gemmaspec.core.plan import BENCHMARK_PORT
from gemmaspec.core.series import Series
from gemmaspec.core.warmup import WarmUp
from gemmaspec.runtime import metrics
from gemmaspec.runtime.cache import Cache
from gemmaspec.runtime.queue import Key
from gemmaspec.runtime.warmups import WarmUps

log = logging.getLogger("gemmaspec.scraper")

AT_ONCE: Final = 64
# More engines than these in a second are scraped less often: each costs most of a millisecond of processor time.
MOST_A_SECOND: Final = 200.0
# Share of a round's time over which its requests are begun; the rest is for answers.
SPREAD: Final = 0.8
# Pauses within a round are no shorter.
PAUSE_SECONDS: Final = 0.01
# A benchmark changes K some dozens of times, and waits for each change.
WISH_SECONDS: Final = 0.5
# Reports of agents are kept this long: the published K is what most steps of this time verified.
REPORT_SECONDS = 60.0
# An agent that was asked for so long and never answered is told of: a busy machine may lose some answers.
SILENT_SECONDS = 120.0


class Scraper:
    """Samples by pod. Wakes a resource when one of its engines has told something new; look: the same for new figures
    alone, which nobody waits for.
    """

    def __init__(
        self,
        engines: Engines,
        cache: Cache,
        wake: Callable[[Key], None],
        seconds: float,
        token_of: Callable[[Key], str] = lambda _: "",
        window_of: Callable[[Key], float] = lambda _: 0.0,
        look: Callable[[Key], None] | None = None,
    ) -> None:
        self._engines = engines
        self._cache = cache
        self._wake = wake
        self._look = look or wake
        self._seconds = seconds
        self._series: dict[str, Series] = {}
        self._told: dict[str, Told] = {}
        self._downloads: dict[str, float] = {}
        self._waits: dict[str, str] = {}
        self._reports: dict[str, deque[Report]] = {}
        self._heard: dict[str, float] = {}
        """When the newest of a pod's reports was asked for, by the monotonic clock."""
        self._wishes: dict[str, Wish] = {}
        self._token_of = token_of
        self._window_of = window_of
        self._asked: dict[str, float] = {}  # monotonic time of an agent's first question that got no answer
        self._silent: set[str] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._warmups = WarmUps(engines, wake, token_of, self._status, time.time)

    def _status(self, key: Key) -> Mapping[str, Any]:
        resource = self._cache.resource(*key)
        return resource.status if resource else {}

    def samples(self, pods: Sequence[Pod]) -> Mapping[str, Sequence[Sample]]:
        """What is known of these pods, oldest first: a copy, taken in one look at each pod, since metrics are collected
        in a thread, and a pod may go meanwhile.
        """
        found = {pod.uid: self._series.get(pod.uid) for pod in pods}
        return {uid: series.copy() for uid, series in found.items() if series is not None}

    def downloads(self, pods: Sequence[Pod]) -> Mapping[str, float]:
        """Share of the weights that these pods have downloaded, by pod uid."""
        return {pod.uid: self._downloads[pod.uid] for pod in pods if pod.uid in self._downloads}

    def waits(self, pods: Sequence[Pod]) -> Mapping[str, str]:
        """What these pods' launchers wait for, by pod uid."""
        return {pod.uid: self._waits[pod.uid] for pod in pods if pod.uid in self._waits}

    def warm(self, key: Key, pod: Pod, body: Mapping[str, Any]) -> None:
        """Send a warm-up request; the resource is woken when it was answered."""
        self._warmups.start(key, pod, body)

    def warmups(self, pods: Sequence[Pod]) -> Mapping[str, WarmUp]:
        """What warm-up gained on these pods' engines, by pod uid."""
        return self._warmups.found(pods)

    def close(self) -> None:
        """Warm-up requests under way are given up."""
        self._warmups.close()

    async def run(self) -> None:
        """Scrape for ever."""
        while True:
            began = time.monotonic()
            seconds = self.interval()
            try:
                await self.round(SPREAD * seconds)
            except Exception:
                metrics.SCRAPE_ERRORS.inc()
                log.exception("a round of scrapes failed; the next one follows")
            await asyncio.sleep(max(0.5, seconds - (time.monotonic() - began)))

    def interval(self) -> float:
        """Seconds between two scrapes of an engine: what was asked for, more with a thousand engines and upwards."""
        return max(self._seconds, min(MAX_GAP_SECONDS / 2, sum(1 for _ in self._jobs()) / MOST_A_SECOND))

    async def round(self, seconds: float = 0.0) -> None:
        """Scrape every ready engine once; requests are begun evenly over ``seconds``."""
        jobs, began = list(self._jobs()), time.monotonic()
        async with asyncio.TaskGroup() as running:
            for number, job in enumerate(jobs):
                early = began + seconds * number / len(jobs) - time.monotonic()
                if early > PAUSE_SECONDS:
                    await asyncio.sleep(early)
                await self._at_once.acquire()
                running.create_task(self._freeing(job))
        alive = {pod.uid for key in self._cache.every() for pod in self._cache.pods(*key)}
        stores = (self._series, self._told, self._reports, self._downloads, self._waits, self._asked, self._heard)
        for known in stores:
            for uid in known.keys() - alive:
                del known[uid]
        self._warmups.forget(alive)
        self._silent &= alive

    def _jobs(self) -> Iterator[Callable[[], Awaitable[None]]]:
        for key in self._cache.every():
            for pod in self._cache.pods(*key):
                if pod.ip and pod.ready:
                    yield partial(self._scrape, key, pod)
                if pod.ip and pod.ready and pod.live:
                    yield partial(self._ask_agent, key, pod)
                if pod.ip and pod.downloading:
                    yield partial(self._ask_download, key, pod)
                if pod.ip and pod.running and not pod.ready and not pod.terminating:
                    yield partial(self._ask_launcher, key, pod)

    async def _freeing(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception:  # one engine's trouble is no other's
            metrics.SCRAPE_ERRORS.inc()
            log.exception("a scrape failed; the next round follows")
        finally:
            self._at_once.release()

    async def _ask_agent(self, key: Key, pod: Pod) -> None:
        token = self._token_of(key)
        if not token or pod.ip is None:
            return
        asked = time.monotonic()
        try:
            report = await self._engines.report(pod.ip, AGENT_PORT, token, time.time())
        except ScrapeError as error:
            metrics.SCRAPE_ERRORS.inc()
            log.debug("%s/%s: the agent of %s does not tell: %s", *key, pod.name, error)
            self._unheard(key, pod)
            return
        self._asked.pop(pod.uid, None)
        if pod.uid in self._silent:
            self._silent.discard(pod.uid)
            self._wake(key)
        if asked < self._heard.get(pod.uid, 0.0):
            return  # a round's question and one after a PUT: what was asked first may be heard last, and is old then
        self._heard[pod.uid] = asked
        known = self._reports.setdefault(pod.uid, deque())
        if known and report.time < known[-1].time:  # the clock was set back: see core.acceptance.remember
            known.clear()
        known.append(report)
        while len(known) > 2 and known[1].time < report.time - REPORT_SECONDS:
            known.popleft()
        if len(known) == 1 or _says(known[-2]) != _says(report):
            self._wake(key)

    def _unheard(self, key: Key, pod: Pod) -> None:
        since = self._asked.setdefault(pod.uid, time.monotonic())
        if pod.uid not in self._silent and time.monotonic() - since >= SILENT_SECONDS:
            self._silent.add(pod.uid)
            self._wake(key)

    def silent(self, pods: Sequence[Pod]) -> frozenset[str]:
        """Uids of those pods whose agents have been asked for long, and have not answered."""
        return frozenset(pod.uid for pod in pods if pod.uid in self._silent)

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

    def wishes(self, pods: Sequence[Pod]) -> tuple[tuple[Pod, Wish | None], ...]:
        """These pods of benchmarks, and what each said last."""
        return tuple((pod, self._wishes.get(pod.uid)) for pod in pods)

    async def follow(self) -> None:
        """Hear what benchmarks want, for ever: often while there is one."""
        while True:
            try:
                found = await self.hear()
            except Exception:
                metrics.SCRAPE_ERRORS.inc()
                found = False
                log.exception("benchmarks were not heard; the next round follows")
            await asyncio.sleep(WISH_SECONDS if found else self._seconds)

    async def hear(self) -> bool:
        """Ask every benchmark once; whether there was any."""
        asked: dict[str, tuple[Key, Pod]] = {}
        for key in self._cache.every():
            for pod in self._cache.pods(key[0], names.benchmark_pods(key[1])):
                asked[pod.uid] = key, pod
        for uid in self._wishes.keys() - asked.keys():
            del self._wishes[uid]
        await asyncio.gather(*(self._hear(key, pod) for key, pod in asked.values() if pod.ip and not pod.terminating))
        return bool(asked)

    async def _hear(self, key: Key, pod: Pod) -> None:
        before = self._wishes.get(pod.uid)
        if before is not None and (before.summary is not None or before.failure):
            return
        try:
            wish = await self._engines.wish(pod.ip or "", BENCHMARK_PORT, time.time())
        except ScrapeError as error:
            log.debug("%s/%s: %s does not tell what it wants: %s", *key, pod.name, error)
            return
        if before is None or before.number != wish.number:
            self._wishes[pod.uid] = wish
            self._wake(key)

    def reports(self, pods: Sequence[Pod]) -> Mapping[str, Sequence[Report]]:
        """What these pods' agents said in the last minute, by pod uid."""
        found = {pod.uid: self._reports.get(pod.uid) for pod in pods}
        return {uid: tuple(told) for uid, told in found.items() if told is not None}

    async def _ask_download(self, key: Key, pod: Pod) -> None:
        assert pod.ip is not None
        try:
            share = await self._engines.downloaded(pod.ip, pod.port)
        except ScrapeError as error:
            log.debug("%s/%s: %s does not tell its download: %s", *key, pod.name, error)
            return
        self._downloads[pod.uid] = share
        self._wake(key)

    async def _ask_launcher(self, key: Key, pod: Pod) -> None:
        """Nobody answers while the engine boots: then the launcher waits for nothing."""
        try:
            told = await self._engines.waits(pod.ip or "", pod.port)
        except ScrapeError:
            told = ""
        if told != self._waits.get(pod.uid, ""):
            self._waits[pod.uid] = told
            self._wake(key)

    async def _scrape(self, key: Key, pod: Pod) -> None:
        assert pod.ip is not None
        if self._warmups.busy(pod):
            return
        try:
            now = round(time.time(), 3)  # finer than a window, and kept in a quarter of the bytes
            told = await self._engines.scrape(pod.ip, pod.port, now, self._told.get(pod.uid))
        except ScrapeError as error:
            metrics.SCRAPE_ERRORS.inc()
            log.debug("%s/%s: %s was not scraped: %s", *key, pod.name, error)
            return
        if self._warmups.busy(pod):
            return
        self._told[pod.uid] = told
        sample = self._warmups.traffic(key, pod, told.sample)
        series = self._series.setdefault(pod.uid, Series())
        idle = bool(series) and series[-1].generation_tokens == sample.generation_tokens
        remember(series, sample, lambda: self._window_of(key))
        if not idle:
            self._look(key)


def _says(report: Report) -> tuple[object, ...]:
    """What of a report a pass may have to act on at once; the rest waits for the next one."""
    return report.settings, report.k, report.fallback
