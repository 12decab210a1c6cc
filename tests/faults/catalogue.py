"""The faults. Chances come from a seeded generator: a cell of the table can be played again."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

from tests.faults.proxy import GONE, GONE_EVENT, Answer, Asked, Cut, Fault

STREAM_SECONDS = 1.0  # how long a watch lives where watches end again and again
HELD_SECONDS = 0.3  # how long an event waits for another to change places with
BURST_SECONDS = 3.0
SLOW_SECONDS = 0.7


def status(code: int, reason: str, **more: Any) -> bytes:
    """A Status object as the API server answers."""
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, **more}
    return json.dumps({"message": f"{reason}, says the proxy"} | said).encode()


class Chance(Fault):
    """Something that happens to a share of the occasions, and to the first one always: there may be few."""

    share = 0.4

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def strikes(self, asked: Asked) -> bool:
        """Whether this occasion is one."""
        first = not (self.write_hits if asked.is_write else self.hits)
        if self._random.random() >= self.share and not first:
            return False
        self.struck_at(asked)
        return True


class Delay(Chance):
    """Events come late."""

    name = "watch events late"

    async def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # type: ignore[override]
        async for line in lines:
            if self.strikes(asked):
                await asyncio.sleep(1.5 * self._random.random())
            yield line


class Drop(Chance):
    """Events are lost; the watch then ends with a 410, as one does that has missed something."""

    name = "watch events lost"
    share = 0.5
    tells_lies = True

    async def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # type: ignore[override]
        async for line in lines:
            if not self.strikes(asked):
                yield line


class Duplicate(Chance):
    """Events come twice, the second time later."""

    name = "watch events twice"
    share = 1.0

    async def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # type: ignore[override]
        before = b""
        async for line in lines:
            if before and self.strikes(asked):
                yield before
            yield line
            before = line


class Reorder(Chance):
    """Neighbouring events change places."""

    name = "watch events in another order"
    share = 0.5
    tells_lies = True

    async def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # type: ignore[override]
        source = aiter(lines)
        following: asyncio.Task[bytes] | None = None
        try:
            while True:
                first = await (following or asyncio.ensure_future(anext(source)))
                following = None
                if self._random.random() < self.share or not self.hits:
                    following = asyncio.ensure_future(anext(source))
                    done, _ = await asyncio.wait({following}, timeout=HELD_SECONDS)
                    if done:
                        yield following.result()
                        following = None
                        self.struck_at(asked)
                yield first
        except StopAsyncIteration:
            return
        finally:
            if following:
                following.cancel()


class Expire(Fault):
    """Every watch ends with a 410 after a second."""

    name = "410 in the stream"

    async def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # type: ignore[override]
        async for line in _for_a_while(lines):
            yield line
        self.struck_at(asked)
        yield GONE_EVENT


class Break(Fault):
    """Every watch is cut off after a second."""

    name = "watches cut off"

    async def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # type: ignore[override]
        async for line in _for_a_while(lines):
            yield line
        self.struck_at(asked)
        raise Cut


class Stale(Expire):
    """Watches end with a 410, and lists are those of the time before: a replica of the API server that lags."""

    name = "stale lists"
    stale_hits = 0

    @property
    def struck(self) -> bool:
        """Whether a list was an old one."""
        return self.stale_hits > 0

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, Answer] = {}

    async def after(self, asked: Asked, answer: Answer) -> Answer:
        """The answer that the last list got."""
        if not asked.is_list or answer.status != 200:
            return answer
        if asked.path in self._before:
            self.struck_at(asked)
            self.stale_hits += 1
        given = self._before.get(asked.path, answer)
        self._before[asked.path] = answer
        return given


async def _for_a_while(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    end = time.monotonic() + STREAM_SECONDS
    source = aiter(lines)
    try:
        while True:
            yield await asyncio.wait_for(anext(source), max(0.0, end - time.monotonic()))
    except (TimeoutError, StopAsyncIteration):
        return


class Instead(Chance):
    """A share of the requests gets another answer than the API server's."""

    code, reason = 500, "InternalError"
    headers: ClassVar[dict[str, str]] = {}

    def concerns(self, asked: Asked) -> bool:
        """Whether it can strike this request."""
        return True

    async def before(self, asked: Asked) -> Answer | None:
        """The wrong answer."""
        if not self.concerns(asked) or not self.strikes(asked):
            return None
        return Answer(self.code, status(self.code, self.reason), self.headers)


class GoneAtStart(Instead):
    """Watches are refused with a 410."""

    name, code, reason = "410 at a watch's start", 410, "Expired"

    def concerns(self, asked: Asked) -> bool:
        """Watches."""
        return asked.is_watch

    async def stream(self, asked: Asked, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # type: ignore[override]
        async for line in _for_a_while(lines):
            yield line


class Conflict(Instead):
    """Writes meet a conflict."""

    name, code, reason = "409 on writes", 409, "Conflict"
    concerns_writes = True

    def concerns(self, asked: Asked) -> bool:
        """Writes."""
        return asked.is_write


class TooMany(Instead):
    """The API server asks for patience."""

    name, code, reason = "429 with Retry-After", 429, "TooManyRequests"
    concerns_writes = True
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Internal(Instead):
    """The API server fails."""

    name = "500"
    concerns_writes = True


class Unavailable(Fault):
    """Nothing but 503 for three seconds, then nothing wrong for three at least; a write begins the next burst."""

    name = "503 in bursts"
    concerns_writes = True

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    async def before(self, asked: Asked) -> Answer | None:
        """503, in its time."""
        passed = time.monotonic() - self._began
        if asked.is_write and passed >= 2 * BURST_SECONDS:
            self._began, passed = time.monotonic(), 0.0
        if passed >= BURST_SECONDS:
            return None
        self.struck_at(asked)
        return Answer(503, status(503, "ServiceUnavailable"))


class CutBefore(Chance):
    """Connections end before the request is read."""

    name = "requests cut off"
    concerns_writes = True

    async def before(self, asked: Asked) -> Answer | None:
        """End the connection."""
        if self.strikes(asked):
            raise Cut
        return None


class LostAnswer(Chance):
    """Writes are done, and their answers lost."""

    name = "answers to writes lost"
    concerns_writes = True

    async def after(self, asked: Asked, answer: Answer) -> Answer:
        """End the connection."""
        if asked.is_write and self.strikes(asked):
            raise Cut
        return answer


class HalfAnswer(Chance):
    """Answers to writes break off in the middle."""

    name = "answers to writes broken off"
    concerns_writes = True

    async def after(self, asked: Asked, answer: Answer) -> Answer:
        """Half the body."""
        if asked.is_write and self.strikes(asked):
            return Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers)
        return answer


class Slow(Fault):
    """Every answer takes its time."""

    name = "slow answers"
    concerns_writes = True

    async def before(self, asked: Asked) -> Answer | None:
        """Wait."""
        self.struck_at(asked)
        await asyncio.sleep(SLOW_SECONDS)
        return None


class Crash(Fault):
    """The operator is killed once its n-th write is done (n from 1), before it hears of it."""

    def __init__(self, write: int, kill: Callable[[], None]) -> None:
        super().__init__()
        self.name = f"killed at write {write}"
        self._write = write
        self._kill = kill

    async def after(self, asked: Asked, answer: Answer) -> Answer:
        """Kill."""
        if asked.is_write and asked.number + 1 == self._write and not self.hits:
            self.struck_at(asked)
            await asyncio.get_running_loop().run_in_executor(None, self._kill)
            raise Cut
        return answer


ALL: tuple[Callable[[], Fault], ...] = (
    Delay,
    Drop,
    Duplicate,
    Reorder,
    Stale,
    Conflict,
    GoneAtStart,
    Expire,
    TooMany,
    Internal,
    Unavailable,
    CutBefore,
    LostAnswer,
    HalfAnswer,
    Break,
    Slow,
)
__all__ = ["ALL", "GONE", "Crash", "Fault"]
