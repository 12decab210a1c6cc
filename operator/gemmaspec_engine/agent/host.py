"""The agent: what the scheduler calls at each step, and what the port asks. No entry point raises."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns, thread_time_ns
from typing import Any

from gemmaspec_engine.agent import exposition, settings
from gemmaspec_engine.agent.controller import Controller
from gemmaspec_engine.agent.progress import Progress
from gemmaspec_engine.agent.settings import Config, Settings
from gemmaspec_engine.agent.steps import Ended, Result, Steps
from gemmaspec_engine.agent.tally import Overhead, Tally

__all__ = ["ENV", "Agent", "Engine"]

ENV = "GEMMASPEC_AGENT"
_FORGET_EVERY = 256
PROCESSOR_EVERY = 8
"""Steps of which one has its processor time read."""
log = logging.getLogger("vllm.gemmaspec")  # a child of vLLM's logger: its handlers print it


@dataclass(frozen=True)
class Engine:
    """What the engine is, as far as the agent minds."""

    vllm: str
    ks: tuple[int, ...]
    """K values with graphs; (0,) without speculation."""
    positions: int
    max_num_seqs: int
    token_budget: int
    asynchronous: bool
    runner: str
    refusal: str = ""
    """Why K stays as it was started; empty: the agent moves it."""
    drafter_told: bool = True
    """False: the drafter makes all drafts whatever K is, and the rest is thrown away."""
    lingering: bool = False
    """Requests stay known to the scheduler for a while after their end."""
    unfinished: Callable[[], int] = field(default=lambda: 0)
    paused: Callable[[], bool] = field(default=lambda: False)


class Agent:
    """Hosts controller, counts and progress for one scheduler."""

    def __init__(self, engine: Engine, config: Config) -> None:
        self.engine = engine
        self.config = config
        self.started = time.time()
        self.errors: dict[str, int] = {}
        self.start_error = ""
        self.restored = ""
        """Where what the policies knew at the start came from: `volume`, `port`, or nowhere."""
        self.controller = Controller(engine.ks, self._start_settings())
        self.tally = Tally(engine.positions)
        self.progress = Progress(engine.token_budget, config.stall_seconds)
        self.overhead = Overhead()
        self.graph_counts: Callable[[], Mapping[str, int]] | None = None
        self.tell: Callable[[int], None] | None = None
        """Tells the drafter K, where vLLM does not."""
        self._steps = Steps(self.controller.k, engine.lingering)
        self.controller.on_fault = self._say
        self._woken = -math.inf
        self.controller.free_since = lambda: max(self._woken, self._steps.last_update())
        self._moves = not engine.refusal
        self._ended: deque[Ended] = deque()
        self._counts: Mapping[str, int] = {}
        self._requests: Mapping[str, Any] = {}
        self._cpu = self._wall = self._cpu_beside = self._wall_beside = 0
        self._sampling = True
        """Is the processor time of this account read?"""
        self._recorded = 0

    def _start_settings(self) -> Settings:
        """What GEMMASPEC_AGENT says; the largest K of the grid, fixed, where it says nothing usable."""
        fixed = settings.parse({"mode": "Fixed"}, self.engine.ks)
        if not self.config.start:
            return fixed
        try:
            return settings.parse(self.config.start, self.engine.ks)
        except ValueError as error:
            self.start_error = f"{ENV}: start: {error}"
            return fixed

    # --- the scheduler's side --------------------------------------------------------------------------------
    #
    # `scheduled` and `ended` stand between two steps, so they only take down what the scheduler is about to change, and
    # hand out the K that was decided ahead. What is learnt from a step is worked out in `computing`, while the device
    # computes the next one. The thread's processor time is read by a system call, which is as long as all the rest
    # between two steps: every so many steps is enough.

    def scheduled(self, output: Any, requests: Mapping[str, Any]) -> None:
        """Before a step goes out: writes its K into ``output``."""
        begun = perf_counter_ns()
        cpu = thread_time_ns() if self._sampling else 0
        try:
            counts = output.num_scheduled_tokens
            if len(self._ended) > 1:
                self._account()
                self._learn()  # nobody called `computing`
            k = output.num_spec_tokens_to_schedule
            if counts:
                if self._moves:
                    output.num_spec_tokens_to_schedule = k = self.controller.choose(len(counts), counts)
                if self.tell is not None:
                    self.tell(k)
            self._counts = counts
            self._requests = requests
            self._steps.scheduled(output, requests, k, begun * 1e-9)
        except Exception as error:  # noqa: BLE001  whatever it is, the engine goes on
            self.failed("scheduled", error)
            if self._moves:
                output.num_spec_tokens_to_schedule = self.controller.static
        if cpu:
            self._cpu += thread_time_ns() - cpu
        self._wall += perf_counter_ns() - begun

    def computing(self) -> None:
        """The step is under way on the device: time to learn from the ones that ended, and to decide the next K."""
        begun = perf_counter_ns()
        self._account()
        cpu = thread_time_ns() if self._sampling else 0
        try:
            self._steps.look(self._requests)
            self._learn()
            if self._moves and self._counts:
                self.controller.ahead(len(self._counts), tuple(self._counts))
        except Exception as error:  # noqa: BLE001
            self.failed("computing", error)
        if cpu:
            self._cpu_beside += thread_time_ns() - cpu
        self._wall_beside += perf_counter_ns() - begun

    def ended(self, output: Any, result: Any, requests: Mapping[str, Any]) -> None:
        """A step's result has come, and the scheduler has not yet taken it in."""
        begun = perf_counter_ns()
        cpu = thread_time_ns() if self._sampling else 0
        try:
            step = self._steps.ended(output, result, requests, begun * 1e-9)
            if step is not None:
                self._ended.append(step)
        except Exception as error:  # noqa: BLE001
            self.failed("ended", error)
        if cpu:
            self._cpu += thread_time_ns() - cpu
        self._wall += perf_counter_ns() - begun

    def rests(self) -> None:
        """The scheduler has taken a result in, and no request goes on: nothing waits, and the next may be far off."""
        try:
            self._steps.idle()
            self._account()
            self._learn()
        except Exception as error:  # noqa: BLE001
            self.failed("rests", error)

    def arrived(self, unfinished: int) -> None:
        """A request comes to ``unfinished`` others."""
        try:
            if not unfinished:
                self._woken = perf_counter()
            self._steps.arrivals += 1
            self.progress.arrived(unfinished)
        except Exception as error:  # noqa: BLE001
            self.failed("arrived", error)

    def _account(self) -> None:
        """Closes the account of the steps that ended since the last time; an account begins beside a step."""
        if self._ended:
            sampled = (self._cpu, self._cpu_beside) if self._sampling else None
            self.overhead.add(self._wall, self._wall_beside, sampled)
            self._cpu = self._wall = self._cpu_beside = self._wall_beside = 0
            self._sampling = self.overhead.count % PROCESSOR_EVERY == 0

    def _learn(self) -> None:
        """Takes in all steps that have ended."""
        waiting = self._ended
        while waiting:
            ended = waiting.popleft()
            try:
                self._record(self._steps.read(ended), ended.result)
            except Exception as error:  # noqa: BLE001
                self.failed("ended", error)

    def _record(self, step: Result, result: Any) -> None:
        if step.tokens:
            self.progress.sampled()
        for request, end in step.prefills:
            self.progress.computed(request, end)
        tally = self.tally
        if step.prefills:
            self.progress.chunk(step.scheduled, step.seconds)
        else:
            tally.step(step.batch, step.k, step.tokens, step.step_ms)
            graph = getattr(result, "cudagraph_stats", None)
            if graph is not None:
                tally.graph(str(graph.runtime_mode).rpartition(".")[2])
        tally.tokens += step.tokens
        tally.drafts_of(step.k, step.accepted, step.requests)
        if self._moves:
            self.controller.observe(step.batch, step.k, step.accepted, step.step_ms, step.requests)
        self._recorded += 1
        if self._recorded % _FORGET_EVERY == 0:
            self.progress.forget(self._requests, len(self._requests))

    def failed(self, where: str, error: BaseException) -> None:
        """An exception of ours: counted, K static from now on, said once in the log."""
        self.controller.fail(where, error)

    def _say(self, where: str, error: BaseException) -> None:
        log.error("gemmaspec agent: exception in %s, K stays at %d", where, self.controller.static, exc_info=error)

    # --- the port's side -------------------------------------------------------------------------------------

    def authorized(self, header: str | None) -> bool:
        """Does the Authorization header hold the token whose hash this pod was given?"""
        if not header or not header.startswith("Bearer ") or not self.config.token_sha256:
            return False
        found = hashlib.sha256(header.removeprefix("Bearer ").strip().encode()).hexdigest()
        return hmac.compare_digest(found, self.config.token_sha256.lower())

    def livez(self) -> tuple[bool, dict[str, Any]]:
        """Is the engine alive, and the figures behind it. An error of ours is no death of the engine."""
        try:
            verdict = self.progress.verdict(self.engine.unfinished(), self.engine.paused())
        except Exception as error:  # noqa: BLE001
            self.failed("livez", error)
            return True, {"error": repr(error)}
        figures = {
            "live": verdict.live,
            "unfinished": verdict.unfinished,
            "stalledSeconds": round(verdict.stalled, 3),
            "limitSeconds": round(verdict.limit, 3),
        }
        return verdict.live, figures

    def put_k(self, body: object) -> dict[str, Any]:
        """PUT /k. Raises SettingsError, or PermissionError where this engine's K cannot be moved."""
        if self.engine.refusal:
            raise PermissionError(self.engine.refusal)
        self.controller.apply(settings.parse(body, self.engine.ks))
        return self.k_json()

    def k_json(self) -> dict[str, Any]:
        """The `k` of /status."""
        fault = self.controller.fault
        return {
            "now": self.controller.k,
            "since": round(self.controller.since, 3),
            "reason": self.controller.explain(),
            "ks": list(self.engine.ks),
            **self.controller.settings_json(),
            "fallback": fault.as_json() if fault else None,
        }

    def status(self) -> dict[str, Any]:
        """GET /status."""
        engine, tally = self.engine, self.tally
        positions = zip(tally.drafted, tally.accepted, tally.acceptance(), strict=True)
        return {
            "version": 1,
            "live": not engine.refusal,
            "reason": engine.refusal or self.start_error,
            "startedAt": round(self.started, 3),
            "engine": {
                "vllm": engine.vllm,
                "scheduling": "async" if engine.asynchronous else "sync",
                "runner": engine.runner,
                "maxNumSeqs": engine.max_num_seqs,
                "drafterTold": engine.drafter_told,
                "graphs": self.graphs(),
                "process": os.getpid(),
            },
            "k": self.k_json(),
            "acceptance": {
                "drafts": tally.drafts,
                "requests": tally.requests,
                "positions": [{"drafted": d, "accepted": a, "recent": r} for d, a, r in positions],
            },
            "steps": {
                "decode": tally.steps,
                "tokens": tally.tokens,
                "changes": self.controller.changes,
                "missed": self.controller.missed,
                "perK": {str(k): per_k.as_json() for k, per_k in sorted(tally.per_k.items())},
            },
            "state": {"restored": self.restored},
            "progress": self.livez()[1],
            "overhead": self.overhead.quantiles(),
            "exceptions": dict(self.controller.exceptions),
        }

    def graphs(self) -> dict[str, int]:
        """Decode steps by CUDA-graph mode; empty where this vLLM does not tell."""
        if self.graph_counts is not None:
            return dict(self.graph_counts())
        return dict(self.tally.graphs)

    def metrics(self) -> str:
        """GET /metrics."""
        return exposition.render(self)
