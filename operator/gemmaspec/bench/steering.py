"""Who moves K for a benchmark. What is held ends by itself: a benchmark that died never leaves K where it was put."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from gemmaspec.adapters.cluster import Stale
from gemmaspec.adapters.transport import Transport, Unreached
from gemmaspec.bench import reading
from gemmaspec.core import hold

# Held for so long, and renewed so often: a dead benchmark's K is gone within a minute.
HOLD_SECONDS: Final = 60.0
RENEW_SECONDS: Final = 20.0
# The operator acts within a second; one that starts anew needs some more.
ACT_SECONDS: Final = 45.0
LOOK_SECONDS: Final = 0.1
CHECK_SECONDS: Final = 1.0
# A boot is dear: an API server that is away for some minutes must not end a K that restarts brought about.
RESTART_HOLD_SECONDS: Final = 300.0
RESTART_LOOK_SECONDS: Final = 2.0
# The operator writes the status once a minute at most; nobody else is expected twice in a row.
STALE_ATTEMPTS: Final = 5
# Settings that end at once: what stood before them holds again.
_RELEASE_SECONDS: Final = 0.001
_TAKEN: Final = (
    f"{hold.ANNOTATION} was written by somebody else (`gemmaspec set-k`, or another benchmark): what it says stands, "
    "and the benchmark ends"
)


class Unsteerable(Exception):
    """K can't be moved; the text says why, and what to do."""


class Refused(Unsteerable):
    """What was asked for was not written: K is where it was."""


class Taken(Refused):
    """Somebody else holds K, whose wish stands."""


class Steering(Protocol):
    """Moves K of one engine."""

    @property
    def name(self) -> str:
        """How, for the result: Live or Restart."""

    @property
    def lasts(self) -> float:
        """Seconds after which what is held ends by itself, unless renewed."""

    async def hold(self, k: int, seconds: float) -> None:
        """K is ``k`` from now on, for so long unless asked again. Raises Unsteerable or Unreached."""

    async def release(self) -> None:
        """K is again what it would be without the benchmark. Raises Unsteerable or Unreached."""


class AgentPort:
    """By the port of the agent in the engine."""

    name = "Live"
    lasts = HOLD_SECONDS

    def __init__(self, agent: Transport) -> None:
        self._agent = agent

    async def hold(self, k: int, seconds: float) -> None:
        """See Steering."""
        await self._put({"mode": "Fixed", "k": k, "untilSeconds": seconds})

    async def release(self) -> None:
        """See Steering."""
        await self._put({"mode": "Fixed", "untilSeconds": _RELEASE_SECONDS})

    async def offer(self, state: str) -> None:
        """Give the policy what a sweep has found, as its prior (PUT /state). Raises Unreached."""
        await self._agent.put("/state", json.loads(state))

    async def _put(self, settings: dict[str, object]) -> None:
        try:
            await self._agent.put("/k", settings)
        except Unreached as failure:
            if failure.status == 401:
                raise Refused(
                    "the agent does not know this token; it is the hex HMAC-SHA256 of the resource's uid under the "
                    "operator's key (docs/bench.md)"
                ) from failure
            if failure.status in (409, 422):
                raise Refused(f"the agent does not move K: {failure}") from failure
            raise


class Note:
    """The annotation that the operator reads (gemmaspec.core.hold), as far as it is the benchmark's: what somebody else
    writes there is neither overwritten nor removed.

    Args:
        resource: reads the resource.
        annotate: writes annotations, where the resource still has this resourceVersion; None removes one. Raises
            Stale.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        resource: Callable[[], Awaitable[Mapping[str, Any]]],
        annotate: Callable[[Mapping[str, str | None], str], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resource = resource
        self._annotate = annotate
        self._clock = clock
        # All that was sent, since an answer may be lost and its write be done.
        self._own: set[str] = set()

    async def write(self, k: int, seconds: float) -> None:
        """Hold K for so long. Raises Taken."""
        if not await self._replaced(hold.Hold(k, self._clock() + seconds).text()):
            raise Taken(_TAKEN)

    async def check(self) -> None:
        """Raises Taken where somebody else has written it since, and Unsteerable where the operator refuses it."""
        body = await self._resource()
        if self._is_anothers(body["metadata"].get("annotations") or {}):
            raise Taken(_TAKEN)
        said = (((body.get("status") or {}).get("k") or {}).get("held") or {}).get("message") or ""
        if said.startswith(hold.NOT_HELD):
            raise Unsteerable(f"K is {said}; `gemmaspec status` tells more")

    async def end(self) -> bool:
        """Let it end now; False where it is somebody else's."""
        return bool(self._own) and await self._replaced(hold.Hold(0, self._clock() - 1).text())

    async def remove(self) -> None:
        """Take it away, where it is the benchmark's."""
        if self._own:
            await self._replaced(None)

    async def _replaced(self, text: str | None) -> bool:
        """Write it; False, with nothing written, where somebody else did before."""
        for _ in range(STALE_ATTEMPTS):
            metadata = (await self._resource())["metadata"]
            if self._is_anothers(metadata.get("annotations") or {}):
                return False
            if text is not None:
                self._own.add(text)
            try:
                await self._annotate({hold.ANNOTATION: text}, str(metadata["resourceVersion"]))
            except Stale:
                continue
            return True
        raise Unreached(409, f"the resource was written by others {STALE_ATTEMPTS} times in a row")

    def _is_anothers(self, annotations: Mapping[str, Any]) -> bool:
        found = annotations.get(hold.ANNOTATION)
        if found in self._own:
            return False
        if self._own:
            return found is not None
        return hold.standing(annotations, self._clock()) is not None  # what has ended holds nothing


class Annotation:
    """By the annotation that the operator reads, on engines that move K live.

    Args:
        note: the annotation.
        agent: to its agent's port, where what is held shows.
    """

    name = "Live"
    lasts = HOLD_SECONDS

    def __init__(self, note: Note, agent: Transport) -> None:
        self._note = note
        self._agent = agent

    async def hold(self, k: int, seconds: float) -> None:
        """See Steering."""
        await self._note.write(k, seconds)
        await shows(self._agent, k, self._note.check)

    async def release(self) -> None:
        """See Steering. Agents know an end, so that the annotation stays until they have heard of an earlier one."""
        if not await self._note.end():
            return
        try:
            await shows(self._agent, None, self._note.check)
        except Taken:
            return
        finally:
            await self._note.remove()


class Wish:
    """By a wish that the operator hears (gemmaspec.core.benchmark): a benchmark's pod has no token and no rights.

    Args:
        agent: to its agent's port, where what is held shows.
    """

    name = "Live"
    lasts = HOLD_SECONDS

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


async def shows(agent: Transport, k: int | None, check: Callable[[], Awaitable[None]] | None = None) -> None:
    """Wait until the agent holds ``k``, or none. Raises Unsteerable or Unreached, and what ``check`` raises."""
    begun = checked = time.monotonic()
    while reading.held(await agent.get("/metrics")) != k:
        now = time.monotonic()
        if check is not None and now - checked > CHECK_SECONDS:
            checked = now
            await check()
        if now - begun > ACT_SECONDS:
            words = "still held" if k is None else f"not {k}"
            raise Unsteerable(
                f"K is {words} {ACT_SECONDS:.0f} s after the operator was asked; `gemmaspec status` tells why"
            )
        await asyncio.sleep(LOOK_SECONDS)


class Restarts:
    """By the annotation too, where the operator moves K by restart: engines boot with it, and again once it ends.

    Args:
        note: the annotation.
        resource: reads the resource.
        patience: seconds that engines may take until they serve with another K.
    """

    name = "Restart"
    lasts = RESTART_HOLD_SECONDS

    def __init__(
        self,
        note: Note,
        resource: Callable[[], Awaitable[Mapping[str, Any]]],
        patience: float,
    ) -> None:
        self._note = note
        self._resource = resource
        self._patience = patience
        self._k: int | None = None

    async def hold(self, k: int, seconds: float) -> None:
        """See Steering. Returns once engines with this K serve; for a K that is held already, after a look."""
        again, self._k = k == self._k, None
        await self._note.write(k, seconds)
        if again:
            runs = ((await self._resource()).get("status") or {}).get("k") or {}
            if runs.get("effective") != k:
                raise Unsteerable(f"K={k} was held, and engines have K={runs.get('effective')}: somebody else moves it")
        else:
            await self._until_served(k, seconds)
        self._k = k

    async def release(self) -> None:
        """See Steering. No agent knows an end, so that the annotation may just go."""
        self._k = None
        await self._note.remove()

    async def _until_served(self, k: int, seconds: float) -> None:
        begun = renewed = time.monotonic()
        heard = False
        while True:
            try:
                if time.monotonic() - renewed > RENEW_SECONDS:
                    renewed = time.monotonic()
                    await self._note.write(k, seconds)
                body = await self._resource()
                heard = heard or _holds(body, k)
                missing = _missing(body, k)
            except Unreached as failure:  # an API server may be away for a moment of a boot
                missing = str(failure)
            if not missing:
                return
            passed = time.monotonic() - begun
            if passed > self._patience or (passed > ACT_SECONDS and not heard):
                within = self._patience if heard else ACT_SECONDS
                raise Unsteerable(
                    f"no engine with K={k} serves {within:.0f} s after the operator was asked: {missing}; "
                    "`gemmaspec status` tells more"
                )
            await asyncio.sleep(RESTART_LOOK_SECONDS)


def _holds(body: Mapping[str, Any], k: int) -> bool:
    """Whether the operator has read the annotation."""
    known = (body.get("status") or {}).get("k") or {}
    return (known.get("held") or {}).get("k") == k


def _missing(body: Mapping[str, Any], k: int) -> str:
    """What engines that are held at ``k`` lack; empty where they serve. Raises Unsteerable where they never will."""
    if not _holds(body, k):
        return "status.k.held does not show it (does the operator run, and do its clock and yours agree?)"
    status = body["status"]
    conditions = {entry["type"]: entry for entry in status.get("conditions", ())}
    if conditions.get("Stalled", {}).get("status") == "True":
        raise Unsteerable(f"engines with K={k} do not start: {conditions['Stalled'].get('message')}")
    if status["k"].get("effective") != k:
        said = str(status["k"]["held"].get("message"))
        if said.startswith(hold.NOT_HELD):
            raise Unsteerable(f"K={k} is {said}")
        return said
    for kind, wanted in (("Ready", "True"), ("Reconciling", "False")):
        condition = conditions.get(kind, {})
        if condition.get("status") != wanted:
            return str(condition.get("message") or f"condition {kind} is not told")
    return ""


class Held:
    """Keeps a K held while measurements go on."""

    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._k: int | None = None
        self._to_release = False
        self._renewing: asyncio.Task[None] | None = None
        self.failure: Unreached | Unsteerable | None = None
        """What the last renewal met; the K may have ended since."""

    async def hold(self, k: int) -> None:
        """K is ``k`` until another is held, or until released."""
        if k == self._k and self.failure is None:
            return
        await self._stop()
        before, self._to_release = self._to_release, True  # whatever ends the wait, K may be on its way
        try:
            await self._steering.hold(k, self._steering.lasts)
        except Refused:
            self._to_release = before
            raise
        self._k, self.failure = k, None
        self._renewing = asyncio.create_task(self._renew(k))

    def doubt(self) -> None:
        """Ask for it again before anything else is measured: somebody else may have moved K."""
        self._k = None

    async def release(self) -> None:
        """Let go, where anything is held."""
        await self._stop()
        self._k = None
        if self._to_release:
            self._to_release = False
            await self._steering.release()

    async def _renew(self, k: int) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._steering.hold(k, self._steering.lasts)
                self.failure = None
            except (Unreached, Unsteerable) as failure:
                self.failure = failure

    async def _stop(self) -> None:
        task, self._renewing = self._renewing, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
