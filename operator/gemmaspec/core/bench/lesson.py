"""What a sweep teaches the policies in the engines: its figures as their prior, in the form of the agent's state.

Acceptance is the prompts', not the traffic's, so it weighs little against what the traffic shows; step times are the
engine's own.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gemmaspec.core.bench.figures import conditional
from gemmaspec.core.bench.result import Run
from gemmaspec_engine import policy

# As docs/live-k.md describes GET /state.
STATE_VERSION: Final = 1
_POLICY: Final = "adaptive"


def prior(runs: Sequence[Run]) -> dict[str, Any]:
    """Conditional acceptance by position, and the time of a step by batch and K; empty where none was measured."""
    rates = conditional(runs)
    times: dict[int, dict[int, list[float]]] = {}
    for run in runs:
        if run.k is not None and run.batch is not None and run.step_milliseconds:
            by_k = times.setdefault(max(1, round(run.batch)), {})
            by_k.setdefault(run.k, []).append(run.step_milliseconds)
    if not times:
        return {}
    step_ms = {batch: {k: statistics.median(values) for k, values in by_k.items()} for batch, by_k in times.items()}
    return {"acceptance": rates, "step_ms": step_ms} if rates else {"step_ms": step_ms}


def state(runs: Sequence[Run], ks: Sequence[int]) -> str:
    """The body of PUT /state for an engine with this grid; empty where there is nothing to teach."""
    known: Mapping[str, Any] = prior(runs)
    if not known or len(ks) < 2:
        return ""
    taught = policy.make(_POLICY, k_max=max(ks), ks=ks, prior=known)
    body = {"version": STATE_VERSION, "ks": sorted(ks), "policies": {_POLICY: taught.export_state()}}
    return json.dumps(body)
