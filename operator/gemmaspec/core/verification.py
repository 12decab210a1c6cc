"""Mode Engine: vLLM itself decides, step by step, how many of the drafts it verifies.

vLLM documents the key ``enable_adaptive_verification`` of ``--speculative-config``; beyond DSpark it takes it from 0.30
on (read in the wheels 0.28 to 0.33), and needs draft logits and full CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gemmaspec.api.spec import Accelerator, Actuator, GemmaSpecDeploySpec, Method, Mode
from gemmaspec.core.problem import Problem
from gemmaspec_engine.versions import within

KEY: Final = "enable_adaptive_verification"
SINCE: Final = "0.30"
METHODS: Final = (Method.MTP, Method.EAGLE3, Method.DFLASH)
_FIELD: Final = "spec.speculative.control.mode"


def problems(spec: GemmaSpecDeploySpec) -> Iterable[Problem]:
    """Why mode Engine can't be had with this spec; nothing where it can, or is not asked for."""
    speculative, engine = spec.speculative, spec.engine
    control = speculative.control if speculative else None
    if not speculative or not control or control.mode is not Mode.ENGINE:
        return
    instead = "use mode Rollback or Adaptive"
    version = engine.vllm if engine else None
    if version is None:
        yield Problem("EngineModeUnavailable", _FIELD, f"'Engine' needs spec.engine.vllm to be set; {instead}")
    elif not within(version, SINCE):
        text = f"'Engine' is vLLM's adaptive verification, since {SINCE}, and this is {version}; {instead}"
        yield Problem("EngineModeUnavailable", _FIELD, text)
    if speculative.method not in METHODS:
        method = speculative.method or Method.OFF
        text = f"'Engine' works with methods {', '.join(METHODS)}, and this is {method}; {instead}"
        yield Problem("EngineModeUnavailable", _FIELD, text)
    eager = engine and engine.scheduling and engine.scheduling.enforce_eager
    if eager or (spec.nodes and spec.nodes.accelerator is Accelerator.CPU):
        what = "enforceEager is set" if eager else "a CPU has none"
        yield Problem("EngineModeUnavailable", _FIELD, f"'Engine' needs full CUDA graphs, and {what}; {instead}")
    if control.actuator is Actuator.LIVE:
        text = "'Engine' leaves K to vLLM, and actuator 'Live' to the agent; choose one of them"
        yield Problem("EngineModeUnavailable", _FIELD, text)
