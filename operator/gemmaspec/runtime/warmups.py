"""Sends warm-up requests to idle engines, one at a time, and keeps what they gained apart from traffic."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from typing import Any

from gemmaspec.adapters.engine import Engines, Refused, ScrapeError
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.core.warmup import TOKENS, WarmUp, life, read
from gemmaspec.runtime import metrics
from gemmaspec.runtime.queue import Key

log = logging.getLogger("gemmaspec.warmups")

# The last counters of an answer may come a moment after it.
SETTLE_SECONDS = 0.5
LOOKS = 4
_TAKEN = [field.name for field in fields(Sample) if field.name not in ("time", "running", "accepted_per_position")]


class WarmUps:
    """Warm-up requests under way, and what those before gained, by the life of an engine.

    status_of: the stored status of a resource, which knows what an earlier operator sent.
    """

    def __init__(
        self,
        engines: Engines,
        wake: Callable[[Key], None],
        token_of: Callable[[Key], str],
        status_of: Callable[[Key], Mapping[str, Any]],
        clock: Callable[[], float],
    ) -> None:
        self._engines, self._wake, self._token_of, self._status_of = engines, wake, token_of, status_of
        self._clock = clock
        self._found: dict[str, WarmUp] = {}
        self._gained: dict[str, Sample] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, key: Key, pod: Pod, body: Mapping[str, Any]) -> None:
        """Send a request in the background, unless one is under way there."""
        if not self.busy(pod) and pod.ip:
            self._known(key, pod)
            self._tasks[pod.uid] = asyncio.create_task(self._guarded(key, pod, pod.ip, body))

    def busy(self, pod: Pod) -> bool:
        """Whether a request of ours is under way: what is scraped meanwhile is half of it."""
        task = self._tasks.get(pod.uid)
        return task is not None and not task.done()

    def found(self, pods: Sequence[Pod]) -> Mapping[str, WarmUp]:
        """What is known of these pods' engines, by pod uid."""
        return {pod.uid: self._found[life(pod)] for pod in pods if life(pod) in self._found}

    def traffic(self, key: Key, pod: Pod, sample: Sample) -> Sample:
        """The counters of others' requests alone."""
        self._known(key, pod)
        gained = self._gained.get(life(pod))
        return sample if gained is None else _less(sample, gained)

    def forget(self, alive: set[str]) -> None:
        """Of pods that are gone nothing is kept."""
        for known in (self._found, self._gained):
            for one in [one for one in known if one.partition("/")[0] not in alive]:
                del known[one]
        for uid in set(self._tasks) - alive:
            self._tasks.pop(uid).cancel()

    def close(self) -> None:
        """Nothing is waited for any more."""
        for task in self._tasks.values():
            task.cancel()

    def _known(self, key: Key, pod: Pod) -> None:
        """Take over what the status tells of this engine."""
        if life(pod) in self._found:
            return
        status = self._status_of(key)
        for told in (status.get("warmUp"), (status.get("rollout") or {}).get("keptWarmUp")):
            found = read(told, pod.revision)
            if found is not None and found.life == life(pod):
                self._found[found.life], self._gained[found.life] = found, _sum(found)

    async def _guarded(self, key: Key, pod: Pod, ip: str, body: Mapping[str, Any]) -> None:
        before = after = None
        answered, result = 0, "failed"
        known = self._found.get(life(pod), WarmUp(life(pod)))
        try:
            before = (await self._engines.scrape(ip, pod.port, self._clock())).sample
            if before.running:
                result = "busy"
                return
            answered = await self._engines.complete(ip, pod.port, self._token_of(key), body)
        except Refused as refused:
            known, result = replace(known, refused=str(refused)[:300]), "refused"
        except ScrapeError as error:
            known = replace(known, lost=known.lost + 1)
            log.debug("%s/%s: warm-up of %s: %s", *key, pod.name, error)
        else:
            after = await self._after(ip, pod, before, answered)
            if after is not None and _alone(before, after, answered):
                known, result = known.plus(before, after), "counted"
            else:
                known, result = replace(known, lost=known.lost + 1), "mixed"
        finally:
            metrics.WARM_UPS.labels(result).inc()
            if before is not None and result != "busy":
                # Whoever else's tokens came in between, the whole of it is no traffic that is judged.
                after = after or await self._scraped(ip, pod)
                if after is not None:
                    gained = self._gained.get(life(pod))
                    change = _less(after, before)
                    self._gained[life(pod)] = change if gained is None else _more(gained, change)
                self._found[life(pod)] = known
            self._tasks.pop(pod.uid, None)
            if result in ("counted", "refused"):
                self._wake(key)  # after all else the next one has time

    async def _after(self, ip: str, pod: Pod, before: Sample, answered: int) -> Sample | None:
        """Counters once all of the answer is counted, or more than it."""
        found = None
        for _ in range(LOOKS):
            found = await self._scraped(ip, pod) or found
            if found is not None and found.generation_tokens - before.generation_tokens >= answered:
                return found
            await asyncio.sleep(SETTLE_SECONDS)
        return found

    async def _scraped(self, ip: str, pod: Pod) -> Sample | None:
        try:
            return (await self._engines.scrape(ip, pod.port, self._clock())).sample
        except ScrapeError:
            return None


def _alone(before: Sample, after: Sample, answered: int) -> bool:
    """Whether the counters gained one request's tokens and nothing else."""
    generated = after.generation_tokens - before.generation_tokens
    finished = after.requests_finished - before.requests_finished
    return (finished, generated) == (1.0, float(answered)) and not after.running


def _sum(found: WarmUp) -> Sample:
    return Sample(
        time=0.0,
        drafts=found.drafts,
        draft_tokens=found.draft_tokens,
        accepted_tokens=sum(found.accepted),
        accepted_per_position=found.accepted,
        generation_tokens=float(found.requests * TOKENS),
        requests_finished=float(found.requests),
        step_seconds_sum=found.seconds,
        step_seconds_count=found.outputs,
        running=0.0,
    )


def _less(sample: Sample, gained: Sample) -> Sample:
    return _with(sample, gained, -1.0)


def _more(sample: Sample, gained: Sample) -> Sample:
    return _with(sample, gained, 1.0)


def _with(sample: Sample, gained: Sample, sign: float) -> Sample:
    """Counters with others added or taken away; the positions stay as many as ``sample`` has."""
    taken = {name: max(0.0, getattr(sample, name) + sign * getattr(gained, name)) for name in _TAKEN}
    positions = zip_longest(sample.accepted_per_position, gained.accepted_per_position, fillvalue=0.0)
    accepted = tuple(max(0.0, one + sign * other) for one, other in positions)
    return replace(sample, accepted_per_position=accepted[: len(sample.accepted_per_position)], **taken)
