"""The scheduler class for vLLM's ``--scheduler-cls``: vLLM's own, with the agent looking on."""

from __future__ import annotations

import logging
import os
from typing import Any

import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler

from gemmaspec_engine import compat
from gemmaspec_engine.agent import drafter, port, store
from gemmaspec_engine.agent.host import ENV, Agent, Engine
from gemmaspec_engine.agent.settings import Config, parse_config

__all__ = ["LiveScheduler", "SyncLiveScheduler"]

log = logging.getLogger("vllm.gemmaspec")


class _Watched:
    """What both schedulers do more than vLLM's. Each override calls vLLM's own outside of any handler of ours."""

    gemmaspec: Agent | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gemmaspec = _attach(self)

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        if self.gemmaspec is not None:
            self.gemmaspec.scheduled(scheduler_output, self.requests)  # type: ignore[attr-defined]
        super()._update_after_schedule(scheduler_output)  # type: ignore[misc]

    def get_grammar_bitmask(self, scheduler_output: Any) -> Any:
        # Every engine core asks for it once a step, between handing the step to the device and waiting for it.
        if self.gemmaspec is not None:
            self.gemmaspec.computing()
        return super().get_grammar_bitmask(scheduler_output)  # type: ignore[misc]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        agent = self.gemmaspec
        if agent is None:
            return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        agent.ended(scheduler_output, model_runner_output, self.requests)  # type: ignore[attr-defined]
        outputs = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        if not self.running:  # type: ignore[attr-defined]
            agent.rests()
        return outputs

    def add_request(self, request: Any) -> None:
        if self.gemmaspec is not None:
            self.gemmaspec.arrived(len(self.requests))  # type: ignore[attr-defined]
        super().add_request(request)  # type: ignore[misc]


class SyncLiveScheduler(_Watched, Scheduler):  # type: ignore[misc]
    """For an engine without asynchronous scheduling."""


class LiveScheduler(_Watched, AsyncScheduler):  # type: ignore[misc]
    """Give this one to vLLM; where the engine turns out to schedule synchronously it makes the other."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """One of the two classes, by the engine's configuration."""
        config = kwargs.get("vllm_config", args[0] if args else None)
        if config is not None and not config.scheduler_config.async_scheduling:
            return SyncLiveScheduler(*args, **kwargs)
        return super().__new__(cls)


def _attach(scheduler: Any) -> Agent | None:
    """The agent for this scheduler; None when it cannot even be made: then the engine is plain vLLM."""
    try:
        config, complaint = _config()
        engine = _describe(scheduler)
        agent = Agent(engine, config)
        agent.start_error = complaint or agent.start_error
        if not engine.refusal:
            # Should our hook ever be passed by, vLLM looks K up here.
            scheduler.dynamic_sd_lookup = [agent.controller.static] * len(scheduler.dynamic_sd_lookup)
        agent.graph_counts, agent.tell = drafter.graph_counts(), drafter.teller()
    except Exception:
        log.exception("gemmaspec agent: cannot start; K stays as vLLM was started with")
        return None
    _open(agent)
    return agent


def _open(agent: Agent) -> None:
    try:
        restored = store.restore(agent)
    except Exception as error:  # noqa: BLE001
        restored = f"not restored: {error!r}"
    try:
        port.serve(agent)
        store.keep(agent)
    except Exception:
        log.exception("gemmaspec agent: no port")
    engine = agent.engine
    what = f"only watches: {engine.refusal}" if engine.refusal else f"moves K within {list(engine.ks)}"
    log.info("gemmaspec agent: %s; port %s; state: %s", what, agent.config.port, restored)


def _config() -> tuple[Config, str]:
    """The configuration; defaults, and what is wrong with it, where it cannot be read."""
    try:
        return parse_config(os.environ.get(ENV, "")), ""
    except ValueError as error:
        log.error("gemmaspec agent: %s", error)
        return Config(), str(error)


def _describe(scheduler: Any) -> Engine:
    parallel = scheduler.parallel_config
    lookup = scheduler.dynamic_sd_lookup
    positions = int(scheduler.num_spec_tokens)
    ks = tuple(sorted(set(lookup[1:]))) if lookup else (positions,)
    v2 = bool(getattr(scheduler, "use_v2_model_runner", False))
    refusal = compat.refusal(
        vllm.__version__,
        positions=positions,
        scheduled=lookup is not None,
        tensor=parallel.tensor_parallel_size,
        pipeline=parallel.pipeline_parallel_size,
        data=parallel.data_parallel_size,
        v2=v2,
    )
    return Engine(
        vllm=vllm.__version__,
        ks=ks,
        positions=positions,
        max_num_seqs=scheduler.scheduler_config.max_num_seqs,
        token_budget=scheduler.max_num_scheduled_tokens,
        asynchronous=isinstance(scheduler, AsyncScheduler),
        runner="V2" if v2 else "V1",
        refusal=refusal,
        drafter_told=drafter.told(v2, vllm.__version__),
        lingering=scheduler.connector is not None,
        unfinished=scheduler.get_num_unfinished_requests,
        paused=lambda: scheduler.pause_state == PauseState.PAUSED_ALL,
    )
