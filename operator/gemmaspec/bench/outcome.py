"""From measurements to the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gemmaspec.core import moment
from gemmaspec.core.bench import advice, figures
from gemmaspec.core.bench.result import EngineFacts, Method, Result, Run
from gemmaspec.core.bench.sweep import Sweep

# Above this share of the tokens those of others are told.
OTHERS: Final = 0.02


def outcome(
    runs: Sequence[Run],
    sweep: Sweep,
    *,
    title: str,
    facts: EngineFacts,
    current: int | None,
    began: float,
    prompts: str,
    notes: Sequence[str] = (),
) -> Result:
    """The result, whole or not. current: K that the spec asks for; None: the largest one swept. began: seconds since
    the epoch.
    """
    if current is None:
        current = max((k or 0 for k in sweep.ks), default=0)
    told = list(notes)
    others = sum(run.other_tokens for run in runs)
    if others > OTHERS * sum(run.tokens for run in runs):
        told.append(f"the engine generated {others} tokens for others meanwhile: speeds are lower than its own")
    return Result(
        title=title,
        started_at=moment.text(began),
        seconds=round(sum(run.seconds for run in runs), 1),
        engine=facts,
        method=Method(
            tokens=sweep.workloads[0].tokens,
            temperature=sweep.temperature,
            runs=sweep.runs,
            concurrencies=list(sweep.concurrencies),
            ks=[k for k in sweep.ks if k is not None],
            prompts=prompts,
        ),
        notes=told,
        runs=list(runs),
        cells=figures.cells(runs),
        advice=advice.advise(runs, current, facts.max_num_seqs, not sweep.seldom),
    )


def short(result: Result) -> dict[str, Any]:
    """What the status tells of a result."""
    found = result.advice
    if found is None:
        return {"message": "K was not swept: nothing is recommended", "schedule": []}
    schedule = [
        {
            "batch": choice.batch,
            "k": choice.k,
            "gainPercent": round(100 * choice.gain.mean, 1),
            **({} if choice.gain.low is None else {"gainPercentLow": round(100 * choice.gain.low, 1)}),
            "overZeroPercent": round(100 * choice.over_zero.mean, 1),
        }
        for choice in found.schedule
    ]
    return {"message": found.sentence, "schedule": schedule}
