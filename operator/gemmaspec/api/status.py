"""What the operator reports: ``.status`` of a GemmaSpecDeploy.

Every field here is written by one module (:mod:`gemmaspec.core.status`). State that hysteresis needs lives in
``control``, so that an operator that dies after any line goes on where it was.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gemmaspec.api.schema import Model
from gemmaspec.api.spec import MAX_REPLICAS

Text = Annotated[str, Field(max_length=32_768)]


class Condition(Model):
    """A Kubernetes condition."""

    type: Annotated[str, Field(max_length=316)] = Field(description="Name of the condition.")
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$", max_length=8)] = Field(
        description="`True`, `False` or `Unknown`."
    )
    reason: Annotated[str, Field(max_length=1024)] = Field(description="Stable word for programs.")
    message: Text = Field(description="Sentence for people.")
    observed_generation: int | None = Field(None, description="Generation of the spec that this was seen for.")
    last_transition_time: Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})] = Field(
        description="When the status last changed."
    )


class ReplicaK(Model):
    """K of one engine."""

    pod: Annotated[str, Field(max_length=253)] = Field(description="Name of the engine's pod.")
    effective: int = Field(description="K that most of the engine's steps of the last minute verified.")
    since: str = Field(description="When this was first seen; looked at once a minute.")


class HeldK(Model):
    """A K that somebody holds for a while (`gemmaspec set-k`), beside the spec."""

    k: int | None = Field(None, description="The K that is held.")
    until: str | None = Field(None, description="When it ends.")
    message: Text | None = Field(None, description="How, or why not.")


class KStatus(Model):
    """K, as asked for and as it is."""

    desired: int | None = Field(None, description="K that the spec (or its recipe) asks for.")
    effective: int | None = Field(
        None, description="K that the engines run with; where each moves its own, the K of most of their steps."
    )
    reason: Text | None = Field(None, description="Why effective differs from desired, in one sentence.")
    since: str | None = Field(None, description="When effective last changed.")
    held: HeldK | None = Field(None, description="K held for a while, in place of what the spec and the policy say.")
    actuator: str | None = Field(None, description="How K is changed.")
    actuator_reason: Text | None = Field(None, description="Why actuator Auto took Restart.")
    replicas: Annotated[list[ReplicaK], Field(max_length=MAX_REPLICAS)] | None = Field(
        None,
        description="K of each engine that serves.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["pod"]},
    )


class AcceptanceStatus(Model):
    """Acceptance over the last window in which drafts flowed; rounded, renewed at most once a minute."""

    per_position: list[float] | None = Field(
        None,
        description="P(position i accepted | position i-1 accepted), i from 0; exchangeable between values of K.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    mean: float | None = Field(None, description="Accepted draft tokens per draft token.")
    tokens_per_step: float | None = Field(
        None, description="Tokens that one sequence gains a step, the bonus token included."
    )
    drafts: int | None = Field(None, description="Number of drafts in the window.")
    window_seconds: int | None = Field(None, description="Length of the window.")
    measured_at: str | None = Field(None, description="End of the window.")


class ThroughputStatus(Model):
    """Generation speed, a mean over up to ten windows; rounded, renewed at most once a minute."""

    tokens_per_second: float | None = Field(None, description="Generated tokens per second, all replicas together.")
    step_milliseconds: float | None = Field(None, description="Mean time between two outputs of a request.")
    running_requests: float | None = Field(None, description="Requests that run on an engine, mean over the window.")
    batch: float | None = Field(None, description="Requests that a step serves, idle time left out.")
    measured_at: str | None = Field(None, description="End of the window.")


class FirstDrafts(Model):
    """First draft tokens of an engine."""

    drafts: int | None = Field(None, description="Drafts made.")
    accepted: int | None = Field(None, description="Drafts of which the first token was accepted.")
    requests: int | None = Field(None, description="Requests that they belong to.")


class ControlState(Model):
    """Memory of the rollback machine. Not for people: it may change between releases."""

    engine: str | None = Field(None, description="Identity (K apart) of the engine that `proved` and `fault` speak of.")
    proved: bool | None = Field(None, description="This engine has accepted drafts: a later drop is a mix change.")
    fault: bool | None = Field(None, description="This engine never accepted while drafts flowed.")
    changed_at: str | None = Field(None, description="When K was last moved.")
    hold_until: str | None = Field(None, description="Before this, a lowered K is not raised.")
    hold_seconds: int | None = Field(None, description="Length of the last hold.")
    trial_from: int | None = Field(
        None, description="K was raised and has not proved itself yet: the K to which it would go back."
    )
    first_drafts: FirstDrafts | None = Field(
        None, description="What pods that are gone showed of a drafter that is neither proved nor found broken."
    )
    desired: int | None = Field(None, description="Desired K that this state was made for.")
    step_milliseconds: dict[str, float] | None = Field(
        None, description="Measured time of a step by K, for the goodput of other values of K."
    )
    step_running: dict[str, float] | None = Field(
        None, description="Running requests at which stepMilliseconds were measured: only like is compared with like."
    )
    boot_seconds: int | None = Field(None, description="Shortest time that this engine took to become ready.")


class HistoryEntry(Model):
    """A decision that was taken."""

    time: str = Field(description="When.")
    reason: str = Field(description="Stable word for programs.")
    message: Text = Field(description="Sentence for people, with the numbers.")
    from_k: int | None = Field(None, description="K before.")
    to_k: int | None = Field(None, description="K after.")
    revision: str | None = Field(None, description="Revision that the decision is about, where it is no change of K.")


class WarmUpStatus(Model):
    """What the operator's own prompts gained on an idle engine. Memory: it may change between releases."""

    revision: str | None = Field(None, description="Revision that it speaks of.")
    engine: str | None = Field(None, description="Pod's uid and restarts: counters begin anew with each.")
    requests: int | None = Field(None, description="Requests that no user's came into.")
    lost: int | None = Field(None, description="Requests that tell nothing: others came in between, or no answer.")
    drafts: int | None = Field(None, description="Drafts of theirs.")
    draft_tokens: int | None = Field(None, description="Draft tokens of theirs.")
    accepted: list[int] | None = Field(
        None,
        description="Drafts of which token i was accepted.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    speeds: list[float] | None = Field(
        None,
        description="Tokens per second of each request.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    outputs: int | None = Field(None, description="Outputs of theirs.")
    seconds: float | None = Field(None, description="Time between their outputs, summed.")
    refused: Text | None = Field(None, description="Why the engine answers no such request.")


class RolloutStatus(Model):
    """Where the rollout of what the spec asks for stands. Memory of the machine: it may change between releases."""

    pin: str | None = Field(None, description="Hash of all that needs a restart, K apart, as the spec asks for it.")
    attempt: str | None = Field(None, description="Hash of the pin and of the rules that it is judged by.")
    phase: str | None = Field(None, description="`Analysing`, `Promoted` or `RolledBack`.")
    reason: str | None = Field(None, description="Stable word for programs.")
    message: Text | None = Field(None, description="Sentence for people.")
    since: str | None = Field(None, description="Since when engines of it are asked for.")
    good_pin: str | None = Field(None, description="Pin of the last good revision.")
    kept_k: KStatus | None = Field(None, description="K of the last good revision while another one is judged.")
    kept_control: ControlState | None = Field(None, description="Its rollback machine, meanwhile.")
    kept_acceptance: AcceptanceStatus | None = Field(None, description="Its acceptance, to compare with.")
    kept_throughput: ThroughputStatus | None = Field(None, description="Its speed, to compare with.")
    kept_warm_up: WarmUpStatus | None = Field(None, description="Its warm-up, to compare with.")


class EngineStatus(Model):
    """The engine that runs."""

    vllm: str | None = Field(None, description="vLLM version that preflight found in the image.")
    transformers: str | None = Field(None, description="transformers version that the engine imports.")
    patches: dict[str, str] | None = Field(None, description="Replaced modules and the beginning of their SHA-256.")
    utilization: float | None = Field(None, description="Share of the device's memory that the engine plans with.")
    memory: Text | None = Field(
        None, description="The memory that the engine was found to need, as a sum, and what was free before it started."
    )
    image: str | None = Field(None, description="Image that the spec or its recipe names.")
    image_digest: str | None = Field(None, description="Digest of the image that the pods run.")
    recipe: str | None = Field(None, description="Recipe and its version.")


class BenchmarkChoice(Model):
    """The K that a benchmark recommends for a running batch."""

    batch: int = Field(description="Requests that a decode step holds.")
    k: int = Field(description="K with the most tokens per second, where its gain is sure; else the K of the spec.")
    gain_percent: float = Field(description="Over the K of the spec.")
    gain_percent_low: float | None = Field(None, description="Lower end of the gain's 95 % interval.")
    over_zero_percent: float = Field(description="Over K = 0.")


class BenchmarkStatus(Model):
    """What became of the benchmark that was asked for last."""

    request: str | None = Field(None, description="The spec's word for it.")
    job: str | None = Field(None, description="Name of its Job, and of the ConfigMap with the whole result.")
    phase: str | None = Field(None, description="`Waiting`, `Running`, `Done`, `Failed` or `Refused`.")
    message: Text | None = Field(None, description="What it waits for, recommends, or failed of.")
    started_at: str | None = Field(None, description="When its Job was made.")
    finished_at: str | None = Field(None, description="When it ended.")
    schedule: Annotated[list[BenchmarkChoice], Field(max_length=16)] | None = Field(
        None, description="The recommendation.", json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )


class GemmaSpecDeployStatus(Model):
    """What the operator saw and did."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status is for.")
    conditions: list[Condition] | None = Field(
        None,
        description="Ready, Reconciling, Stalled, Preflight, EngineHealthy, SpeculationHealthy, RolledBack.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    replicas: int | None = Field(None, description="Engine pods that exist.")
    ready_replicas: int | None = Field(None, description="Engine pods of the current revision that are ready.")
    selector: str | None = Field(None, description="Label selector of the engine pods, for the scale subresource.")
    endpoint: str | None = Field(None, description="OpenAI-compatible base URL inside the cluster.")
    target: str | None = Field(None, description="Target model after the recipe was resolved.")
    revision: str | None = Field(
        None, description="Revision that the operator drives to: the spec's, or the last good one after a return."
    )
    last_good_revision: str | None = Field(None, description="Revision that was judged good, and is returned to.")
    rejected_revision: str | None = Field(
        None, description="Revision that the spec asks for and that is not tried again until the spec changes."
    )
    rollout: RolloutStatus | None = Field(None, description="Where the rollout stands.")
    k: KStatus | None = Field(None, description="K, as asked for and as it is.")
    acceptance: AcceptanceStatus | None = Field(None, description="What drafts earn.")
    throughput: ThroughputStatus | None = Field(None, description="Generation speed.")
    warm_up: WarmUpStatus | None = Field(None, description="What `rollout.analysis.warmUp` measured.")
    control: ControlState | None = Field(None, description="Memory of the rollback machine.")
    benchmark: BenchmarkStatus | None = Field(None, description="The last benchmark, in short.")
    history: Annotated[list[HistoryEntry], Field(max_length=20)] | None = Field(
        None, description="The last decisions, oldest first.", json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    engine: EngineStatus | None = Field(None, description="The engine that runs.")
