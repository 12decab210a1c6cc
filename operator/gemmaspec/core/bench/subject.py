"""On what a benchmark is made, as far as the resource tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemmaspec.core.bench.result import EngineFacts
from gemmaspec.core.resolve import Resolved


def facts(resolved: Resolved | None, status: Mapping[str, Any], ks: Sequence[int], actuator: str | None) -> EngineFacts:
    """Target, drafter, versions, hardware. resolved: None where this release can't read the spec."""
    engine = status.get("engine") or {}
    spec = resolved.spec if resolved else None
    drafter = spec.speculative.drafter if spec and spec.speculative else None
    scheduling = spec.engine.scheduling if spec and spec.engine else None
    return EngineFacts(
        target=resolved.target if resolved else status.get("target"),
        drafter=drafter.model if drafter else None,
        image=engine.get("imageDigest") or engine.get("image"),
        vllm=engine.get("vllm"),
        recipe=engine.get("recipe"),
        hardware=str(resolved.accelerator) if resolved else None,
        max_num_seqs=scheduling.max_num_seqs if scheduling else None,
        ks=list(ks),
        actuator=actuator,
        revision=status.get("revision"),
    )
