"""Whether speculation pays again: Wald's test on what drafts earn, against the acceptance that the next K needs."""

from __future__ import annotations

from dataclasses import dataclass

from gemmaspec.core.acceptance import Window
from gemmaspec.core.goodput import Estimate
from gemmaspec_engine.acceptance import Acceptance
from gemmaspec_engine.fault import Sprt

# On either side of the acceptance at which two values of K earn the same: what the test tells apart. It ends within
# a few hundred effective drafts; a narrower band gains a few percent of speed and waits four times as long.
BAND = 0.05
_LEAST, _MOST = 0.005, 0.995


@dataclass(frozen=True)
class Proof:
    """How the test stands: True for proved, False for refuted, None for neither yet; and its figures in words."""

    decided: bool | None
    words: str


def prove(estimate: Estimate, seen: Window, low: int, high: int) -> Proof:
    """Whether drafts like those of ``seen`` pay at K ``high`` better than at ``low``.

    Outcomes are those of single positions: tried as long as all before were accepted, hence alike whatever K is. They
    weigh less the more of them come from one request (Kish's design effect).
    """
    even = estimate.even(low, high)
    if even is None:
        ratio = estimate.milliseconds[high] / estimate.milliseconds[low]
        return Proof(False, f"a step of K={high} takes {ratio:.2f}× the time of K={low}, which no acceptance repays")
    accepted = seen.accepted[: seen.k]
    hits, misses = sum(accepted), seen.drafts - (accepted[-1] if accepted else 0.0)
    trials = hits + misses
    clustered = 1.0 + max(0.0, trials / max(1.0, seen.requests) - 1.0) / (Acceptance.CONCENTRATION + 1.0)
    test = Sprt(max(_LEAST, even - BAND), min(_MOST, even + BAND), design_effect=clustered)
    decided = test.observe(hits, misses)
    words = (
        f"{hits:.0f} of {trials:.0f} drafted tokens accepted over {seen.requests:.0f} requests, and K={high} pays "
        f"above {even:.2f}"
    )
    return Proof(decided, words)
