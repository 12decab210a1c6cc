"""What became of the requests."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tinypair.languages import Kind


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request. Times in seconds: `start` since the epoch, `ttft` and `duration` since `start`."""

    kind: Kind
    start: float
    duration: float
    tokens: int
    """Tokens received, those of a stream that broke off included."""
    ttft: float | None
    """Time to the first token; None when none came."""
    error: str | None = None
    """Why it failed, in one line; None when it was answered in full."""

    @property
    def ok(self) -> bool:
        """Whether all tokens asked for have come."""
        return self.error is None

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the whole duration."""
        return self.tokens / self.duration if self.duration > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures over calls; times in seconds, None where no call succeeded."""

    ok: int
    failed: int
    tokens: int
    ttft_median: float | None
    call_tokens_per_second: float | None
    """Median over the answered calls of what one stream got."""

    @classmethod
    def of(cls, calls: Sequence[Call], kind: Kind | None = None) -> Summary:
        """Of the calls of a kind, or of all."""
        chosen = [call for call in calls if kind in (None, call.kind)]
        good = [call for call in chosen if call.ok]
        first = [call.ttft for call in good if call.ttft is not None]
        return cls(
            ok=len(good),
            failed=len(chosen) - len(good),
            tokens=sum(call.tokens for call in chosen),
            ttft_median=statistics.median(first) if first else None,
            call_tokens_per_second=statistics.median(call.tokens_per_second for call in good) if good else None,
        )
