"""Which vLLM the agent was driven against, and what each one needs. A new release is one line of `RELEASES`.

``make matrix`` imports the agent in every version listed, drives it against that version's own scheduler code
and writes ``docs/live-k-matrix.json``; a test holds this table against that file. Standard library only: the
preflight check and the operator read it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmaspec_engine.versions import release

__all__ = ["RELEASES", "Release", "find", "refusal", "tested"]

CAPTURE = "capture"
"""V2 runner: graph capture derives a negative query length for the draft model from a K schedule, and crashes."""
DRAFTER = "drafter"
"""V2 runner: the drafter is not told K, makes all drafts and throws the rest away."""


@dataclass(frozen=True)
class Release:
    """One vLLM version."""

    version: str
    v2: bool
    """K schedules fit its V2 model runner with Gemma 4's drafter, with the patches named here applied. Read in its
    source unless `engines` names a GPU."""
    patches: tuple[str, ...] = ()
    """What `gemmaspec_engine.agent.plugin` mends in the engine's processes."""
    engines: tuple[str, ...] = ()
    """Devices on which a whole engine ran under live K: "cpu", or the product name of the GPU."""


# 0.24's V2 runner captures graphs for the largest K only. 0.25 to 0.31 derive the draft model's query lengths from the
# K schedule, negative ones among them (read in their source; seen to crash with 0.26): patched only where it was tried.
RELEASES: tuple[Release, ...] = (
    Release("0.24.0", v2=False),
    Release("0.25.0", v2=False),
    Release("0.25.1", v2=False),
    Release("0.26.0", v2=True, patches=(CAPTURE, DRAFTER), engines=("NVIDIA H200",)),  # bench/results/gpu.md
    Release("0.27.0", v2=False),
    Release("0.27.1", v2=False),
    Release("0.28.0", v2=False),
    Release("0.29.0", v2=False),
    Release("0.30.0", v2=False),
    Release("0.31.0", v2=False),
    Release("0.32.0", v2=True, engines=("cpu", "NVIDIA H200")),  # bench/results/gpu-verification.md
    Release("0.33.0", v2=True),
)
_BY_RELEASE = {release(entry.version): entry for entry in RELEASES}


def find(version: str | None) -> Release | None:
    """The entry of a version (build tags such as +cu130 apart); None when the agent was never driven against it."""
    try:
        return _BY_RELEASE.get(release(version)) if version else None
    except ValueError:
        return None


def tested(version: str | None, device: str) -> bool:
    """Has a whole engine of this version run under live K on this device ("cpu", "NVIDIA GB10", …)?

    What ``actuator: Auto`` asks before it picks Live.
    """
    found = find(version)
    return found is not None and device in found.engines


def refusal(
    version: str | None,
    *,
    positions: int = 1,
    scheduled: bool = True,
    tensor: int = 1,
    pipeline: int = 1,
    data: int = 1,
    v2: bool = False,
) -> str:
    """Why K cannot be moved live in such an engine, in one sentence with a remedy; "" when it can.

    Args:
        version: of vLLM.
        positions: its num_speculative_tokens.
        scheduled: it was started with a K schedule (`gemmaspec_engine.agent.grid.schedule_for`).
        tensor: tensor-parallel size.
        pipeline: pipeline-parallel size.
        data: data-parallel size.
        v2: it uses the V2 model runner.
    """
    found = find(version)
    if found is None:
        return (
            f"live K was not tried with vLLM {version} (known: {RELEASES[0].version} to {RELEASES[-1].version}): "
            "use one of those, or control.actuator: Restart"
        )
    if tensor > 1 or pipeline > 1:
        what = f"tensor-parallel size {tensor}" if tensor > 1 else f"pipeline-parallel size {pipeline}"
        return f"live K is for engines on one GPU, this one has {what}: use control.actuator: Restart"
    if data > 1:
        return (
            f"live K would let {data} data-parallel ranks choose different K and wait for each other for ever: "
            "use control.actuator: Restart, or one resource per engine"
        )
    if v2 and not found.v2:
        return f"the V2 model runner of vLLM {version} cannot follow a K schedule: use 0.32 or later, or Restart"
    if positions < 1:
        return "the engine was started without speculation: there are no drafts to verify"
    if not scheduled:
        return "the engine was started without a K schedule: it has CUDA graphs for its one K only"
    return ""
