"""A simulated model runner under a real vLLM scheduler: what was drafted and accepted is known exactly."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

from matrix.construct import GRID, fitting, request

POSITIONS = max(GRID)


@dataclass
class _Step:
    output: Any
    verifies: int
    """K of the step before."""
    chunks: frozenset[str]
    """Requests whose prompt is not at its end after this step."""


class Runner:
    """Steps a scheduler as vLLM's engine core does: one step at a time, or with a second one under way."""

    def __init__(self, scheduler: Any, asynchronous: bool, seed: int = 1, acceptance: float = 0.6) -> None:
        self.scheduler = scheduler
        self.asynchronous = asynchronous
        self.drafted = [0] * POSITIONS
        self.accepted = [0] * POSITIONS
        self.tokens: dict[str, int] = {}
        self.finished: dict[str, str] = {}
        self.scheduled_k: list[int] = []
        self.verified: set[int] = set()
        """Draft counts that requests carried."""
        self.preempted = 0
        self._acceptance = acceptance
        self._dice = random.Random(seed)
        self._under_way: deque[_Step] = deque()
        self._last_k = POSITIONS

    def add(self, name: str, prompt: int, tokens: int) -> None:
        """A request with a random prompt."""
        self.tokens[name] = 0
        self.scheduler.add_request(request(name, [self._dice.randrange(3, 500) for _ in range(prompt)], tokens))

    def step(self) -> bool:
        """One round of the engine's loop; False when nothing is left to do."""
        if self.scheduler.has_requests():
            output = self.scheduler.schedule()
            self._under_way.append(self._planned(output))
            self.scheduler.get_grammar_bitmask(output)
            if self.asynchronous and output.num_scheduled_tokens and len(self._under_way) < 2:
                return True
        elif not self._under_way:
            return False
        self._take_in(self._under_way.popleft())
        return True

    def run(self, steps: int = 4000) -> None:
        """Until nothing is left to do. Raises AssertionError when that takes too many steps."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError(f"not done after {steps} steps: {self.scheduler.get_num_unfinished_requests()} are left")

    def _planned(self, output: Any) -> _Step:
        names = output.num_scheduled_tokens
        chunks = frozenset(name for name in names if self.scheduler.requests[name].is_prefill_chunk)
        step = _Step(output, self._last_k, chunks)
        if names:
            self._last_k = output.num_spec_tokens_to_schedule
            self.scheduled_k.append(self._last_k)
            self.verified |= {len(spec) for spec in output.scheduled_spec_decode_tokens.values()}
        self.preempted += len(getattr(output, "preempted_req_ids", None) or ())
        return step

    def _take_in(self, step: _Step) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(step.output.num_scheduled_tokens)
        sampled = [self._sample(step, name) for name in names]
        self._count(step, names, sampled)
        index = {name: i for i, name in enumerate(names)}
        result = fitting(ModelRunnerOutput, req_ids=names, req_id_to_index=index, sampled_token_ids=sampled)
        for outputs in self.scheduler.update_from_output(step.output, result).values():
            for one in outputs.outputs:
                self.tokens[one.request_id] += len(one.new_token_ids)
                if one.finish_reason is not None:
                    self.finished[one.request_id] = str(one.finish_reason)
        if names and not self.asynchronous:
            self._draft(step.output, names)

    def _sample(self, step: _Step, name: str) -> list[int]:
        if name in step.chunks:
            return []
        accepted, carried = 0, len(step.output.scheduled_spec_decode_tokens.get(name, ()))
        while accepted < carried and self._dice.random() < self._acceptance:
            accepted += 1
        return [self._dice.randrange(3, 500) for _ in range(accepted + 1)]

    def _count(self, step: _Step, names: list[str], sampled: list[list[int]]) -> None:
        """What the agent should count: requests still there that carried exactly K drafts."""
        for name, tokens in zip(names, sampled, strict=True):
            carried = len(step.output.scheduled_spec_decode_tokens.get(name, ()))
            there = self.scheduler.requests.get(name)
            if carried != step.verifies or not tokens or there is None or there.is_finished():
                continue
            for position in range(carried):
                self.drafted[position] += len(tokens) - 1 >= position
                self.accepted[position] += len(tokens) - 1 > position

    def _draft(self, output: Any, names: list[str]) -> None:
        """What the engine core does after a synchronous step: the drafts go back to the scheduler."""
        from vllm.v1.outputs import DraftTokenIds

        k = output.num_spec_tokens_to_schedule
        drafts = [[self._dice.randrange(3, 500) for _ in range(k)] for _ in names]
        self.scheduler.update_draft_token_ids(DraftTokenIds(names, drafts))
