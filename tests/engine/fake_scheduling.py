"""Stand-ins for vLLM's scheduler objects, with the attributes that the agent reads; real ones: tests/agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeRequest:
    """A request of vLLM."""

    num_computed_tokens: int = 100
    num_prompt_tokens: int = 50
    ended: bool = False

    def is_finished(self) -> bool:
        return self.ended


@dataclass(eq=False)
class FakeOutput:
    """A SchedulerOutput."""

    num_scheduled_tokens: dict[str, int]
    scheduled_spec_decode_tokens: dict[str, list[int]] = field(default_factory=dict)
    num_invalid_spec_tokens: dict[str, int] | None = None
    num_spec_tokens_to_schedule: int = 4

    @property
    def total_num_scheduled_tokens(self) -> int:
        return sum(self.num_scheduled_tokens.values())


@dataclass
class FakeGraph:
    runtime_mode: str


@dataclass
class FakeResult:
    """A ModelRunnerOutput."""

    sampled_token_ids: Any
    req_id_to_index: dict[str, int]
    cudagraph_stats: FakeGraph | None = None


class FakeClock:
    """Seconds that pass when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float) -> None:
        self.now += seconds


def decode(drafts: dict[str, int], to_draft: int = 4) -> FakeOutput:
    """A step in which each request decodes with so many drafts."""
    spec = {name: [-1] * n for name, n in drafts.items() if n}
    return FakeOutput({name: n + 1 for name, n in drafts.items()}, spec, num_spec_tokens_to_schedule=to_draft)


def sampled(counts: dict[str, int], graph: str | None = None) -> FakeResult:
    """The result in which each request got so many tokens."""
    index = {name: i for i, name in enumerate(counts)}
    return FakeResult([[7] * n for n in counts.values()], index, FakeGraph(graph) if graph else None)
