"""Carries what agents have learnt between engines and the cluster. Nothing here may hold up a pass: to learn anew
costs an engine minutes of a worse K, and no request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gemmaspec.adapters.cluster import Cluster, Rejected, Taken
from gemmaspec.adapters.engine import Refused, ScrapeError
from gemmaspec.core.learned import MOST_BYTES, SAVE_SECONDS, STATE_KEY, Restore, Save
from gemmaspec.runtime import metrics
from gemmaspec.runtime.cache import Cache
from gemmaspec.runtime.queue import Key
from gemmaspec.runtime.scraper import Scraper

log = logging.getLogger("gemmaspec.knowledge")


class Knowledge:
    """Saves and restores. What was refused is not tried again for as long as it would be refused."""

    def __init__(
        self, cluster: Cluster, cache: Cache, scraper: Scraper, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._scraper = scraper
        self._clock = clock
        self._not_before: dict[Key, float] = {}
        self._refused: dict[Key, set[tuple[str, str]]] = {}

    async def save(self, key: Key, action: Save) -> bool:
        """Write what the pod's agent knows; whether that changed anything.

        Raises ApiFailure where the API server may take it later.
        """
        if self._clock() < self._not_before.get(key, 0.0):
            return False
        try:
            state = await self._scraper.state(key, action.pod)
        except ScrapeError as failure:
            metrics.SCRAPE_ERRORS.inc()
            log.debug("%s/%s: the agent of %s does not tell what it knows: %s", *key, action.pod.name, failure)
            return False
        if len(state.encode()) > MOST_BYTES:
            self._give_up(key, f"{len(state)} bytes of state are more than {MOST_BYTES}")
            return False
        body = {**action.body, "data": {STATE_KEY: state}}
        metrics.WRITES.labels("ConfigMap").inc()
        try:
            if action.child is None:
                answer = await self._cluster.create(body)
            else:
                answer = await self._cluster.apply(body, action.child.uid, action.child.resource_version)
        except (Rejected, Taken) as failure:  # somebody's object of that name is left alone
            self._give_up(key, str(failure))
            return False
        log.info("%s/%s: saved what the agent of %s has learnt", *key, action.pod.name)
        return self._cache.wrote("ConfigMap", answer)

    def _give_up(self, key: Key, why: str) -> None:
        self._not_before[key] = self._clock() + SAVE_SECONDS
        log.warning("%s/%s: what the agents learn is not saved for now: %s", *key, why)

    async def restore(self, key: Key, action: Restore) -> None:
        """Give the pod's agent what the ConfigMap holds. Raises ApiFailure where that can't be read."""
        given = action.pod.uid, action.child.resource_version
        if given in self._refused.get(key, ()):
            return
        found = await self._cluster.read("ConfigMap", key[0], action.child.name)
        state = ((found or {}).get("data") or {}).get(STATE_KEY)
        if not state:
            return
        try:
            await self._scraper.teach(key, action.pod, state)
        except Refused as failure:
            alive = {pod.uid for pod in self._cache.pods(*key)}
            self._refused[key] = {one for one in self._refused.get(key, ()) if one[0] in alive} | {given}
            log.warning("%s/%s: the agent of %s learns anew: %s", *key, action.pod.name, failure)
        except ScrapeError as failure:
            metrics.SCRAPE_ERRORS.inc()
            log.debug("%s/%s: the agent of %s was not reached: %s", *key, action.pod.name, failure)
        else:
            log.info("%s/%s: the agent of %s goes on with what was learnt before", *key, action.pod.name)

    def forget(self, key: Key) -> None:
        """The resource is gone."""
        self._not_before.pop(key, None)
        self._refused.pop(key, None)
