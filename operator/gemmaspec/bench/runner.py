"""Makes a sweep's measurements on one engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gemmaspec.adapters.transport import Transport, Unreached
from gemmaspec.bench import completion
from gemmaspec.bench.reading import Reading, read
from gemmaspec.bench.steering import Held, Steering, Unsteerable
from gemmaspec.core.bench import figures
from gemmaspec.core.bench.figures import Spoilt, Stream
from gemmaspec.core.bench.forecast import seconds_left
from gemmaspec.core.bench.result import Run
from gemmaspec.core.bench.sweep import Sweep, Turn, Workload

log = logging.getLogger("gemmaspec.bench")

# A request that takes longer than this is lost: at 1 token/s, the slowest engine, it is some 2,000 tokens behind
# four others in the queue.
ANSWER_SECONDS: Final = 3600.0
WARM_TOKENS: Final = 16
# Between looks at how many requests run, where no agent counts them.
LOOK_SECONDS: Final = 0.5
ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 0.5
# Length of the text by which characters per token are found.
GAUGE_CHARACTERS: Final = 2000
# Of the wanted length, before it is counted again: the start of a text may have more tokens than the rest.
NEARLY: Final = 0.95


class Failed(Exception):
    """The benchmark can't go on; the text says why, and what to do. ``runs``: what was measured before."""

    def __init__(self, message: str, runs: Sequence[Run] = ()) -> None:
        super().__init__(message)
        self.runs = list(runs)


@dataclass(frozen=True)
class Model:
    """What the engine serves."""

    name: str
    context: int | None


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands. left: seconds, None while nothing was measured."""

    done: int
    total: int
    turn: Turn | None
    left: float | None
    last: Run | None = None


async def served(engine: Transport) -> Model:
    """The first model that the engine lists. Raises Failed."""
    try:
        card = json.loads(await engine.get("/v1/models"))["data"][0]
        context = card.get("max_model_len")
        return Model(str(card["id"]), None if context is None else int(context))
    except Unreached as failure:
        raise Failed(f"{failure}; {_way_out(failure)}") from failure
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Failed(f"{engine.where}/v1/models lists no model ({error!r}): is this vLLM's port?") from error


def _way_out(failure: Unreached) -> str:
    if failure.status == 401:
        return "the engine wants its API key: set OPENAI_API_KEY, and use --url, since the API server's proxy drops it"
    if failure.status == 403:
        return "ask for the right to get and create pods/proxy, or use --url with `kubectl port-forward`"
    return "does the engine serve? `gemmaspec status` tells"


class Runner:
    """One engine, one sweep.

    Args:
        engine: the way to its API. metrics: to its /metrics, which needs no key.
        agent: to its agent's port; None without one.
        steering: moves K; None where it stays.
        told: called after each measurement, and before the first one.
    """

    def __init__(
        self,
        engine: Transport,
        agent: Transport | None,
        steering: Steering | None,
        sweep: Sweep,
        told: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._agent = agent
        self._lasts = 0.0 if steering is None else steering.lasts
        self._held = Held(steering) if steering is not None else None
        self._sweep = sweep
        self._told = told
        self._model = ""
        self._texts: dict[str, Workload] = {}
        self._number = 0
        self._salt = uuid.uuid4().hex[:12]
        self.runs: list[Run] = []

    async def run(self, model: str) -> list[Run]:
        """All measurements. K is let go at the end, whatever it is. Raises Failed."""
        self._model = model
        try:
            await self._prepare()
            await self._all()
        except (Unreached, Unsteerable, Spoilt) as failure:
            raise Failed(
                f"{failure}; {len(self.runs)} of {self._sweep.size} measurements were made", self.runs
            ) from failure
        finally:
            await self._let_go()
        return self.runs

    async def _let_go(self) -> None:
        if self._held is None:
            return
        try:
            await self._held.release()
        except (Unreached, Unsteerable) as failure:
            log.warning("K was not let go: %s; what is held ends by itself within %.0f s", failure, self._lasts)
            return
        # The engine's last step tells which K it runs with: one more, without the hold.
        with contextlib.suppress(Unreached):
            short = replace(self._sweep.workloads[0], tokens=WARM_TOKENS, prompt_tokens=None)
            await self._ask(short)

    async def _prepare(self) -> None:
        """Fit the synthetic prompts to their lengths, and let every K make its first steps, which compile."""
        for workload in self._sweep.workloads:
            self._texts[workload.name] = await self._filled(workload)
        # Neither may be in the measurements: an engine that was just started, a K that never ran.
        if not self._sweep.seldom:
            for k in self._sweep.ks:
                await self._warm(k)

    async def _warm(self, k: int | None) -> None:
        await self._hold(k)
        short = replace(self._sweep.workloads[0], tokens=WARM_TOKENS, prompt_tokens=None)
        asked = [self._ask(short) for _ in range(max(self._sweep.concurrencies))]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(failures) == len(answers):
            raise failures[0]  # some may be lost while an engine makes its first steps, not all

    async def _filled(self, workload: Workload) -> Workload:
        if workload.prompt_tokens is None:
            return workload
        characters = GAUGE_CHARACTERS
        # Tokens are counted once more where it matters: an engine may have room for no more.
        for share in (NEARLY, 1.0):
            gauge = replace(workload, text=_repeated(workload.text, characters), tokens=2)
            counted = await self._ask(gauge)
            if not counted.prompt_tokens:
                raise Unreached(0, f"{self._engine.where} does not tell the length of prompts: is it vLLM?")
            characters = int(share * characters * workload.prompt_tokens / counted.prompt_tokens)
        return replace(workload, text=_repeated(workload.text, characters))

    async def _all(self) -> None:
        turns = list(self._sweep.turns())
        done: list[tuple[Turn, float]] = []
        self._told(Progress(0, len(turns), turns[0], None))
        for at, turn in enumerate(turns):
            if self._sweep.seldom and (at == 0 or turns[at - 1].k != turn.k):
                await self._warm(turn.k)
            begun = time.perf_counter()
            self.runs.append(await self._tried(turn))
            done.append((turn, time.perf_counter() - begun))
            following = turns[at + 1] if at + 1 < len(turns) else None
            left = seconds_left(done, turns[at + 1 :])
            self._told(Progress(at + 1, len(turns), following, left, self.runs[-1]))

    async def _tried(self, turn: Turn) -> Run:
        """One measurement, made again where it was spoilt, or an answer broke off."""
        for attempt in range(ATTEMPTS):
            try:
                return await self._measured(turn)
            except (Spoilt, Unreached) as failure:
                if attempt == ATTEMPTS - 1:
                    raise
                log.warning("%s; once more", failure)
                if self._held is not None:
                    self._held.doubt()
                await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError("unreachable")

    async def _measured(self, turn: Turn) -> Run:
        await self._hold(turn.k)
        before = await self._read(turn.k)
        workload = self._texts[turn.workload.name]
        running: list[float] = []
        watching = asyncio.create_task(self._watch(turn.k, running)) if self._agent is None else None
        begun = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(workload)) for _ in range(turn.concurrency)]
        except* Unreached as failures:
            raise failures.exceptions[0] from None
        finally:
            if watching is not None:
                watching.cancel()
        seconds = time.perf_counter() - begun
        if self._held is not None and self._held.failure is not None:
            raise Spoilt(f"K={turn.k} could not be held: {self._held.failure}")
        after = await self._read(turn.k)
        batch = sum(running) / len(running) if running else None
        return figures.run(turn, [task.result() for task in tasks], seconds, before.counters, after.counters, batch)

    async def _hold(self, k: int | None) -> None:
        if self._held is not None and k is not None:
            await self._held.hold(k)

    async def _read(self, k: int | None) -> Reading:
        return await read(self._engine, self._agent, k)

    async def _watch(self, k: int | None, running: list[float]) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(Unreached):
                running.append((await self._read(k)).running)

    async def _ask(self, workload: Workload) -> Stream:
        self._number += 1
        mark = f"{self._salt}-{self._number}"
        return await completion.ask(self._engine, self._model, workload, mark, self._sweep.temperature, ANSWER_SECONDS)


def _repeated(text: str, characters: int) -> str:
    whole = text + "\n"
    return (whole * (characters // len(whole) + 1))[: max(1, characters)]
