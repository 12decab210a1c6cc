"""What each step verified, drafted and brought, read from vLLM's scheduler objects as they pass.

Only attributes that vLLM 0.24 to 0.33 all have are touched; `gemmaspec_engine.compat` holds the proof.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Result", "Steps"]

_IN_FLIGHT_MOST = 64
"""Steps that may be under way: vLLM has two (async scheduling), or as many as pipeline stages."""


_NOBODY: frozenset[str] = frozenset()


class Ended:
    """A step from its scheduling on.

    Made between two steps, where a call and a line of code each cost a cold cache: attributes are set one by one, and
    what keeps until later is set later.
    """

    __slots__ = (
        "batch",
        "before",
        "begun",
        "continuous",
        "departed",
        "drafts",
        "ended",
        "gone",
        "lengths",
        "output",
        "prefills",
        "result",
        "uniform",
        "verifies",
    )

    # Set when it is scheduled.
    output: Any
    verifies: int
    drafts: int
    continuous: bool
    begun: float
    departed: int
    """Requests that had ended by then."""
    # Set by `Steps.look`.
    batch: int
    """0 until then."""
    uniform: bool
    """Every request decodes, and carries as many drafts as the step verifies."""
    prefills: Sequence[tuple[str, int]]
    # Set when it has ended: what the scheduler changes when it takes the result in.
    before: float
    """When the step before ended; NaN: there was none."""
    ended: float
    result: Any
    """None without tokens."""
    lengths: Sequence[int]
    """Tokens that each request sampled, in the order of the result."""
    gone: frozenset[str]
    """Requests that ended while the step was under way."""

    def seconds(self) -> float:
        """From when it could start: its scheduling, or the update before where that came later."""
        return self.ended - (self.before if self.before > self.begun else self.begun)  # a NaN is never larger

    def step_ms(self) -> float:
        """From update to update; NaN where that says nothing about (batch, K)."""
        if self.continuous and self.drafts == self.verifies and not self.prefills:
            return 1000.0 * (self.ended - self.before)
        return math.nan


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
        self.scheduled = ended.output.total_num_scheduled_tokens
        self.seconds = ended.seconds()
        self.step_ms = math.nan
        self.tokens = 0
        self.accepted: list[int] = []
        self.requests: list[str] = []


class Steps:
    """Follows steps from schedule to update. Not thread-safe: the scheduler's thread only.

    Args:
        k: K that the first step's requests carry (none do, so any).
        lingering: requests stay known for a while after their end (a KV connector sends their cache elsewhere).
    """

    def __init__(self, k: int, lingering: bool = False) -> None:
        self._lingering = lingering
        self._last_k = k
        self._last_update = math.nan
        self._continuous = False
        self._decoding: Mapping[str, int] = {}
        self.arrivals = 0
        """Requests that the scheduler was given; with those that it knows now, this tells whether one ended."""
        self._in_flight: deque[Ended] = deque(maxlen=_IN_FLIGHT_MOST)
        self._unseen: Ended | None = None

    def scheduled(self, output: Any, requests: Mapping[str, Any], drafts: int, now: float) -> None:
        """Before the step goes out: it verifies what the step before it drafted, and drafts ``drafts`` tokens.

        ``requests`` as they stand before the scheduler advances their counters; ``now`` in seconds, monotonic.
        """
        in_flight = self._in_flight
        if not output.num_scheduled_tokens:
            if not in_flight:
                self._continuous = False  # nothing ran and nothing will: the next step follows a pause
            return
        if self._unseen is not None:
            self.look(requests)
        self._unseen = step = Ended()
        step.output = output
        step.verifies = self._last_k
        step.drafts = self._last_k = drafts
        step.continuous = self._continuous or bool(in_flight)
        step.begun = now
        step.departed = self.arrivals - len(requests)
        step.batch = 0
        in_flight.append(step)

    def look(self, requests: Mapping[str, Any]) -> None:
        """At the step scheduled last, after the scheduler has advanced the requests' counters: who is in it."""
        step, self._unseen = self._unseen, None
        if step is None:
            return
        output, k = step.output, step.verifies
        counts = output.num_scheduled_tokens
        step.batch = len(counts)
        step.prefills = ()
        step.uniform = False
        if output.total_num_scheduled_tokens == step.batch * (k + 1):
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
            spec, request = carried.get(name), requests.get(name)
            end = request.num_computed_tokens if request is not None else 0
            prompt = request.num_prompt_tokens if request is not None else 0
            if count != (len(spec) + 1 if spec else 1) or end - count < prompt:
                found.append((name, end))
        return found

    def ended(self, output: Any, result: Any, requests: Mapping[str, Any], now: float) -> Ended | None:
        """The step's result has come, before the scheduler takes it in; None for a step without tokens.

        Only what does not keep is taken down: the time, how many tokens came, and who is still there.
        """
        in_flight = self._in_flight
        step = in_flight.popleft() if in_flight and in_flight[0].output is output else self._found(output)
        before, self._last_update = self._last_update, now
        self._continuous = True
        if step is None:
            return None
        if not step.batch:
            self.look(requests)
        step.before, step.ended = before, now
        step.gone = _NOBODY
        sampled = result.sampled_token_ids
        if sampled is None or not len(sampled):
            step.result, step.lengths = None, ()
            return step
        step.result, step.lengths = result, list(map(len, sampled))
        if self._lingering or self.arrivals - len(requests) != step.departed:
            step.gone = frozenset(
                name
                for name in output.num_scheduled_tokens
                if name not in requests or (self._lingering and requests[name].is_finished())
            )
        return step

    def _found(self, output: Any) -> Ended | None:
        """The step under way that made this output, where it is not the oldest one."""
        if not output.num_scheduled_tokens:
            return None
        while self._in_flight:
            step = self._in_flight.popleft()
            if step.output is output:
                return step
        return None

    def last_update(self) -> float:
        """When the last step's result came, by the clock; never: minus infinity."""
        return -math.inf if math.isnan(self._last_update) else self._last_update

    def idle(self) -> None:
        """Nothing is left to do: the next step follows a pause."""
        self._continuous = False

    def read(self, ended: Ended) -> Result:
        """What the step brought, at leisure."""
        found = Result(ended)
        if ended.lengths:
            self._collect(found, ended)
        if 2 * len(found.accepted) > found.batch:
            found.step_ms = ended.step_ms()
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
