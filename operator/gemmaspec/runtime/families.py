"""The metric families of a resource: names, units and meaning, by Prometheus' conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

RESOURCE: Final = ("namespace", "name")


@dataclass(frozen=True)
class Family:
    """One family. labels: those besides namespace and name of the resource; bound: how many series they can make."""

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    labels: tuple[str, ...] = ()
    bound: str = "1"

    def empty(self) -> GaugeMetricFamily | CounterMetricFamily:
        """The family for one exposition, without series."""
        made = GaugeMetricFamily if self.kind == "gauge" else CounterMetricFamily
        return made(self.name, self.meaning, labels=(*RESOURCE, *self.labels))


INFO: Final = Family(
    "gemmaspec_resource_info",
    "gauge",
    "1; what the resource serves, who moves its K (mode), and how (actuator).",
    ("target", "mode", "actuator"),
)
CONDITION: Final = Family(
    "gemmaspec_status_condition",
    "gauge",
    "1 for the status and reason that each condition of the resource has now.",
    ("condition", "status", "reason"),
    "one a condition",
)
REVISION: Final = Family(
    "gemmaspec_revision_info",
    "gauge",
    "1; revisions that the status names: state current, last-good or rejected.",
    ("revision", "state"),
    "3",
)
ENGINES_DESIRED: Final = Family("gemmaspec_engines_desired", "gauge", "Engines that the spec asks for.")
ENGINES: Final = Family(
    "gemmaspec_engines",
    "gauge",
    "Engine pods by revision and state: ready, starting or leaving.",
    ("revision", "state"),
    "3 a revision that has pods",
)
PREFLIGHT: Final = Family(
    "gemmaspec_preflight_engines",
    "gauge",
    "Engine pods by what preflight found: result passed, failed or pending, and its reason.",
    ("result", "reason"),
    "one a pod, at most",
)
K_DESIRED: Final = Family("gemmaspec_k_desired", "gauge", "Draft tokens a step that the spec or its recipe asks for.")
K_EFFECTIVE: Final = Family("gemmaspec_k_effective", "gauge", "Draft tokens a step that the engines run with.")
K_CHANGED: Final = Family(
    "gemmaspec_k_changed_timestamp_seconds", "gauge", "When the effective K last changed, Unix time."
)
ACCEPTANCE: Final = Family(
    "gemmaspec_conditional_acceptance_ratio",
    "gauge",
    "P(draft token at position accepted | the one before it accepted) over the last 30 s.",
    ("position",),
    "K, at most 32",
)
TOKENS_PER_STEP: Final = Family(
    "gemmaspec_tokens_per_step",
    "gauge",
    "Tokens that one sequence gains a step over the last 30 s, the bonus token included; 1 without drafts.",
)
TOKENS_PER_SECOND: Final = Family(
    "gemmaspec_generated_tokens_per_second",
    "gauge",
    "Tokens generated per second over the last 30 s, all engines of the resource together.",
)
STEP_SECONDS: Final = Family(
    "gemmaspec_step_duration_seconds",
    "gauge",
    "Mean time between two outputs of a request, which is the time of a step, over the last 30 s.",
)
GOODPUT: Final = Family(
    "gemmaspec_goodput_estimate_tokens_per_second",
    "gauge",
    "Expected tokens per second of one sequence at each K: (1 + sum of the products of the conditional acceptances) "
    "over the step time. Absent where nothing was measured, and for engines with an agent, which measures it itself.",
    ("k",),
    "K + 1, at most 33",
)
SAMPLED: Final = Family(
    "gemmaspec_last_scrape_timestamp_seconds",
    "gauge",
    "When the operator last read the counters of the engine that it has waited for longest, Unix time; of one that it "
    "never read, when that became ready.",
)
FALLEN_BACK: Final = Family(
    "gemmaspec_agents_fallen_back",
    "gauge",
    "Engines whose agent keeps K static after an exception of its own; absent without agents.",
)
DECISIONS: Final = Family(
    "gemmaspec_decisions",
    "counter",
    "Decisions of the status' history (K, revisions), by reason; goes on from there after a restart.",
    ("reason",),
    "one a reason, 9 known",
)
ROLLBACKS: Final = Family(
    "gemmaspec_rollbacks",
    "counter",
    "Decisions that lowered K or took a revision back, by reason; the end of a trial of K that failed is none.",
    ("reason",),
    "one a reason, 3 known",
)

OF_RESOURCES: Final[Sequence[Family]] = (
    INFO,
    CONDITION,
    REVISION,
    ENGINES_DESIRED,
    ENGINES,
    PREFLIGHT,
    K_DESIRED,
    K_EFFECTIVE,
    K_CHANGED,
    ACCEPTANCE,
    TOKENS_PER_STEP,
    TOKENS_PER_SECOND,
    STEP_SECONDS,
    GOODPUT,
    SAMPLED,
    FALLEN_BACK,
    DECISIONS,
    ROLLBACKS,
)
