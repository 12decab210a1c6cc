"""Warm-up requests beside scrapes: what is counted, what is not, and that traffic's counters come without them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from gemmaspec.adapters.engine import Engines, Refused, ScrapeError, Told
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.core.warmup import stored
from gemmaspec.runtime import warmups
from gemmaspec.runtime.warmups import WarmUps
from tests.core.test_analysis import POD

KEY = ("ns", "a")
HERE = replace(POD, ip="10.0.0.1")


class FakeEngine:
    """Counters that gain four tokens a draft, by our requests and by those of ``others``."""

    def __init__(self, others: int = 0, failure: Exception | None = None, running: float = 0.0) -> None:
        self.others, self.failure, self.running = others, failure, running
        self.requests = self.tokens = 0
        self.asked: list[Mapping[str, Any]] = []

    async def scrape(self, ip: str, port: int, now: float) -> Told:
        return Told(self.sample(now), 0)

    def sample(self, now: float) -> Sample:
        drafts = self.tokens / 4
        return Sample(
            time=now,
            drafts=drafts,
            draft_tokens=4 * drafts,
            accepted_tokens=3 * drafts,
            accepted_per_position=(drafts, drafts, drafts, 0.0),
            generation_tokens=float(self.tokens),
            requests_finished=float(self.requests),
            step_seconds_sum=0.02 * drafts,
            step_seconds_count=drafts,
            running=self.running,
        )

    async def complete(self, ip: str, port: int, token: str, body: Mapping[str, Any]) -> int:
        self.asked.append(body)
        if self.failure:
            raise self.failure
        self.requests += 1 + bool(self.others)
        self.tokens += 128 + self.others
        return 128


async def asked(engine: FakeEngine, status: Mapping[str, Any] | None = None, pod: Pod = HERE) -> tuple[WarmUps, int]:
    """After one request; how often the resource was woken."""
    woken: list[object] = []
    found = WarmUps(cast("Engines", engine), woken.append, lambda _: "token", lambda _: status or {}, lambda: 1000.0)
    found.start(KEY, pod, {"seed": 0})
    assert found.busy(pod), "what is scraped now is half of it"
    while found.busy(pod):
        await asyncio.sleep(0)
    return found, len(woken)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmups, "SETTLE_SECONDS", 0.0)


def traffic(found: WarmUps, engine: FakeEngine) -> Sample:
    return found.traffic(KEY, HERE, engine.sample(0.0))


async def test_a_request_counts_by_itself_and_is_no_traffic() -> None:
    engine = FakeEngine()
    found, woken = await asked(engine)
    gained = found.found([HERE])[HERE.uid]
    assert (gained.requests, gained.drafts, gained.speeds, woken) == (1, 32.0, (200.0,), 1)
    left = traffic(found, engine)
    assert (left.drafts, left.generation_tokens, left.requests_finished, left.accepted_tokens) == (0, 0, 0, 0)
    engine.tokens, engine.requests = 528, 2
    assert (traffic(found, engine)).generation_tokens == 400


async def test_a_request_that_others_came_into_tells_nothing_and_is_no_traffic_either() -> None:
    engine = FakeEngine(others=64)
    found, woken = await asked(engine)
    gained = found.found([HERE])[HERE.uid]
    assert (gained.requests, gained.lost, gained.drafts, woken) == (0, 1, 0.0, 0)
    assert (traffic(found, engine)).generation_tokens == 0


async def test_a_busy_engine_is_asked_nothing() -> None:
    engine = FakeEngine(running=1.0)
    found, woken = await asked(engine)
    assert (engine.asked, found.found([HERE]), woken) == ([], {}, 0)


@pytest.mark.parametrize(
    ("failure", "refused", "lost"),
    [(Refused("HTTP 404: no chat"), "HTTP 404: no chat", 0), (ScrapeError("gone"), "", 1)],
)
async def test_an_engine_that_does_not_answer(failure: Exception, refused: str, lost: int) -> None:
    found, _ = await asked(FakeEngine(failure=failure))
    gained = found.found([HERE])[HERE.uid]
    assert (gained.refused, gained.lost, gained.requests) == (refused, lost, 0)


async def test_another_operator_goes_on_from_the_status() -> None:
    engine = FakeEngine()
    first, _ = await asked(engine)
    told = stored(first.found([HERE])[HERE.uid], HERE.revision)
    second, _ = await asked(engine, {"rollout": {"keptWarmUp": told}})
    assert second.found([HERE])[HERE.uid].requests == 2
    assert (traffic(second, engine)).generation_tokens == 0
    restarted = replace(HERE, restarts=1)
    assert second.found([restarted]) == {}, "its counters began anew"
    second.forget(set())
    assert second.found([HERE]) == {}
