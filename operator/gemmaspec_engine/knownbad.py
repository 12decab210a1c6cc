"""Combinations that are known to fail or to give 0 % acceptance, with what to do instead.  A pure table.

Ranges are first-bad ≤ version < first-good by release numbers, from vLLM's wheels and issue threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gemmaspec_engine.configs import layers, quantization, text
from gemmaspec_engine.finding import Finding
from gemmaspec_engine.versions import within

__all__ = ["Combination", "check", "known"]

MTP_MODULE = "vllm.model_executor.models.gemma4_mtp"


@dataclass(frozen=True)
class Combination:
    """The engine as preflight sees it. Configs are None while they are not known yet."""

    vllm: str | None
    transformers: str | None
    device: str
    image: str = ""
    method: str | None = None
    speculative: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    patched: frozenset[str] = frozenset()
    """Modules replaced by a pinned patch."""
    target: Mapping[str, Any] | None = None
    drafter: Mapping[str, Any] | None = None

    @property
    def mtp(self) -> bool:
        """Gemma 4's own drafter is used."""
        return self.method in ("mtp", "gemma4_mtp")

    @property
    def moe(self) -> bool:
        """The target is a mixture of experts (26B-A4B)."""
        return bool(self.target and text(self.target).get("enable_moe_block"))

    @property
    def v2_runner(self) -> bool:
        """vLLM's second model runner was asked for."""
        return self.env.get("VLLM_USE_V2_MODEL_RUNNER") == "1"

    @property
    def schedule(self) -> bool:
        """K depends on the batch size (the agent's grid)."""
        return bool(self.speculative.get("num_speculative_tokens_per_batch_size"))

    def unpatched(self, module: str = MTP_MODULE) -> bool:
        """The module is the one that the image carries."""
        return module not in self.patched

    def between(self, first: str, fixed: str | None = None) -> bool:
        """first ≤ vLLM < fixed."""
        return within(self.vllm, first, fixed)


@dataclass(frozen=True)
class _Rule:
    reason: str
    applies: Callable[[Combination], bool]
    message: str
    remedy: str
    source: str
    fatal: bool = True


def _drafter_quantized(c: Combination) -> bool:
    return c.drafter is not None and quantization(c.drafter) is not None


def _target_quantized(c: Combination) -> bool:
    return c.target is not None and quantization(c.target) is not None


def _half_size_mlp(c: Combination) -> bool:
    if c.drafter is None or "text_config" not in c.drafter:
        return False
    top, nested = c.drafter.get("intermediate_size"), text(c.drafter).get("intermediate_size")
    return top is not None and top != nested


def _global_heads(c: Combination) -> bool:
    """Full-attention layers have a shape of their own, as in every published Gemma 4; assumed until known."""
    if c.target is None:
        return True
    try:
        found = layers(c.target)
    except (KeyError, TypeError, ValueError):
        return True
    return len({(layer.kv_heads, layer.head_dim) for layer in found}) > 1


_TWIN = "Use the recipe's modern twin (vLLM ≥ 0.28), or pin the fixed gemma4_mtp.py in spec.engine.patches."

_RULES = (
    _Rule(
        "MtpUnsupported",
        lambda c: c.mtp and c.between("0", "0.21.0") and c.unpatched(),
        "this vLLM is older than 0.21.0, the first release with Gemma 4 MTP",
        _TWIN,
        "vllm#41745",
    ),
    _Rule(
        "KnownBadImage",
        lambda c: c.mtp and "gemma4-0505" in c.image and c.unpatched(),
        "the preview image gemma4-0505 accepts 0 % of drafts with the gemma4_mtp.py it carries",
        _TWIN,
        "vllm#41789",
    ),
    _Rule(
        "QuantizedDrafterIgnored",
        lambda c: c.mtp and _drafter_quantized(c) and c.between("0", "0.25.1") and c.unpatched(),
        "this drafter is quantized, and before vLLM 0.25.1 its quantization is ignored: acceptance is 0 %",
        "Use the unquantized drafter, or vLLM ≥ 0.25.1.",
        "vllm#47091",
    ),
    _Rule(
        "TargetQuantizationReachesDrafter",
        lambda c: (
            c.mtp
            and _target_quantized(c)
            and not _drafter_quantized(c)
            and c.between("0", "0.21.0")
            and c.drafter is not None
            and c.unpatched()
        ),
        "in this pre-release the quantized target's scheme is applied to the unquantized drafter",
        "Use PR head 5119058403 or later of vllm#41745 (pin the patch), or vLLM ≥ 0.21.0.",
        "vllm#41745",
    ),
    _Rule(
        "DrafterIntermediateSize",
        lambda c: c.mtp and _half_size_mlp(c) and c.between("0", "0.21.0") and c.unpatched(),
        "in this pre-release the drafter's intermediate_size is not read from text_config, where it belongs",
        "Use PR head c43152713e or later of vllm#41745 (pin the patch), or vLLM ≥ 0.21.0.",
        "vllm#41745",
    ),
    _Rule(
        "DrafterQuantizationRequested",
        lambda c: (
            c.mtp and bool(c.speculative.get("quantization")) and c.drafter is not None and not _drafter_quantized(c)
        ),
        "the speculative config names a quantization, but this drafter's checkpoint is not quantized",
        "Leave the drafter's quantization unset.",
        "vllm#45420",
        fatal=False,
    ),
    _Rule(
        "MoeMtpCrash",
        lambda c: c.mtp and c.moe and c.between("0.25.0", "0.27.1") and not c.v2_runner and c.unpatched(),
        "vLLM 0.25.0 to 0.27.0 feeds the 26B-A4B's drafter 3840 instead of 5632 inputs and dies at start",
        "Set VLLM_USE_V2_MODEL_RUNNER=1 in spec.engine.env, or use vLLM ≥ 0.27.1.",
        "vllm#48848",
    ),
    _Rule(
        "ScheduleCrashesOnV2",
        lambda c: (
            c.mtp
            and c.schedule
            and c.v2_runner
            and c.device != "cpu"
            and c.between("0.26.0", "0.26.1")
            and not c.arguments.get("enforce_eager")
        ),
        "vLLM 0.26.0's V2 model runner dies at graph capture with a K schedule and this drafter",
        "Use control.mode Fixed or the Restart actuator with this image, or a newer vLLM.",
        "measured on 0.26.0, CUDA",
    ),
    _Rule(
        "DenseMtpSlow",
        lambda c: (
            c.mtp
            and c.target is not None
            and not c.moe
            and c.device != "cpu"
            and c.between("0.26.0", "0.26.1")
            and not c.v2_runner
        ),
        "vLLM 0.26.0 runs this drafter without graphs unless told to use the V2 runner: steps take 1.5× as long",
        "Set VLLM_USE_V2_MODEL_RUNNER=1 in spec.engine.env.",
        "measured on 0.26.0, CUDA: 44 ms instead of 28 ms at K=4 on the 31B",
        fatal=False,
    ),
    _Rule(
        "GlobalHeadDimLost",
        lambda c: within(c.transformers, "5.15") and c.between("0", "0.27.0") and _global_heads(c),
        "transformers ≥ 5.15 no longer states global_head_dim: this vLLM then builds the global layers wrongly",
        "Set spec.engine.transformers to '>=5.8,<5.15' with mode Install, or use a newer vLLM.",
        "measured on 0.26.0 with transformers 5.15",
    ),
    _Rule(
        "GlobalHeadDimSuspect",
        lambda c: within(c.transformers, "5.15") and c.between("0.27.0", "0.31.0") and _global_heads(c),
        "transformers ≥ 5.15 no longer states global_head_dim; whether this vLLM copes is not known",
        "If the engine fails or accepts nothing, set spec.engine.transformers to '>=5.8,<5.15', mode Install.",
        "seen on 0.26.0; 0.32.0 copes",
        fatal=False,
    ),
    _Rule(
        "MoeBackendRefused",
        lambda c: str(c.arguments.get("moe_backend") or "").lower() == "cutlass" and (c.moe or c.target is None),
        "the cutlass MoE backend refuses Gemma 4's activation (GELU tanh) and raises",
        "Leave --moe-backend out: vLLM then picks Marlin.",
        "vllm#41745, nvidia/Gemma-4-26B-A4B-NVFP4",
    ),
    _Rule(
        "MethodRenamed",
        lambda c: c.method == "gemma4_mtp" and c.between("0.32"),
        "the method gemma4_mtp is called mtp from 0.32 on; vLLM still takes it, with a deprecation warning",
        "Set spec.speculative.method: mtp.",
        "vLLM 0.32",
        fatal=False,
    ),
    _Rule(
        "ScheduleUnsupported",
        lambda c: c.schedule and c.between("0", "0.24.0"),
        "num_speculative_tokens_per_batch_size exists from vLLM 0.24 on",
        "Use the Restart actuator with this image, or vLLM ≥ 0.24.",
        "vLLM 0.24",
    ),
    _Rule(
        "ScheduleWithDataParallel",
        lambda c: c.schedule and int(c.arguments.get("data_parallel_size") or 1) > 1,
        "a K schedule is off with data parallelism, and changing it from outside can deadlock the engines",
        "Use one engine per replica (data_parallel_size 1), or the Restart actuator.",
        "vLLM 0.24-0.33",
    ),
    _Rule(
        "Fp8ScalesIgnored",
        lambda c: (
            c.mtp and str(c.arguments.get("kv_cache_dtype") or "").startswith("fp8") and c.between("0.21.0", "0.31.0")
        ),
        "before about 0.31 the drafter ignores the target's FP8 K/V scales, which may cost acceptance",
        "Compare acceptance with kvCacheDtype auto, or use vLLM ≥ 0.31.",
        "vllm#48666",
        fatal=False,
    ),
)


def _finding(rule: _Rule) -> Finding:
    return Finding(rule.reason, rule.message, rule.remedy, rule.fatal, True, rule.source)


def check(combination: Combination) -> list[Finding]:
    """Every rule that applies, in the table's order."""
    return [_finding(rule) for rule in _RULES if rule.applies(combination)]


def known() -> list[Finding]:
    """What the rules find, each once."""
    return [_finding(rule) for rule in _RULES]
