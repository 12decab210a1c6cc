"""Do target and drafter belong together, and which combinations are known to be bad?"""

from __future__ import annotations

from typing import Any

import pytest

from gemmaspec_engine import knownbad, modelfit
from gemmaspec_engine.configs import layers, quantization
from gemmaspec_engine.knownbad import Combination
from tests.engine.gemma4 import QUANTIZED, assistant, target_26b, target_31b

TARGETS = [target_26b, target_31b]


def reasons(found: list[Any]) -> list[str]:
    assert all(finding.remedy and finding.message for finding in found)
    return [finding.reason for finding in found]


@pytest.mark.parametrize("target", TARGETS)
def test_the_published_pairs_fit(target: Any) -> None:
    assert modelfit.check(target(), assistant(target()), "mtp", 262144) == []


def test_the_pairs_cannot_be_swapped() -> None:
    assert reasons(modelfit.check(target_31b(), assistant(target_26b()), "mtp")) == [
        "DrafterHiddenMismatch",
        "DrafterKVMismatch",
    ]


def test_another_vocabulary() -> None:
    drafter = assistant(target_31b())
    drafter["text_config"]["vocab_size"] = 32000
    found = modelfit.check(target_31b(), drafter, "mtp")
    assert reasons(found) == ["DrafterVocabMismatch"]
    assert "262144" in found[0].message
    assert "32000" in found[0].message


@pytest.mark.parametrize("kind", ["gemma4", "qwen3", None, "gemma4_unified_assistant"])
def test_a_drafter_of_another_kind(kind: str | None) -> None:
    drafter = assistant(target_31b(), model_type=kind)
    assert reasons(modelfit.check(target_31b(), drafter, "mtp")) == ["DrafterKindWrong"]


def test_a_unified_target_takes_the_unified_assistant() -> None:
    target = target_31b(model_type="gemma4_unified")
    assert modelfit.check(target, assistant(target, model_type="gemma4_unified_assistant"), "mtp") == []
    assert reasons(modelfit.check(target, assistant(target), "mtp")) == ["DrafterKindWrong"]


def test_other_methods_have_drafters_of_any_shape() -> None:
    assert modelfit.check(target_31b(), {"model_type": "qwen3"}, "dflash") == []


def test_longer_than_the_drafter_knows_is_a_warning() -> None:
    found = modelfit.check(target_31b(), assistant(target_31b()), "mtp", max_model_len=300_000)
    assert reasons(found) == ["DrafterTooShort"]
    assert not found[0].fatal


def test_layers_are_read_in_both_ways_of_writing_them() -> None:
    old = layers(target_31b())
    new = target_31b()
    shape = new["text_config"]
    for name in ("global_head_dim", "num_global_key_value_heads"):
        del shape[name]
    full = [at for at, kind in enumerate(shape["layer_types"]) if kind == "full_attention"]
    shape["per_layer_config"] = {str(at): {"head_dim": 512, "num_key_value_heads": 4} for at in full}
    assert layers(new) == old
    assert [layer.sliding for layer in old] == ([True] * 5 + [False]) * 10
    assert {(layer.kv_heads, layer.head_dim) for layer in old} == {(16, 256), (4, 512)}
    shape["layer_types"] = None
    assert layers(new) == old


def test_quantization_is_found() -> None:
    assert quantization(target_31b()) is None
    assert quantization(target_31b(**QUANTIZED)) == "compressed-tensors"
    nested = target_31b()
    nested["text_config"] |= QUANTIZED
    assert quantization(nested) == "compressed-tensors"


def combination(**changes: Any) -> Combination:
    target = changes.pop("target", target_31b())
    fields: dict[str, Any] = {
        "vllm": "0.32.0",
        "transformers": "5.19.0",
        "device": "cuda",
        "method": "mtp",
        "target": target,
        "drafter": assistant(target) if target else None,
    }
    return Combination(**(fields | changes))


UNIFORM = target_31b()
UNIFORM["text_config"] |= {"global_head_dim": 256, "num_global_key_value_heads": None}
SCHEDULE = {"num_speculative_tokens_per_batch_size": [[1, 4, 4]]}
PATCHED = frozenset({knownbad.MTP_MODULE})
V2 = {"VLLM_USE_V2_MODEL_RUNNER": "1"}
OLD = {"transformers": "5.14.1"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"target": target_31b(**QUANTIZED)}, []),
        ({"vllm": "0.20.2"} | OLD, ["MtpUnsupported"]),
        ({"vllm": "0.20.2", "method": None} | OLD, []),
        ({"vllm": "0.20.2", "patched": PATCHED} | OLD, []),
        (
            {"vllm": "0.20.2", "target": target_31b(**QUANTIZED)} | OLD,
            ["MtpUnsupported", "TargetQuantizationReachesDrafter"],
        ),
        ({"vllm": "0.21.0", "image": "vllm/vllm-openai:gemma4-0505-arm64-cu130"} | OLD, ["KnownBadImage"]),
        ({"vllm": "0.21.0", "image": "x:gemma4-0505-cu130", "patched": PATCHED} | OLD, []),
        ({"vllm": "0.24.0", "drafter": assistant(target_31b(), **QUANTIZED)} | OLD, ["QuantizedDrafterIgnored"]),
        ({"vllm": "0.25.0", "drafter": assistant(target_31b(), **QUANTIZED)} | OLD, ["QuantizedDrafterIgnored"]),
        ({"vllm": "0.25.1", "drafter": assistant(target_31b(), **QUANTIZED)} | OLD, []),
        ({"vllm": "0.24.0", "target": target_26b()} | OLD, []),
        ({"vllm": "0.25.0", "target": target_26b()} | OLD, ["MoeMtpCrash"]),
        ({"vllm": "0.26.0", "target": target_26b()} | OLD, ["MoeMtpCrash"]),
        ({"vllm": "0.27.1", "target": target_26b()} | OLD, []),
        ({"vllm": "0.26.0", "target": target_26b(), "env": V2} | OLD, []),
        ({"vllm": "0.26.0", "target": target_26b(), "env": V2, "speculative": SCHEDULE} | OLD, ["ScheduleCrashesOnV2"]),
        ({"vllm": "0.26.0"} | OLD, ["DenseMtpSlow"]),
        ({"vllm": "0.26.0", "env": V2}, ["GlobalHeadDimLost"]),
        ({"vllm": "0.30.0"}, ["GlobalHeadDimSuspect"]),
        ({"vllm": "0.26.0", "env": V2, "target": None}, ["GlobalHeadDimLost"]),
        ({"vllm": "0.26.0", "env": V2, "target": UNIFORM}, []),
        ({"vllm": "0.23.0", "speculative": SCHEDULE} | OLD, ["ScheduleUnsupported"]),
        ({"speculative": SCHEDULE, "arguments": {"data_parallel_size": 2}}, ["ScheduleWithDataParallel"]),
        ({"arguments": {"moe_backend": "cutlass"}}, []),
        ({"target": target_26b(), "arguments": {"moe_backend": "cutlass"}}, ["MoeBackendRefused"]),
        ({"target": None, "arguments": {"moe_backend": "CUTLASS"}}, ["MoeBackendRefused"]),
        ({"method": "gemma4_mtp"}, ["MethodRenamed"]),
        ({"vllm": "0.31.0", "method": "gemma4_mtp"}, []),
        ({"vllm": "0.23.0", "arguments": {"kv_cache_dtype": "fp8_e4m3"}} | OLD, ["Fp8ScalesIgnored"]),
        ({"arguments": {"kv_cache_dtype": "fp8"}}, []),
        ({"speculative": {"quantization": "fp8"}}, ["DrafterQuantizationRequested"]),
        ({"vllm": None}, []),
    ],
)
def test_known_bad_combinations(changes: dict[str, Any], expected: list[str]) -> None:
    assert reasons(knownbad.check(combination(**changes))) == expected


def test_the_intermediate_size_of_the_wrong_place() -> None:
    wrong = assistant(target_31b(), intermediate_size=4096)
    assert "DrafterIntermediateSize" in reasons(knownbad.check(combination(vllm="0.20.9", drafter=wrong, **OLD)))
    assert knownbad.check(combination(drafter=wrong)) == []


def test_the_two_bugs_of_the_preview_image_show_in_the_configs() -> None:
    """It took the drafter's MLP size from the wrong place and gave it the target's quantization: 0 % of drafts."""
    target = target_31b(**QUANTIZED)
    source = {"vllm": "0.20.2rc1.dev7", "target": target, "drafter": assistant(target, intermediate_size=4096)} | OLD
    found = reasons(knownbad.check(combination(**source)))
    assert {"TargetQuantizationReachesDrafter", "DrafterIntermediateSize"} <= set(found)
    assert knownbad.check(combination(**source, patched=PATCHED)) == []
    assert knownbad.check(combination(**source | {"vllm": "0.32.0", "transformers": "5.19.0"})) == []


def test_each_rule_names_its_source() -> None:
    found = knownbad.check(combination(vllm="0.20.2", speculative=SCHEDULE, target=target_26b(**QUANTIZED)))
    assert len(found) >= 3
    assert all(finding.source for finding in found)
