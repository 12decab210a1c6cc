"""Which measured figures go into ``.status``, and when: seldom, since a steady resource gets no writes.

Live figures are metrics. The status renews its figures when something was decided, or when they have moved
visibly, at most once a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gemmaspec.api.status import AcceptanceStatus, ThroughputStatus
from gemmaspec.core import moment
from gemmaspec.core.acceptance import Window

RENEW_SECONDS = 60.0
# Dead bands: below these a change is noise to somebody who reads a status.
ACCEPTANCE_BAND = 0.15
THROUGHPUT_BAND = 0.5
# A figure from a window that was this many times shorter is replaced once: it was of the first few requests.
MATURER = 4.0
# Fewer drafts than this say nothing that two digits could hold.
LEAST_DRAFTS = 100
# A speed over less time is that of a few steps. Half the shortest window: what is between two scrapes must do there.
LEAST_SECONDS = 2.5


def acceptance(previous: Mapping[str, Any] | None, recent: Window, now: float, decided: bool) -> Any:
    """The acceptance figures to publish: new ones where they are due, else the ``previous``."""
    mean, tokens = recent.mean, recent.tokens_per_step
    if mean is None or tokens is None or recent.drafts < LEAST_DRAFTS:
        return previous
    if previous and not decided and not _due(previous, now):
        return previous
    if previous and not decided and not _outgrown(previous, recent):
        return previous
    fresh = AcceptanceStatus(
        per_position=[round(rate, 2) for rate in recent.conditional],
        mean=round(mean, 2),
        tokens_per_step=round(tokens, 2),
        drafts=int(recent.drafts),
        window_seconds=round(recent.span),
        measured_at=moment.text(now),
    )
    return fresh.model_dump(mode="json", by_alias=True, exclude_none=True)


def throughput(previous: Mapping[str, Any] | None, longer: Callable[[], Window], now: float, decided: bool) -> Any:
    """The speed figures to publish: new ones where they are due, else the ``previous``.

    longer: several windows, since traffic comes and goes within one, and the status is not written for that.
    """
    if previous and not decided and not _due(previous, now):
        return previous
    recent = longer()
    speed = recent.tokens_per_second
    if speed is None or recent.generation_tokens < LEAST_DRAFTS or recent.span < LEAST_SECONDS:
        return previous
    if previous and not decided:
        known = previous.get("tokensPerSecond", 0.0)
        if abs(known - speed) <= THROUGHPUT_BAND * max(known, 1.0):
            return previous
    milliseconds = recent.step_milliseconds
    fresh = ThroughputStatus(
        tokens_per_second=round(speed, 1),
        step_milliseconds=None if milliseconds is None else round(milliseconds, 2),
        running_requests=round(recent.running, 1),
        batch=round(recent.batch, 1),
        measured_at=moment.text(now),
    )
    return fresh.model_dump(mode="json", by_alias=True, exclude_none=True)


def _outgrown(previous: Mapping[str, Any], recent: Window) -> bool:
    """Whether the published acceptance is off, of another K, or of the first moments of traffic."""
    off = abs(previous.get("mean", 0.0) - (recent.mean or 0.0)) > ACCEPTANCE_BAND
    known = len(previous.get("perPosition", ()))
    another = known > recent.k or known < len(recent.conditional)
    return off or another or recent.span >= MATURER * max(1.0, previous.get("windowSeconds", 0.0))


def _due(previous: Mapping[str, Any], now: float) -> bool:
    then = moment.optional(previous.get("measuredAt"))
    return then is None or now - then >= RENEW_SECONDS
