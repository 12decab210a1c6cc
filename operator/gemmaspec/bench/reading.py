"""What an engine counts: its own metrics, and its agent's where it has one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from gemmaspec.adapters import engine
from gemmaspec.adapters.transport import Transport, Unreached
from gemmaspec.core.bench.figures import Counters

_PREFIX: Final = "gemmaspec_agent_"
# Key of steps whose K nobody tells.
UNKNOWN: Final = -1


@dataclass(frozen=True)
class Reading:
    """counters: see Counters. running: requests in the engine at that moment."""

    counters: Counters
    running: float


async def read(metrics: Transport, agent: Transport | None, k: int | None) -> Reading:
    """Counters of now. k: what the engine runs with, where no agent tells. Raises Unreached."""
    text = await metrics.get("/metrics")
    try:
        sample = engine.parse(text, time.time())
    except engine.ScrapeError as error:
        raise Unreached(0, f"{metrics.where}/metrics: {error}") from error
    if agent is not None:
        return Reading(of_agent(await agent.get("/metrics"), sample.generation_tokens), sample.running)
    key = UNKNOWN if k is None else k
    drafting = sample.drafts > 0 if k is None else k > 0
    requests = sample.drafts if drafting else sample.step_seconds_count
    counters = Counters(
        steps={},
        requests={key: requests},
        tokens={key: sample.drafts + sample.accepted_tokens if drafting else sample.step_seconds_count},
        timed_seconds={key: sample.step_seconds_sum},
        timed_steps={key: sample.step_seconds_count},
        drafted=(sample.drafts, *sample.accepted_per_position[:-1]) if drafting else (),
        accepted=sample.accepted_per_position if drafting else (),
        generated=sample.generation_tokens,
    )
    return Reading(counters, sample.running)


def of_agent(text: str, generated: float) -> Counters:
    """The agent's exposition. Raises Unreached where it is none, or an older agent's."""
    found = _families(text)
    try:
        return Counters(
            steps=_by_k(found["decode_steps_total"]),
            requests=_by_k(found["decode_requests_total"]),
            tokens=_by_k(found["decode_tokens_total"]),
            timed_seconds=_by_k(found.get("step_seconds_sum", {})),
            timed_steps=_by_k(found.get("step_seconds_count", {})),
            drafted=_in_order(found["drafted_total"]),
            accepted=_in_order(found["accepted_total"]),
            generated=generated,
        )
    except KeyError as error:
        raise Unreached(0, f"the agent does not tell {_PREFIX}{error.args[0]}: it is of another release") from error


def grid(text: str) -> tuple[int, ...]:
    """The values of K that the agent's engine has graphs for."""
    return tuple(sorted(_by_k(_families(text).get("decisions_total", {}))))


def moves(text: str) -> bool:
    """Whether the agent moves K, or only watches."""
    return _families(text).get("live", {}).get("") == 1.0


def held(text: str) -> int | None:
    """The K that the agent holds for a while; None where it holds none."""
    value = _families(text).get("held_k", {}).get("")
    return None if value is None else int(value)


def _families(text: str) -> dict[str, dict[str, float]]:
    """Sample name without the prefix -> its first label's value -> value."""
    found: dict[str, dict[str, float]] = {}
    lines = "\n".join(line for line in text.splitlines() if line.startswith(_PREFIX)) + "\n"
    try:
        for family in text_string_to_metric_families(lines):
            for sample in family.samples:
                label = next(iter(sample.labels.values()), "")
                found.setdefault(sample.name.removeprefix(_PREFIX), {})[label] = sample.value
    except (ValueError, KeyError, IndexError) as error:
        raise Unreached(0, f"the agent's metrics are no Prometheus exposition: {error}") from error
    # Counters without a sample yet stand for none.
    if "decisions_total" in found:
        for name in ("decode_steps_total", "decode_requests_total", "decode_tokens_total"):
            found.setdefault(name, {}) if f"# TYPE {_PREFIX}{name} " in text else None
    return found


def _by_k(values: Mapping[str, float]) -> dict[int, float]:
    return {int(label): value for label, value in values.items()}


def _in_order(values: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(value for _, value in sorted((int(label), value) for label, value in values.items()))
