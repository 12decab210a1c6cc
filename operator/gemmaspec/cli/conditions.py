"""What each condition of a resource tells, and where to look when it is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Condition:
    """One condition type. well: the status that it has when all is well."""

    name: str
    well: str
    true: str
    false: str
    unknown: str = "The operator can't tell yet."


_ALL: Final = (
    Condition(
        "Ready",
        "True",
        "As many engines of the revision as `replicas` asks for serve.",
        "Engines are missing; with `Reconciling` and `Stalled` both False something is waited for, and goes on by "
        "itself.",
    ),
    Condition(
        "Reconciling",
        "False",
        "The resource is on its way to what the spec asks for; the message says to what.",
        "Nothing is left to do, or nothing can be done (`Stalled`).",
    ),
    Condition(
        "Stalled",
        "False",
        "Nothing happens until the spec, or what the message names, changes; engines that run are left alone.",
        "Nothing stands in the way.",
    ),
    Condition(
        "Preflight",
        "True",
        "The engine was proved to be the one that was pinned: versions, patches, weights, memory.",
        "It is not, and was stopped before it loaded weights.",
    ),
    Condition(
        "EngineHealthy",
        "True",
        "vLLM runs and makes progress.",
        "It failed, hangs, or its pod can't start; the message has vLLM's own words.",
    ),
    Condition(
        "SpeculationHealthy",
        "True",
        "The target accepts drafts, and they earn what they cost.",
        "Drafts do not earn what they cost, or the drafter is broken; serving goes on, with a lower K where the mode "
        "allows.",
        "No drafts were counted yet, or speculation is off.",
    ),
    Condition(
        "RolledBack",
        "False",
        "The revision that the spec asks for was worse or dead, and the last good one serves; it is not tried again "
        "until the spec changes.",
        "The revision that the spec asks for runs, or is on trial.",
    ),
)
CONDITIONS: Final = {entry.name: entry for entry in _ALL}
"""Every condition type by its name."""
