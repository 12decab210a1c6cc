"""Who moves K for a benchmark. What is held ends by itself: a benchmark that died never leaves K where it was put."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from gemmaspec.adapters.transport import Transport, Unreached
from gemmaspec.bench import reading
from gemmaspec.core import hold

# Held for so long, and renewed so often: a dead benchmark's K is gone within a minute.
HOLD_SECONDS: Final = 60.0
RENEW_SECONDS: Final = 20.0
# The operator acts within a second; one that starts anew needs some more.
ACT_SECONDS: Final = 45.0
LOOK_SECONDS: Final = 0.1
# Settings that end at once: what stood before them holds again.
_RELEASE_SECONDS: Final = 0.001


class Unsteerable(Exception):
    """K can't be moved; the text says why, and what to do."""


class Steering(Protocol):
    """Moves K of one engine."""

    @property
    def name(self) -> str:
        """How, for the result: Live or Restart."""

    async def hold(self, k: int, seconds: float) -> None:
        """K is ``k`` from now on, for so long at least where it ends by itself. Raises Unsteerable or Unreached."""

    async def release(self) -> None:
        """K is again what it would be without the benchmark. Raises Unsteerable or Unreached."""


class AgentPort:
    """By the port of the agent in the engine."""

    name = "Live"

    def __init__(self, agent: Transport) -> None:
        self._agent = agent

    async def hold(self, k: int, seconds: float) -> None:
        """See Steering."""
        await self._put({"mode": "Fixed", "k": k, "untilSeconds": seconds})

    async def release(self) -> None:
        """See Steering."""
        await self._put({"mode": "Fixed", "untilSeconds": _RELEASE_SECONDS})

    async def _put(self, settings: dict[str, object]) -> None:
        try:
            await self._agent.put("/k", settings)
        except Unreached as failure:
            if failure.status == 401:
                raise Unsteerable(
                    "the agent does not know this token; it is the hex HMAC-SHA256 of the resource's uid under the "
                    "operator's key (docs/bench.md)"
                ) from failure
            if failure.status in (409, 422):
                raise Unsteerable(f"the agent does not move K: {failure}") from failure
            raise


class Annotation:
    """By the annotation that the operator reads (gemmaspec.core.hold).

    Args:
        annotate: writes annotations of the resource; None removes one.
        agent: to its agent's port, where what is held shows.
        clock: seconds since the epoch.
    """

    name = "Live"

    def __init__(
        self,
        annotate: Callable[[Mapping[str, str | None]], Awaitable[None]],
        agent: Transport,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._annotate = annotate
        self._agent = agent
        self._clock = clock

    async def hold(self, k: int, seconds: float) -> None:
        """See Steering."""
        await self._annotate({hold.ANNOTATION: hold.Hold(k, self._clock() + seconds).text()})
        await shows(self._agent, k)

    async def release(self) -> None:
        """See Steering."""
        await self._annotate({hold.ANNOTATION: hold.Hold(0, self._clock() - 1).text()})
        try:
            await shows(self._agent, None)
        finally:
            await self._annotate({hold.ANNOTATION: None})


class Wish:
    """By a wish that the operator hears (gemmaspec.core.benchmark): a benchmark's pod has no token and no rights.

    Args:
        agent: to its agent's port, where what is held shows.
    """

    name = "Live"

    def __init__(self, agent: Transport) -> None:
        self._agent = agent
        self.number = 0
        self.k: int | None = None
        self.seconds = 0.0

    async def hold(self, k: int, seconds: float) -> None:
        """See Steering."""
        self.number, self.k, self.seconds = self.number + 1, k, seconds
        await shows(self._agent, k)

    async def release(self) -> None:
        """See Steering."""
        self.number, self.k, self.seconds = self.number + 1, None, 0.0
        await shows(self._agent, None)


async def shows(agent: Transport, k: int | None) -> None:
    """Wait until the agent holds ``k``, or none. Raises Unsteerable or Unreached."""
    ends = time.monotonic() + ACT_SECONDS
    while reading.held(await agent.get("/metrics")) != k:
        if time.monotonic() > ends:
            words = "still held" if k is None else f"not {k}"
            raise Unsteerable(
                f"K is {words} {ACT_SECONDS:.0f} s after the operator was asked; `gemmaspec status` tells why"
            )
        await asyncio.sleep(LOOK_SECONDS)


class Edit:
    """By editing the spec, for engines whose K moves by restart; what stood there is put back at the end.

    Args:
        patch: merges into the spec's `speculative`.
        before: what of it is edited, as it stood; None for a field that was absent.
        runs: waits until engines with this K (None: the spec's own) serve. Raises Unsteerable.
    """

    name = "Restart"

    def __init__(
        self,
        patch: Callable[[Mapping[str, Any]], Awaitable[None]],
        before: Mapping[str, Any],
        runs: Callable[[int | None], Awaitable[None]],
    ) -> None:
        self._patch = patch
        self._before = before
        self._runs = runs
        self._k: int | None = None

    async def hold(self, k: int, seconds: float) -> None:
        """See Steering. An edit has no end."""
        del seconds
        if k != self._k:
            # Fixed: else the operator would move K itself, for what it sees meanwhile.
            await self._patch({"k": k, "control": {"mode": "Fixed"}})
            self._k = k
            await self._runs(k)

    async def release(self) -> None:
        """See Steering."""
        self._k = None
        await self._patch(self._before)


class Held:
    """Keeps a K held while measurements go on."""

    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._k: int | None = None
        self._renewing: asyncio.Task[None] | None = None
        self.failure: Unreached | Unsteerable | None = None
        """What the last renewal met; the K may have ended since."""

    async def hold(self, k: int) -> None:
        """K is ``k`` until another is held, or until released."""
        if k == self._k and self.failure is None:
            return
        await self._stop()
        await self._steering.hold(k, HOLD_SECONDS)
        self._k, self.failure = k, None
        self._renewing = asyncio.create_task(self._renew(k))

    async def release(self) -> None:
        """Let go, where anything is held."""
        await self._stop()
        if self._k is not None:
            self._k = None
            await self._steering.release()

    async def _renew(self, k: int) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._steering.hold(k, HOLD_SECONDS)
                self.failure = None
            except (Unreached, Unsteerable) as failure:
                self.failure = failure

    async def _stop(self) -> None:
        task, self._renewing = self._renewing, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
