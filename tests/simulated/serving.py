"""Engines, traffic and scrapes over virtual hours, driven through the operator's real decisions.

What is simulated is vLLM's side alone: counters grow as requests of given acceptance would make them grow. Evidence,
state machine and its memory in `.status` are the operator's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gemmaspec.core import memory
from gemmaspec.core.acceptance import remember
from gemmaspec.core.observation import Observation, Pod, Resource, Sample
from gemmaspec.core.plan import Owner
from gemmaspec.core.recipe import Prior, Recipe
from gemmaspec.core.reconcile import decide_k
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.core.series import Series

EPOCH = 1_800_000_000.0
HOUR = 3600.0
IMAGE = "vllm/vllm-openai@sha256:" + "0" * 64


def linear(base: float, per_token: float, per_request: float = 0.0) -> Callable[[int, int], float]:
    """Step time in milliseconds of an engine whose cost is linear in K and in running requests."""
    return lambda k, batch: base + per_token * k + per_request * max(0, batch - 1) * (k + 1)


@dataclass(frozen=True)
class Traffic:
    """A kind of traffic: ``streams`` requests at a time, each of ``drafts`` steps on average.

    rates: mean conditional acceptance by position. Requests' own rates are spread around it like a beta distribution
    of concentration ``c`` (smaller: more clustered).
    """

    rates: Sequence[float]
    streams: int = 2
    drafts: float = 100.0
    c: float = 20.0


IDLE = Traffic((), streams=0)


@dataclass
class Request:
    left: float
    rates: list[float]


@dataclass
class FakeEngine:
    """Counters of one engine."""

    k: int
    uid: str
    ready_at: float
    requests: list[Request] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    accepted: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The container restarted: counters begin at nothing."""
        self.requests, self.accepted = [], [0.0] * self.k
        names = "drafts draft_tokens accepted_tokens generation_tokens requests_finished"
        self.totals = dict.fromkeys([*names.split(), "step_seconds_sum", "step_seconds_count"], 0.0)

    def serve(self, seconds: float, traffic: Traffic, step_ms: float, rng: np.random.Generator) -> None:
        """What ``seconds`` of traffic do to the counters."""
        del self.requests[traffic.streams :]
        for stream in range(traffic.streams):
            steps = seconds * 1000.0 / step_ms
            while steps >= 1:
                if stream == len(self.requests):
                    self.requests.append(_request(traffic, rng))
                request = self.requests[stream]
                taken = int(min(steps, request.left))
                self._steps(taken, request, step_ms, rng)
                request.left -= taken
                steps -= taken
                if request.left < 1:
                    self.requests[stream] = _request(traffic, rng)
                    self.totals["requests_finished"] += 1

    def _steps(self, taken: int, request: Request, step_ms: float, rng: np.random.Generator) -> None:
        alive = taken
        for position in range(self.k):
            rate = request.rates[position] if position < len(request.rates) else 0.0
            alive = int(rng.binomial(alive, rate)) if alive else 0
            self.accepted[position] += alive
            self.totals["accepted_tokens"] += alive
            self.totals["generation_tokens"] += alive
        self.totals["drafts"] += taken if self.k else 0
        self.totals["draft_tokens"] += taken * self.k
        self.totals["generation_tokens"] += taken
        self.totals["step_seconds_sum"] += taken * step_ms / 1000.0
        self.totals["step_seconds_count"] += taken

    def sample(self, now: float) -> Sample:
        """What a scrape would read."""
        running = float(len(self.requests))
        return Sample(time=now, accepted_per_position=tuple(self.accepted), running=running, **self.totals)


def _request(traffic: Traffic, rng: np.random.Generator) -> Request:
    mean = traffic.rates[0] if traffic.rates else 0.0
    scale = 1.0
    if 0.0 < mean < 1.0 and traffic.c:
        scale = rng.beta(mean * traffic.c, (1 - mean) * traffic.c) / mean
    rates = [min(0.995, rate * scale) for rate in traffic.rates]
    return Request(left=1 + rng.exponential(traffic.drafts), rates=rates)


@dataclass(frozen=True)
class Move:
    """K moved."""

    at: float
    reason: str
    before: int
    after: int
    message: str


class SimulatedServing:
    """A resource, its engines and its operator, scrape after scrape."""

    def __init__(
        self,
        *,
        step_ms: Callable[[int, int], float],
        k: int = 4,
        control: Mapping[str, Any] | None = None,
        prior: Prior | None = None,
        boot: float = 60.0,
        replicas: int = 1,
        scrape: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.control, self.replicas, self.prior = dict(control or {}), replicas, prior
        self.step_ms, self.boot, self.scrape = step_ms, boot, scrape
        self.now = EPOCH
        self._skew = 0.0  # of the operator's clock against the nodes'
        self.status: dict[str, Any] = {}
        self.moves: list[Move] = []
        self.told: list[str] = []
        self.series: dict[str, Series] = {}
        self._born = 0
        self.spec_k = k
        self.resolved = self._resolve()
        self.engines = self._boot(k)

    def _resolve(self) -> Resolved:
        spec: dict[str, Any] = {"recipe": "test", "replicas": self.replicas}
        spec["speculative"] = {"k": self.spec_k, "control": self.control}
        body = {"model": {"target": "m"}, "engine": {"image": IMAGE}}
        body["speculative"] = {"method": "mtp", "drafter": {"model": "d"}}
        prior = self.prior or Prior.model_validate({})
        return resolve(spec, {"test": Recipe(name="test", version=1, summary="", spec=body, prior=prior)})

    def edit(self, *, k: int | None = None, **control: Any) -> None:
        """The user edits the spec."""
        self.spec_k = self.spec_k if k is None else k
        self.control |= control
        self.resolved = self._resolve()

    def _boot(self, k: int) -> list[FakeEngine]:
        self.series.clear()
        self._born += 1
        ready_at = self.now - self._skew + self.boot
        return [FakeEngine(k, f"u{self._born}-{i}", ready_at) for i in range(self.replicas)]

    @property
    def k(self) -> int:
        """K that the engines run with."""
        return self.engines[0].k

    def observation(self) -> Observation:
        """What the operator sees now."""
        pods = tuple(_pod(engine, self.now - self._skew, self.boot) for engine in self.engines)
        ready = {pod.uid for pod in pods if pod.ready}
        samples = {uid: series.copy() for uid, series in self.series.items() if uid in ready}
        resource = Resource(Owner("ns", "sim", "uid"), 1, False, {}, self.status)
        return Observation(resource=resource, now=self.now, pods=pods, samples=samples)

    def jump(self, seconds: float) -> None:
        """The operator's clock is set, forwards or back; the engines and the nodes' clocks go on as they were."""
        self.now += seconds
        self._skew += seconds

    def restart_operator(self) -> None:
        """The operator dies: what it scraped is lost, what is in `.status` is not."""
        self.series.clear()

    def advance(self, seconds: float, traffic: Traffic, lost: Callable[[float], bool] = lambda now: False) -> None:
        """Let time pass; ``lost`` says which scrapes fail."""
        end = self.now + seconds
        while self.now < end:
            self.now += self.scrape
            step_ms = self.step_ms(self.k, traffic.streams)
            for engine in self.engines:
                if self.now - self._skew <= engine.ready_at:
                    continue
                engine.serve(self.scrape, traffic, step_ms, self.rng)
                if not lost(self.now):
                    remember(self.series.setdefault(engine.uid, Series()), engine.sample(self.now), lambda: HOUR)
            self.decide()

    def decide(self) -> None:
        """One pass; a move of K boots engines anew. State goes through `.status` and back, as in the operator."""
        change, _ = decide_k(self.observation(), self.resolved)
        state = change.state
        floor = min(self.resolved.control.k_min, self.resolved.k)
        assert floor <= state.effective <= self.resolved.k or (state.fault and state.effective == 0), state
        before = self.k
        if change.moved:
            self.told.append(change.message)
        if state.effective != before:
            self.moves.append(
                Move(self.now - self._skew - EPOCH, change.reason, before, state.effective, change.message)
            )
            self.engines = self._boot(state.effective)
        k = {"effective": state.effective, "reason": state.reason or memory.AS_ASKED, "desired": state.desired}
        control = memory.store(state).model_dump(mode="json", by_alias=True, exclude_none=True)
        self.status = {"revision": f"r{state.effective}", "k": k, "control": control}


def _pod(engine: FakeEngine, now: float, boot: float) -> Pod:
    ready = now >= engine.ready_at
    return Pod(
        name=engine.uid,
        uid=engine.uid,
        revision=f"r{engine.k}",
        k=engine.k,
        ip="10.0.0.1",
        node="n",
        phase="Running",
        ready=ready,
        terminating=False,
        running=True,
        restarts=0,
        created_at=engine.ready_at - boot,
        ready_at=engine.ready_at if ready else None,
    )
