"""What the last pass over each resource found, shown to Prometheus when it asks.

A collector and no gauges: a resource that is gone is gone from the next exposition, and so is a position that is
not drafted any more. Speeds are worked out at the scrape from the engines' newest counters, since an idle engine
wakes no pass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gemmaspec.core import live, moment
from gemmaspec.core.acceptance import Window, window
from gemmaspec.core.agent import Report
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.core.reconcile import Reading
from gemmaspec.runtime import families
from gemmaspec.runtime.families import Family
from gemmaspec.runtime.queue import Key

WINDOW_SECONDS: Final = 30.0
# Shown as 0 from the first pass on: a counter that begins at 1 has no increase that a query could see.
ROLLBACK_REASONS: Final = ("DraftRejected", "DraftsDoNotPay", "RolledBack")
RECOVERY_REASONS: Final = ("TrialAfterHold", "RecoveryProved", "RecoveryNotProved", "TrialPassed")
DECISION_REASONS: Final = (*ROLLBACK_REASONS, *RECOVERY_REASONS, "RevisionPromoted", "Reverted")
_SHOWN: Final = frozenset({"desired", "effective", "since", "actuator"})
_REVISIONS: Final = {"revision": "current", "lastGoodRevision": "last-good", "rejectedRevision": "rejected"}


class Samples(Protocol):
    """Who keeps the engines' counters."""

    def samples(self, pods: Sequence[Pod]) -> Mapping[str, Sequence[Sample]]:
        """By pod uid, oldest first."""
        ...

    def reports(self, pods: Sequence[Pod]) -> Mapping[str, Sequence[Report]]:
        """What agents said, by pod uid."""
        ...


@dataclass
class Tally:
    """Decisions ever seen in a resource's history, which itself holds the last twenty."""

    decisions: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(DECISION_REASONS, 0)))
    rollbacks: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(ROLLBACK_REASONS, 0)))
    _seen: frozenset[tuple[Any, ...]] = frozenset()

    def look(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Count what was not seen before."""
        entries = {_mark(entry): entry for entry in history}
        for mark, entry in entries.items():
            if mark in self._seen:
                continue
            self.decisions[entry["reason"]] += 1
            if entry["reason"] == "RolledBack" or entry.get("toK", 0) < entry.get("fromK", 0):
                self.rollbacks[entry["reason"]] += 1
        self._seen = frozenset(entries)


def _mark(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["time"], entry["reason"], entry.get("fromK"), entry.get("toK")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is shown of a resource: a status as a whole would be most of the operator's memory."""

    target: str
    revisions: tuple[tuple[str, str], ...]
    conditions: tuple[tuple[str, str, str], ...]
    k: Mapping[str, Any]
    pods: Sequence[Pod]
    reading: Reading
    tally: Tally

    @property
    def ready(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready]


def _entry(status: Mapping[str, Any], pods: Sequence[Pod], reading: Reading, tally: Tally) -> _Entry:
    return _Entry(
        target=str(status.get("target", "")),
        revisions=tuple((status[key], state) for key, state in _REVISIONS.items() if status.get(key)),
        conditions=tuple((entry["type"], entry["status"], entry["reason"]) for entry in status.get("conditions", ())),
        k={key: value for key, value in (status.get("k") or {}).items() if key in _SHOWN},
        pods=tuple(pods),
        reading=reading,
        tally=tally,
    )


class Board(Collector):
    """Entries of all resources; ``collect`` may run in another thread than the passes."""

    def __init__(self, samples: Samples, clock: Callable[[], float] = time.time) -> None:
        self._samples = samples
        self._clock = clock
        self._entries: dict[Key, _Entry] = {}

    def put(self, key: Key, status: Mapping[str, Any], pods: Sequence[Pod], reading: Reading) -> None:
        """Show what a pass found."""
        known = self._entries.get(key)
        tally = known.tally if known else Tally()
        tally.look(status.get("history") or ())
        self._entries[key] = _entry(status, pods, reading, tally)

    def drop(self, key: Key) -> None:
        """The resource is gone, and its series with it."""
        self._entries.pop(key, None)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are checked by promtool, and to collect at registration would be too early."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, with the series of the resources that there are now."""
        made = {family: family.empty() for family in families.OF_RESOURCES}
        now = self._clock()
        for key, entry in list(self._entries.items()):
            for family, labels, value in self._series(entry, now):
                made[family].add_metric([*key, *labels], value)
        yield from made.values()

    def _series(self, entry: _Entry, now: float) -> Iterator[tuple[Family, tuple[str, ...], float]]:
        yield from _state(entry)
        yield from _pods(entry)
        if "effective" in entry.k:
            yield from _k(entry)
            yield from self._speeds(entry, now)
        told = [reports[-1] for reports in self._samples.reports(entry.ready).values() if reports]
        if told:
            yield families.FALLEN_BACK, (), sum(1 for report in told if report.fallback)
        for reason, count in list(entry.tally.decisions.items()):
            yield families.DECISIONS, (reason,), count
        for reason, count in list(entry.tally.rollbacks.items()):
            yield families.ROLLBACKS, (reason,), count

    def _speeds(self, entry: _Entry, now: float) -> Iterator[tuple[Family, tuple[str, ...], float]]:
        ready = entry.ready
        samples = self._samples.samples(ready)
        seen = self._window(entry, list(samples.values()), now)
        yield families.TOKENS_PER_STEP, (), seen.tokens_per_step or 1.0
        yield families.TOKENS_PER_SECOND, (), seen.tokens_per_second or 0.0
        if seen.step_milliseconds is not None:
            yield families.STEP_SECONDS, (), seen.step_milliseconds / 1000.0
        for position, rate in enumerate(seen.conditional):
            yield families.ACCEPTANCE, (str(position),), rate
        newest = [series[-1].time for series in samples.values() if series]
        unseen = [pod.ready_at or 0.0 for pod in ready if not samples.get(pod.uid)]
        if ready:
            yield families.SAMPLED, (), min([*newest, *unseen])

    def _window(self, entry: _Entry, series: Sequence[Sequence[Sample]], now: float) -> Window:
        agents = [pod for pod in entry.ready if pod.live]
        if not agents:
            return window(entry.k["effective"], series, now - WINDOW_SECONDS)
        reports = self._samples.reports(agents)
        seen = window(entry.k["desired"], series, now - WINDOW_SECONDS)
        return live.unbiased(seen, [reports.get(pod.uid, ()) for pod in agents])


def _state(entry: _Entry) -> Iterator[tuple[Family, tuple[str, ...], float]]:
    yield families.INFO, (entry.target, entry.reading.mode, str(entry.k.get("actuator", ""))), 1
    for condition in entry.conditions:
        yield families.CONDITION, condition, 1
    for revision in entry.revisions:
        yield families.REVISION, revision, 1


def _pods(entry: _Entry) -> Iterator[tuple[Family, tuple[str, ...], float]]:
    yield families.ENGINES_DESIRED, (), entry.reading.replicas
    occupying = [pod for pod in entry.pods if pod.occupies]
    for engines, count in sorted(Counter((pod.revision, _pod_state(pod)) for pod in occupying).items()):
        yield families.ENGINES, engines, count
    for proofs, count in sorted(Counter(_proof(pod) for pod in occupying).items()):
        yield families.PREFLIGHT, proofs, count


def _pod_state(pod: Pod) -> str:
    return "leaving" if pod.terminating else "ready" if pod.ready else "starting"


def _proof(pod: Pod) -> tuple[str, str]:
    if pod.proof is None:
        return "pending", ""
    return "passed" if pod.proof.ok else "failed", pod.proof.reason


def _k(entry: _Entry) -> Iterator[tuple[Family, tuple[str, ...], float]]:
    k = entry.k
    yield families.K_DESIRED, (), k.get("desired", 0)
    yield families.K_EFFECTIVE, (), k["effective"]
    since = moment.optional(k.get("since"))
    if since is not None:
        yield families.K_CHANGED, (), since
    for value, speed in sorted(entry.reading.goodput.items()):
        yield families.GOODPUT, (str(value),), speed
