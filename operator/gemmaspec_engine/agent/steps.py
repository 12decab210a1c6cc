"""What each step verified, drafted and brought, read from vLLM's scheduler objects as they pass.

Only attributes that vLLM 0.24 to 0.33 all have are touched; `gemmaspec_engine.compat` holds the proof.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Result", "Steps"]

_IN_FLIGHT_MOST = 64
"""Steps that may be under way: vLLM has two (async scheduling), or as many as pipeline stages."""


class _Planned:
    """A scheduled step until its result comes."""

    __slots__ = ("batch", "begun", "continuous", "drafts", "output", "prefills", "tokens", "verifies")

    def __init__(self, output: Any, verifies: int, drafts: int, continuous: bool, begun: float) -> None:
        self.output = output
        self.begun = begun
        self.verifies = verifies
        self.drafts = drafts
        self.continuous = continuous
        self.batch = len(output.num_scheduled_tokens)
        self.tokens = output.total_num_scheduled_tokens
        self.prefills: list[tuple[str, int]] = []


class Result:
    """A step that has ended. ``accepted`` and ``requests`` list the requests that carried exactly ``k`` valid drafts.

    ``step_ms`` is the time from the update before; NaN where that says nothing about (batch, k).
    """

    __slots__ = ("accepted", "batch", "k", "prefills", "requests", "scheduled", "seconds", "step_ms", "tokens")

    def __init__(self, planned: _Planned, seconds: float) -> None:
        self.batch = planned.batch
        self.k = planned.verifies
        self.prefills = planned.prefills
        """Requests that computed prompt tokens, and how far."""
        self.scheduled = planned.tokens
        self.seconds = seconds
        """From when it could start: its scheduling, or the update before where that came later."""
        self.step_ms = math.nan
        self.tokens = 0
        self.accepted: list[int] = []
        self.requests: list[str] = []


class Steps:
    """Follows steps from schedule to update. Not thread-safe: the scheduler's thread only.

    Args:
        k: K that the first step's requests carry (none do, so any).
        lingering: requests stay known for a while after their end (a KV connector sends their cache elsewhere).
        clock: seconds, monotonic.
    """

    def __init__(self, k: int, lingering: bool = False, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lingering = lingering
        self._last_k = k
        self._last_update = math.nan
        self._continuous = False
        self._in_flight: deque[_Planned] = deque(maxlen=_IN_FLIGHT_MOST)

    def scheduled(self, output: Any, requests: Mapping[str, Any], drafts: int) -> None:
        """Before the step goes out: it verifies what the step before it drafted, and drafts ``drafts`` tokens.

        ``requests`` as they stand before the scheduler advances their counters.
        """
        counts = output.num_scheduled_tokens
        if not counts:
            if not self._in_flight:
                self._continuous = False  # nothing ran and nothing will: the next step follows a pause
            return
        continuous = self._continuous or bool(self._in_flight)
        planned = _Planned(output, self._last_k, drafts, continuous, self._clock())
        k = planned.verifies
        carried = output.scheduled_spec_decode_tokens
        if k == 0 or len(carried) != planned.batch or planned.tokens != planned.batch * (k + 1):
            self._find_prefills(planned, carried, requests)
        self._in_flight.append(planned)
        self._last_k = drafts

    @staticmethod
    def _find_prefills(planned: _Planned, carried: Mapping[str, Any], requests: Mapping[str, Any]) -> None:
        for name, count in planned.output.num_scheduled_tokens.items():
            spec = carried.get(name)
            request = requests[name]
            before = request.num_computed_tokens
            if count != (len(spec) + 1 if spec else 1) or before < request.num_prompt_tokens:
                planned.prefills.append((name, before + count))

    def ended(self, output: Any, result: Any, requests: Mapping[str, Any]) -> Result | None:
        """The step's result has come, before the scheduler takes it in; None for a step without tokens."""
        planned = self._pop(output)
        now, before = self._clock(), self._last_update
        self._last_update = now
        self._continuous = True
        if planned is None:
            return None
        begun = planned.begun if math.isnan(before) else max(before, planned.begun)
        ended = Result(planned, now - begun)
        self._collect(ended, output, result, requests)
        steady = planned.continuous and planned.drafts == planned.verifies and not planned.prefills
        if steady and 2 * len(ended.accepted) > planned.batch:
            ended.step_ms = 1000.0 * (now - before)
        return ended

    def last_update(self) -> float:
        """When the last step's result came, by the clock; never: minus infinity."""
        return -math.inf if math.isnan(self._last_update) else self._last_update

    def idle(self) -> None:
        """Nothing is left to do: the next step follows a pause."""
        self._continuous = False

    def _pop(self, output: Any) -> _Planned | None:
        if not output.num_scheduled_tokens:
            return None
        while self._in_flight:
            planned = self._in_flight.popleft()
            if planned.output is output:
                return planned
        return None

    def _collect(self, ended: Result, output: Any, result: Any, requests: Mapping[str, Any]) -> None:
        sampled, index = result.sampled_token_ids, result.req_id_to_index
        if sampled is None or not len(sampled):
            return
        carried, k = output.scheduled_spec_decode_tokens, ended.k
        invalid = getattr(output, "num_invalid_spec_tokens", None) or {}
        prefills = {name for name, _ in ended.prefills} if ended.prefills else ()
        for name in output.num_scheduled_tokens:
            tokens = len(sampled[index[name]])
            if not tokens or name not in requests or (self._lingering and requests[name].is_finished()):
                continue  # it ended while this step was under way, or is still in its prompt
            ended.tokens += tokens
            if len(carried.get(name, ())) != k or name in prefills or invalid.get(name):
                continue
            ended.accepted.append(tokens - 1 if tokens <= k else k)
            ended.requests.append(name)
