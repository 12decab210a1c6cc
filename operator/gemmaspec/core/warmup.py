"""Warm-up: a few prompts of ours for an engine that nobody asks anything, so that an idle box can be judged.

Each is one request at a time, sent only while nothing runs there, and counted apart: what an engine's counters gained
by it is taken out of what its traffic is judged by. Acceptance depends on what is written, so that warm-up is compared
with warm-up alone: every revision is asked the same prompts, with the same seeds, once it serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Final

from gemmaspec.api.spec import Accelerator
from gemmaspec.api.status import WarmUpStatus
from gemmaspec.core.acceptance import Window
from gemmaspec.core.analysis import Baseline, Speed
from gemmaspec.core.observation import Pod, Sample
from gemmaspec.core.resolve import Resolved
from gemmaspec_engine.fault import FAULT, FaultDetector

# Finance in Japanese, finance in English, Python: what the sources of this project measured drafts on. Our own words.
_JAPANESE: Final = (
    "個人向け国債と定期預金の違いを、金利、元本の安全性、中途換金、税金の順に、"
    "具体的な数字を挙げて詳しく説明してください。"
)
_ENGLISH: Final = (
    "Explain to a new treasurer how a rise of one percentage point in interest rates moves the price of a ten-year "
    "bond, what duration means, and how a company can hedge it. Work through an example with numbers."
)
_PYTHON: Final = (
    "Write a Python module with a class LedgerFile that reads transactions from a CSV file, checks each line, sums "
    "them by month and by account, and writes a report as JSON. Use dataclasses, type hints and docstrings."
)
PROMPTS: Final = (_JAPANESE, _ENGLISH, _PYTHON)
# Tokens of an answer: seconds of work of a large model, and enough for a few dozen drafts.
TOKENS: Final = 128
TEMPERATURE: Final = 0.7
# With drafts vLLM's CPU build takes the temperature from memory that nobody wrote (vllm-project/vllm#55005; seen with
# 0.32.0): an answer is noise then, and hardly any draft is accepted. Greedy requests do not read it.
CPU_TEMPERATURE: Final = 0.0
# Wald's test of speed needs eleven spans of one kind (analysis.SLOW, FAST, ALIKE, ERROR).
LEAST_REQUESTS: Final = 12
# Never more than this for one engine, whatever they told: six minutes of one 31B engine's idle time.
MOST_REQUESTS: Final = 36


@dataclass(frozen=True)
class WarmUp:
    """What warm-up requests gained, in the engine's own counters.

    life: pod uid and its number of restarts; counters begin anew with each. requests: those that nobody else's came
    into; lost: the others. speeds: tokens per second of each.
    """

    life: str
    requests: int = 0
    lost: int = 0
    drafts: float = 0.0
    draft_tokens: float = 0.0
    accepted: tuple[float, ...] = ()
    speeds: tuple[float, ...] = ()
    outputs: float = 0.0
    seconds: float = 0.0
    refused: str = ""

    def plus(self, before: Sample, after: Sample) -> WarmUp:
        """With one more request, between two scrapes."""
        outputs = after.step_seconds_count - before.step_seconds_count
        seconds = after.step_seconds_sum - before.step_seconds_sum
        drafts, tokens = after.drafts - before.drafts, after.accepted_tokens - before.accepted_tokens
        speed = (1.0 + (tokens / drafts if drafts else 0.0)) * outputs / seconds if outputs and seconds > 0 else 0.0
        gained = zip_longest(after.accepted_per_position, before.accepted_per_position, self.accepted, fillvalue=0.0)
        return replace(
            self,
            requests=self.requests + 1,
            drafts=self.drafts + drafts,
            draft_tokens=self.draft_tokens + after.draft_tokens - before.draft_tokens,
            accepted=tuple(now - then + known for now, then, known in gained),
            speeds=(*self.speeds, *([round(speed, 2)] if speed else [])),
            outputs=self.outputs + outputs,
            seconds=self.seconds + seconds,
        )

    @property
    def whole(self) -> bool:
        """Whether it can be judged: each kind of text has its own acceptance, so that only sums over the same prompts
        compare.
        """
        return self.requests >= LEAST_REQUESTS

    @property
    def window(self) -> Window:
        """The drafts, as a window of them."""
        return Window(
            k=len(self.accepted),
            drafts=self.drafts,
            draft_tokens=self.draft_tokens,
            accepted_tokens=sum(self.accepted),
            accepted=self.accepted,
            requests=float(self.requests),
        )

    @property
    def spans(self) -> list[Speed]:
        """Speed of each request: one at a time, so that a step serves one."""
        return [Speed(speed, 1.0) for speed in self.speeds]

    @property
    def baseline(self) -> Baseline:
        """What a revision earned by it, for another one to be compared with."""
        mean = sum(self.speeds) / len(self.speeds) if self.speeds else 0.0
        return Baseline(self.window.conditional, self.drafts, Speed(mean, 1.0) if mean else None)

    def fault(self) -> str:
        """The drafter's fault in words, where none of its drafts is ever accepted; else empty."""
        detector = FaultDetector()
        if not self.drafts or not self.whole:
            return ""
        first = int(self.accepted[0]) if self.accepted else 0
        detector.observe_window(int(self.drafts), first, self.requests)
        return f"on warm-up prompts: {detector.explain()}" if detector.verdict == FAULT else ""

    def enough(self, min_drafts: int, k: int, *, undecided: bool = False) -> bool:
        """Whether no further request is to be sent to this engine. undecided: a verdict on it hangs on more of them."""
        if self.refused or self.requests + self.lost >= MOST_REQUESTS:
            return True
        return not undecided and self.requests >= LEAST_REQUESTS and (k == 0 or self.drafts >= min_drafts)


def life(pod: Pod) -> str:
    """Name of the time in which the counters of a pod's engine do not begin anew."""
    return f"{pod.uid}/{pod.restarts}"


def request(known: WarmUp | None, resolved: Resolved) -> dict[str, Any]:
    """The next request for the chat API. All revisions get the same ones; a whole answer each time, since an end that
    comes early would be another amount of work.
    """
    number = known.requests if known else 0
    model = (resolved.spec.model.served_name if resolved.spec.model else None) or resolved.target
    return {
        "model": model,
        "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
        "max_tokens": TOKENS,
        "temperature": CPU_TEMPERATURE if resolved.accelerator is Accelerator.CPU else TEMPERATURE,
        "seed": number,
        "ignore_eos": True,
    }


def without(ever: Window, warm: WarmUp) -> Window:
    """What is left of the counts of an engine's agent, which knows no difference."""
    accepted = zip_longest(ever.accepted, warm.accepted[: len(ever.accepted)], fillvalue=0.0)
    return replace(
        ever,
        drafts=max(0.0, ever.drafts - warm.drafts),
        accepted=tuple(max(0.0, known - ours) for known, ours in accepted),
        requests=max(0.0, ever.requests - warm.requests),
    )


def idle(samples: Sequence[Sample]) -> bool:
    """Whether nothing runs on an engine, and nothing has between the last two scrapes."""
    if not samples or samples[-1].running:
        return False
    return len(samples) < 2 or samples[-2].generation_tokens == samples[-1].generation_tokens


def load(status: Mapping[str, Any], revision: str) -> WarmUp | None:
    """What ``.status.warmUp`` tells of this revision."""
    return read(status.get("warmUp"), revision)


def read(told: Mapping[str, Any] | None, revision: str) -> WarmUp | None:
    """A stored warm-up, where it is of this revision."""
    if not told or told.get("revision") != revision or not told.get("engine"):
        return None
    return WarmUp(
        life=told["engine"],
        requests=int(told.get("requests", 0)),
        lost=int(told.get("lost", 0)),
        drafts=float(told.get("drafts", 0)),
        draft_tokens=float(told.get("draftTokens", 0)),
        accepted=tuple(map(float, told.get("accepted", ()))),
        speeds=tuple(map(float, told.get("speeds", ()))),
        outputs=float(told.get("outputs", 0)),
        seconds=float(told.get("seconds", 0)),
        refused=str(told.get("refused", "")),
    )


def stored(found: WarmUp, revision: str) -> dict[str, Any]:
    """``.status.warmUp``."""
    return WarmUpStatus(
        revision=revision,
        engine=found.life,
        requests=found.requests,
        lost=found.lost or None,
        drafts=int(found.drafts),
        draft_tokens=int(found.draft_tokens),
        accepted=[int(count) for count in found.accepted] or None,
        speeds=list(found.speeds) or None,
        outputs=int(found.outputs),
        seconds=round(found.seconds, 3),
        refused=found.refused or None,
    ).body()
