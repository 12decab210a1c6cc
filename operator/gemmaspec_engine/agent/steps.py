"""What each step verified, drafted and brought, read from vLLM's scheduler objects as they pass.

Only attributes that vLLM 0.24 to 0.33 all have are touched; `gemmaspec_engine.compat` holds the proof.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Result", "Steps"]

_IN_FLIGHT_MOST = 64
"""Steps that may be under way: vLLM has two (async scheduling), or as many as pipeline stages."""


_NOBODY: frozenset[str] = frozenset()


class Ended:
    """A step from its scheduling on; once it has ended, with what the scheduler changes when it takes the result in."""

    __slots__ = (
        "batch",
        "begun",
        "continuous",
        "departed",
        "drafts",
        "gone",
        "lengths",
        "output",
        "prefills",
        "result",
        "seconds",
        "step_ms",
        "tokens",
        "uniform",
        "verifies",
    )

    def __init__(self, output: Any, verifies: int, drafts: int, continuous: bool, begun: float) -> None:
        self.output = output
        self.begun = begun
        self.verifies = verifies
        self.drafts = drafts
        self.continuous = continuous
        self.batch = len(output.num_scheduled_tokens)
        self.tokens = output.total_num_scheduled_tokens
        self.uniform = False
        """Every request decodes, and carries as many drafts as the step verifies."""
        self.prefills: tuple[tuple[str, int], ...] | list[tuple[str, int]] = ()
        self.result: Any = None
        self.lengths: Sequence[int] = ()
        """Tokens that each request sampled, in the order of the result."""
        self.gone: frozenset[str] = _NOBODY
        """Requests that ended while the step was under way."""
        self.departed: int
        """Requests that had ended when it was scheduled."""
        self.seconds: float
        self.step_ms = math.nan


class Result:
    """A step that has ended. ``accepted`` and ``requests`` list the requests that carried exactly ``k`` valid drafts.

    ``step_ms`` is the time from the update before; NaN where that says nothing about (batch, k).
    """

    __slots__ = ("accepted", "batch", "k", "prefills", "requests", "scheduled", "seconds", "step_ms", "tokens")

    def __init__(self, ended: Ended) -> None:
        self.batch = ended.batch
        self.k = ended.verifies
        self.prefills = ended.prefills
        """Requests that computed prompt tokens, and how far."""
        self.scheduled = ended.tokens
        self.seconds = ended.seconds
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
        self._decoding: Mapping[str, int] = {}
        self.arrivals = 0
        """Requests that the scheduler was given; with those that it knows now, this tells whether one ended."""
        self._in_flight: deque[Ended] = deque(maxlen=_IN_FLIGHT_MOST)

    def scheduled(self, output: Any, requests: Mapping[str, Any], drafts: int) -> None:
        """Before the step goes out: it verifies what the step before it drafted, and drafts ``drafts`` tokens.

        ``requests`` as they stand before the scheduler advances their counters.
        """
        counts = output.num_scheduled_tokens
        if not counts:
            if not self._in_flight:
                self._continuous = False  # nothing ran and nothing will: the next step follows a pause
            return
        k = self._last_k
        step = Ended(output, k, drafts, self._continuous or bool(self._in_flight), self._clock())
        step.departed = self.arrivals - len(requests)
        self._last_k = drafts
        self._in_flight.append(step)
        if step.tokens == step.batch * (k + 1):
            # With k = 0 the last token of a prompt looks like a decode: not where the same requests decoded before.
            if k:
                step.uniform = len(output.scheduled_spec_decode_tokens) == step.batch
            else:
                step.uniform = counts.keys() == self._decoding.keys()
        if not step.uniform:
            step.prefills = self._prefills(output, requests)
        self._decoding = {} if step.prefills else counts

    @staticmethod
    def _prefills(output: Any, requests: Mapping[str, Any]) -> list[tuple[str, int]]:
        found = []
        carried = output.scheduled_spec_decode_tokens
        for name, count in output.num_scheduled_tokens.items():
            spec = carried.get(name)
            request = requests[name]
            before = request.num_computed_tokens
            if count != (len(spec) + 1 if spec else 1) or before < request.num_prompt_tokens:
                found.append((name, before + count))
        return found

    def ended(self, output: Any, result: Any, requests: Mapping[str, Any]) -> Ended | None:
        """The step's result has come, before the scheduler takes it in; None for a step without tokens.

        Only what does not keep is taken down: the time, how many tokens came, and who is still there.
        """
        step = self._pop(output)
        now, before = self._clock(), self._last_update
        self._last_update = now
        self._continuous = True
        if step is None:
            return None
        # `before` is NaN at first, and a NaN is never larger.
        step.seconds = now - (before if before > step.begun else step.begun)
        if step.continuous and step.drafts == step.verifies and not step.prefills:
            step.step_ms = 1000.0 * (now - before)
        sampled = result.sampled_token_ids
        if sampled is not None and len(sampled):
            step.result = result
            step.lengths = list(map(len, sampled))
            if self._lingering or self.arrivals - len(requests) != step.departed:
                counts = output.num_scheduled_tokens
                step.gone = frozenset(
                    name
                    for name in counts
                    if name not in requests or (self._lingering and requests[name].is_finished())
                )
        return step

    def last_update(self) -> float:
        """When the last step's result came, by the clock; never: minus infinity."""
        return -math.inf if math.isnan(self._last_update) else self._last_update

    def idle(self) -> None:
        """Nothing is left to do: the next step follows a pause."""
        self._continuous = False

    def _pop(self, output: Any) -> Ended | None:
        if not output.num_scheduled_tokens:
            return None
        while self._in_flight:
            step = self._in_flight.popleft()
            if step.output is output:
                return step
        return None

    def read(self, ended: Ended) -> Result:
        """What the step brought, at leisure."""
        found = Result(ended)
        if ended.lengths:
            self._collect(found, ended)
        if 2 * len(found.accepted) > found.batch:
            found.step_ms = ended.step_ms
        return found

    @staticmethod
    def _collect(found: Result, ended: Ended) -> None:
        output, lengths, gone, k = ended.output, ended.lengths, ended.gone, ended.verifies
        index, counts = ended.result.req_id_to_index, output.num_scheduled_tokens
        invalid = getattr(output, "num_invalid_spec_tokens", None) or ()
        if ended.uniform and not gone and not invalid:
            got = [lengths[index[name]] for name in counts]
            if 0 not in got:
                found.tokens = sum(got)
                found.accepted = [n - 1 if n <= k else k for n in got]
                found.requests = list(counts)
                return
        carried = output.scheduled_spec_decode_tokens
        prefills = {name for name, _ in ended.prefills}
        for name in counts:
            tokens = lengths[index[name]]
            if not tokens or name in gone:
                continue  # it ended while this step was under way, or is still in its prompt
            found.tokens += tokens
            if len(carried.get(name, ())) != k or name in prefills or (invalid and invalid.get(name)):
                continue
            found.accepted.append(tokens - 1 if tokens <= k else k)
            found.requests.append(name)
