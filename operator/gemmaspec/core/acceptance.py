"""What speculation earned in a window: counters of several engines, differenced and pooled.

Counters reset when an engine restarts and stand still at K = 0; scrapes go missing. A pair of samples between
which a counter fell, or that is too far apart, is left out: missing data is not bad data.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import ge, sub

from gemmaspec.core.observation import Sample
from gemmaspec.core.series import Series

# Two scrapes further apart than this many seconds have lost touch: what happened between them is not judged.
MAX_GAP_SECONDS = 60.0
# The newest samples of an engine stay as they are: at a scrape each 5 s this is half an hour.
MOST_SAMPLES = 360
# So much of the past is kept of an engine that is idle, or as much as the longest window needs.
KEPT_SECONDS = 1800.0
# The newest samples of an idle engine stay as they are, too: more than the default window.
DENSE_SAMPLES = 30
# Older ones are thinned, to pairs that still tell.
SPARSE_SECONDS = 45.0
_COUNTERS = (
    "drafts",
    "draft_tokens",
    "accepted_tokens",
    "generation_tokens",
    "requests_finished",
    "step_seconds_sum",
    "step_seconds_count",
)


@dataclass(frozen=True)
class Window:
    """Differences of counters over a window, pooled over engines that run the same K.

    accepted[i]: drafts of which token i was accepted. seconds: engine seconds covered (two engines for one minute
    are 120). span: seconds between the first and the last sample. engines: how many were seen. requests: those that
    finished in the window and those that run at its end. running: mean number of running requests of an engine;
    batch: the same as a step sees it, idle time left out. paces: mean milliseconds of a step, scrape by scrape.
    """

    k: int = 0
    drafts: float = 0.0
    draft_tokens: float = 0.0
    accepted_tokens: float = 0.0
    accepted: tuple[float, ...] = ()
    generation_tokens: float = 0.0
    step_seconds_sum: float = 0.0
    step_seconds_count: float = 0.0
    running: float = 0.0
    batch: float = 0.0
    paces: tuple[float, ...] = ()
    requests: float = 0.0
    engines: int = 0
    seconds: float = 0.0
    span: float = 0.0

    @property
    def conditional(self) -> tuple[float, ...]:
        """P(position i accepted | position i-1 accepted), as far as it was tried.

        Exchangeable between values of K, unlike accepted_per_pos / num_drafts, which falls at deep positions merely
        because K was lowered.
        """
        rates: list[float] = []
        tried = self.drafts
        for accepted in self.accepted[: self.k]:
            if tried <= 0:
                break
            rates.append(min(1.0, accepted / tried))
            tried = accepted
        return tuple(rates)

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens that one sequence gains a step, the bonus token included; None without drafts."""
        return 1.0 + self.accepted_tokens / self.drafts if self.drafts > 0 else None

    @property
    def mean(self) -> float | None:
        """Accepted draft tokens per draft token; None without drafts."""
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens > 0 else None

    @property
    def step_milliseconds(self) -> float | None:
        """Mean time between two outputs of a request, which is the time of a step; None without outputs."""
        return 1000.0 * self.step_seconds_sum / self.step_seconds_count if self.step_seconds_count > 0 else None

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second of all engines together; None for an empty window.

        By the seconds covered, not by the span: what was generated between lost scrapes is not counted either.
        """
        return self.engines * self.generation_tokens / self.seconds if self.seconds > 0 else None


def window(k: int, series: Iterable[Sequence[Sample]], since: float) -> Window:
    """Pool what the engines in ``series`` (each in order of time) did after ``since``; all ran with ``k``."""
    by_engine = [
        [(before, after) for before, after in pairwise(recent(samples, since)) if _tells(k, before, after)]
        for samples in series
    ]
    pairs = [pair for own in by_engine for pair in own]
    if not pairs:
        return Window(k=k)
    positions = max(len(after.accepted_per_position) for _, after in pairs)
    seconds = sum(after.time - before.time for before, after in pairs)

    def total(name: str) -> float:
        return float(sum(getattr(after, name) - getattr(before, name) for before, after in pairs))

    outputs = total("step_seconds_count")
    steps = sum(after.running * (after.step_seconds_count - before.step_seconds_count) for before, after in pairs)
    return Window(
        k=k,
        drafts=total("drafts"),
        draft_tokens=total("draft_tokens"),
        accepted_tokens=total("accepted_tokens"),
        accepted=tuple(sum(_at(after, i) - _at(before, i) for before, after in pairs) for i in range(positions)),
        generation_tokens=total("generation_tokens"),
        step_seconds_sum=total("step_seconds_sum"),
        step_seconds_count=outputs,
        running=sum(after.running * (after.time - before.time) for before, after in pairs) / seconds,
        batch=steps / outputs if outputs else 0.0,
        paces=tuple(pace for before, after in pairs if (pace := _pace(before, after)) is not None),
        requests=total("requests_finished") + sum(own[-1][1].running for own in by_engine if own),
        engines=sum(1 for own in by_engine if own),
        seconds=seconds,
        span=max(after.time for _, after in pairs) - min(before.time for before, _ in pairs),
    )


def lifetime(k: int, samples: Mapping[str, Sequence[Sample]]) -> Window:
    """What engines did since they began, by their newest counters that are whole; requests: finished and running."""
    newest = [series[-1] for series in samples.values() if series and _falls(series[-1].drafts, series[-1])]
    positions = max((len(sample.accepted_per_position) for sample in newest), default=0)
    return Window(
        k=k,
        drafts=sum(sample.drafts for sample in newest),
        draft_tokens=sum(sample.draft_tokens for sample in newest),
        accepted_tokens=sum(sample.accepted_tokens for sample in newest),
        accepted=tuple(sum(_at(sample, i) for sample in newest) for i in range(positions)),
        requests=sum(sample.requests_finished + sample.running for sample in newest),
        engines=len(newest),
    )


def remember(series: MutableSequence[Sample], sample: Sample, seconds: Callable[[], float]) -> None:
    """Append a sample; of those before the newest ``MOST_SAMPLES``, keep what windows of ``seconds`` need.

    That is one every ``SPARSE_SECONDS``, and both sides of every gap and of every counter that fell. Done now and
    then, so that a scrape costs no pass over them all. Of an engine that does nothing the samples before the newest
    ``DENSE_SAMPLES`` are so few at once: most of a thousand engines are idle most of the time. When the clock was set
    back, nothing of before is kept: it would count as of now until the clock has caught up. What is older than
    ``KEPT_SECONDS`` and than ``seconds`` goes.
    """
    if series and sample.time < series[-1].time:
        series.clear()
    series.append(sample)
    if sample.time - series[0].time > KEPT_SECONDS and sample.time - series[0].time > seconds():
        del series[0]
    if len(series) > DENSE_SAMPLES and _is_flat(*series[-DENSE_SAMPLES - 1 : -DENSE_SAMPLES + 2]):
        del series[-DENSE_SAMPLES]
        return
    if len(series) % 60 or len(series) <= MOST_SAMPLES:
        return
    old, kept, oldest = series[:-MOST_SAMPLES], list[Sample](), sample.time - seconds()
    for one, after in zip(old, series[1:], strict=False):
        if one.time < oldest:
            continue
        near = bool(kept) and after.time - kept[-1].time <= SPARSE_SECONDS
        if not near or not comparable(kept[-1], one) or not comparable(one, after):
            kept.append(one)
    series[:-MOST_SAMPLES] = kept


def _is_flat(before: Sample, between: Sample, after: Sample) -> bool:
    """Whether nothing happened from one sample to the third, and the second says nothing that they don't."""
    if not 0 < after.time - before.time <= SPARSE_SECONDS:
        return False
    return replace(between, time=before.time) == before == replace(after, time=before.time)


def recent(samples: Sequence[Sample], since: float) -> Sequence[Sample]:
    """Those of an engine's samples, which are in order of time, that are no older than ``since``."""
    if isinstance(samples, Series):
        return samples.since(since)
    return samples[bisect_left(samples, since, key=lambda sample: sample.time) :]


def _at(sample: Sample, position: int) -> float:
    rates = sample.accepted_per_position
    return rates[position] if position < len(rates) else 0.0


def _falls(drafts: float, sample: Sample) -> bool:
    """Whether no position accepted more than the one before it, as in the life of one engine."""
    chain = [drafts, *sample.accepted_per_position, 0.0]
    return all(map(ge, chain, chain[1:]))


def _pace(before: Sample, after: Sample) -> float | None:
    outputs = after.step_seconds_count - before.step_seconds_count
    return 1000.0 * (after.step_seconds_sum - before.step_seconds_sum) / outputs if outputs > 0 else None


def _tells(k: int, before: Sample, after: Sample) -> bool:
    """Whether what lies between is known to be of one engine, and of this K."""
    most = k * (after.drafts - before.drafts) + 0.5  # counters are sums of floats
    return comparable(before, after) and after.draft_tokens - before.draft_tokens <= most


def comparable(before: Sample, after: Sample) -> bool:
    """Whether two samples of an engine are near, whole, and of one life of it."""
    fell = any(getattr(after, name) < getattr(before, name) for name in _COUNTERS)
    # An engine's positions never change: where they do, one of the two expositions was not whole.
    same = len(before.accepted_per_position) == len(after.accepted_per_position)
    # No position accepts more than the one before it, and none falls. An engine that restarted, and had passed every
    # counter again by the next scrape, betrays itself so.
    hits = map(sub, after.accepted_per_position, before.accepted_per_position)
    chain = [after.drafts - before.drafts, *hits, 0.0]
    return same and not fell and all(map(ge, chain, chain[1:])) and 0 < after.time - before.time <= MAX_GAP_SECONDS
