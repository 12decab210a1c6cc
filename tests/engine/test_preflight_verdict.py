"""What the probe's facts mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemmaspec_engine.memory import GIB, Figures
from gemmaspec_engine.pin import Pin, parse
from gemmaspec_engine.verdict import judge, judge_kv_cache, judge_memory
from tests.engine.gemma4 import assistant, target_31b

TOTAL = int(121.7 * GIB)
MODULE = "vllm.model_executor.models.gemma4_mtp"


def pin(**changes: Any) -> Pin:
    return parse(json.dumps({"files": {"a": "0" * 64}, "stateDir": "/x"} | changes))


def facts(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "versions": {
            "vllm": "0.32.0",
            "transformers": "5.19.0",
            "transformersFile": "/image/transformers/__init__.py",
            "transformersOrigin": None,
        },
        "arguments": {"speculative_config": {"method": "mtp", "model": "d", "num_speculative_tokens": 4}},
        "modelTypes": ["gemma4", "gemma4_assistant"],
        "patches": {},
        "speculativeFields": ["method", "model", "num_speculative_tokens"],
        "scheduler": {"class": None, "problems": []},
        "configs": {"target": target_31b(), "drafter": assistant(target_31b())},
        "resolved": {
            "maxModelLen": 262144,
            "maxNumSeqs": 4,
            "maxNumBatchedTokens": 16384,
            "cacheDtype": "fp8",
            "dtype": "bfloat16",
            "kvCacheBytes": None,
        },
    }
    for name, value in changes.items():
        found[name] = found[name] | value if isinstance(value, dict) and "error" not in value else value
    return found


def reasons(pinned: Pin, found: dict[str, Any]) -> list[str]:
    findings = judge(pinned, found, {})
    assert all(finding.message and finding.remedy for finding in findings)
    return [finding.reason for finding in findings]


def test_all_is_well() -> None:
    assert reasons(pin(vllm="0.32.0", transformers={"version": ">=5.8"}), facts()) == []


def overlay(**wish: Any) -> dict[str, Any]:
    return {"transformers": {"mode": "Install", "overlayDir": "/overlay"} | wish}


COMMIT = "d8b3826648da6b407f8c55457a2103be9aeb5d83"
GIT = {"git": {"url": "https://github.com/huggingface/transformers", "commit": COMMIT}}
IN_OVERLAY = {"transformersFile": "/overlay/transformers/__init__.py"}


@pytest.mark.parametrize(
    ("pinned", "versions", "expected"),
    [
        ({"vllm": "0.21.0"}, {}, ["VllmVersionMismatch"]),
        ({"vllm": "0.32.0"}, {"vllm": "0.32.0+cu130"}, []),
        ({"transformers": {"version": "5.8.0"}}, {}, ["TransformersVersionMismatch"]),
        (overlay(version="5.19.0"), {}, ["TransformersNotInOverlay"]),
        (overlay(version="5.19.0"), IN_OVERLAY, []),
        (overlay(**GIT), IN_OVERLAY, ["TransformersCommitMismatch"]),
        (overlay(**GIT), IN_OVERLAY | {"transformersOrigin": {"vcs_info": {"commit_id": COMMIT}}}, []),
        ({"transformers": GIT}, {"transformersOrigin": {"url": f"https://x/{COMMIT}.zip"}}, []),
    ],
)
def test_versions(pinned: dict[str, Any], versions: dict[str, Any], expected: list[str]) -> None:
    assert reasons(pin(**pinned), facts(versions=versions)) == expected


@pytest.mark.parametrize(
    ("imported", "expected"),
    [
        ({MODULE: "1" * 64}, []),
        ({MODULE: "2" * 64}, ["PatchNotImported"]),
        ({MODULE: None}, ["PatchNotImported"]),
        ({}, ["PatchNotImported"]),
        ({MODULE: {"error": "ImportError: cannot import name 'X'"}}, ["PatchImportFailed"]),
    ],
)
def test_patches(imported: dict[str, Any], expected: list[str]) -> None:
    pinned = pin(patches=[{"module": MODULE, "sha256": "1" * 64, "path": "/p"}], patchDir="/patches")
    assert reasons(pinned, facts(patches=imported)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arguments": {"error": "api_server.py: unrecognized arguments: --x"}}, ["BadArgument"]),
        ({"arguments": {"error": "RuntimeError: Failed to infer device type"}}, ["DeviceUnavailable"]),
        (
            {"arguments": {"error": "TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser"}},
            ["BadArgument"],
        ),
        ({"arguments": {"speculative_config": {"method": "mtp", "foo": 1, "model": "d"}}}, ["SpeculativeKeyUnknown"]),
        ({"arguments": {"speculative_config": {"num-speculative-tokens": 1, "method": "mtp"}}}, []),
        ({"modelTypes": ["gemma4"]}, ["AssistantUnknown", "ModelTypeUnknown"]),
        ({"scheduler": {"error": "ModuleNotFoundError: No module named 'x'"}}, ["SchedulerClassMissing"]),
        ({"scheduler": {"class": "x.Y", "problems": ["schedule: does not take throttle"]}}, ["SchedulerClassUnfit"]),
        (
            {"configs": {"target": target_31b(model_type="qwen9"), "drafter": assistant(target_31b())}},
            ["ModelTypeUnknown"],
        ),
        ({"resolved": {"error": "ValueError: max_model_len (9) is wrong"}}, ["BadConfiguration"]),
        ({"resolved": {"error": "ValueError: something new"}}, ["BadConfiguration"]),
        ({"resolved": None}, []),
    ],
)
def test_other_facts(changes: dict[str, Any], expected: list[str]) -> None:
    assert reasons(pin(), facts(**changes)) == expected


def test_an_image_without_vllm() -> None:
    (found,) = judge(pin(), {"versions": {"error": "ModuleNotFoundError: No module named 'vllm'"}}, {})
    assert (found.reason, found.deterministic) == ("ImportFailed", True)


def test_remote_code_may_bring_its_own_type() -> None:
    odd = target_31b(model_type="custom", auto_map={"AutoConfig": "x.Y"})
    arguments = {"trust_remote_code": True, "speculative_config": None}
    assert reasons(pin(), facts(configs={"target": odd}, arguments=arguments) | {"configs": {"target": odd}}) == []


@pytest.mark.parametrize(
    ("kind", "deterministic"),
    [
        ("RepositoryNotFoundError", True),
        ("GatedRepoError", True),
        ("FileNotFoundError", True),
        ("LocalEntryNotFoundError", False),
        ("ConnectError", False),
    ],
)
def test_a_config_that_cannot_be_read(kind: str, deterministic: bool) -> None:
    (found,) = judge(pin(), facts(configs={"target": {"error": "x: y", "kind": kind}}), {})
    assert (found.reason, found.deterministic) == ("ModelNotFound", deterministic)


@pytest.mark.parametrize("error", ["No CUDA GPUs are available", "OSError: No space left on device"])
def test_what_may_pass_is_not_deterministic(error: str) -> None:
    (found,) = judge(pin(), facts(arguments={"error": error}), {})
    assert not found.deterministic


def box(available: float) -> Figures:
    return Figures(TOTAL, int(available * GIB), int(available * GIB))


def fixed(utilization: float, reserve: float = 0) -> Pin:
    memory = {"device": "cuda", "utilization": utilization, "reserveBytes": int(reserve * GIB)}
    return pin(memory=memory, vllm="0.32.0")


def test_a_utilization_that_fits_only_an_emptier_box_may_pass() -> None:
    (found,) = judge_memory(fixed(0.85), None, box(101.5)).findings
    assert (found.reason, found.deterministic) == ("UtilizationDoesNotFit", False)
    assert "0.83" in found.remedy
    assert judge_memory(fixed(0.83), None, box(101.5)).findings == ()


def test_a_utilization_that_no_box_can_give_does_not() -> None:
    (found,) = judge_memory(fixed(0.97, reserve=4), None, box(101.5)).findings
    assert found.deterministic


def auto(**memory: Any) -> Pin:
    return pin(memory={"device": "cuda", "mode": "Auto"} | memory, vllm="0.32.0")


def test_auto_computes_and_explains() -> None:
    found = judge_memory(auto(), facts() | {"weights": {"target": 20 * GIB, "drafter": GIB}}, box(115))
    assert found.findings == ()
    assert found.utilization == pytest.approx(0.78, abs=0.02)
    assert "weights 20.0 GiB + drafter 1.0 GiB + KV cache" in found.text
    assert "(4 × 262144 tokens of " in found.text
    assert f"overhead 8.0 GiB; of 121.7 GiB that is utilization {found.utilization:g}; " in found.text


def test_auto_takes_a_kv_cache_of_a_given_size_as_it_is() -> None:
    sized = facts(resolved={"kvCacheBytes": 30 * GIB}) | {"weights": {"target": 20 * GIB, "drafter": GIB}}
    found = judge_memory(auto(), sized, box(115))
    assert found.utilization == pytest.approx(59 / 121.7, abs=0.01)
    assert "KV cache 30.0 GiB (kvCacheBytes)" in found.text


WEIGHTS = {"weights": {"target": 20 * GIB, "drafter": GIB}}


@pytest.mark.parametrize(
    ("pinned", "kv", "figures", "said", "remedy", "final"),
    [
        # 0.5 × 121.7 = 60.85 GiB; 20 + 1 + 8 are taken: 31.85 GiB = 34198678732 bytes are left for the cache.
        (fixed(0.5), 32, box(115), "60.8 GiB in the engine's budget", "at most 341986", True),
        (fixed(0.2), 1, box(115), "24.3 GiB in the engine's budget", "Use smaller weights, or raise", True),
        (pin(memory={"device": "cpu"}), 80, box(100), "100.0 GiB free", f"at most {79 * GIB}, or free memory", False),
        (pin(memory={"device": "cpu"}), 120, box(100), "100.0 GiB free", f"at most {79 * GIB}", True),
        (pin(memory={"device": "cpu"}), 5, Figures(TOTAL, TOTAL, TOTAL, 3 * GIB, 9 * GIB), "3.0 GiB free", "", True),
    ],
)
def test_a_kv_cache_that_does_not_fit_is_refused(
    pinned: Pin, kv: int, figures: Figures, said: str, remedy: str, final: bool
) -> None:
    (found,) = judge_kv_cache(pinned, facts(resolved={"kvCacheBytes": kv * GIB}) | WEIGHTS, figures)
    assert (found.reason, found.deterministic) == ("KVCacheDoesNotFit", final)
    assert f"KV cache {kv}.0 GiB (kvCacheBytes)" in found.message
    assert said in found.message
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("pinned", "kv"),
    [
        (fixed(0.5), 31 * GIB),
        (fixed(0.85), None),
        (pin(memory={"device": "cpu"}), 79 * GIB),
        (pin(memory={"device": "discrete"}), 500 * GIB),  # whose memory that is cannot be seen from here
    ],
)
def test_a_kv_cache_that_fits_or_has_no_size(pinned: Pin, kv: int | None) -> None:
    assert judge_kv_cache(pinned, facts(resolved={"kvCacheBytes": kv}) | WEIGHTS, box(100)) == []
    assert judge_kv_cache(pinned, {"versions": {}}, box(100)) == []  # stage A has read no config


def test_auto_stays_within_what_the_pod_requests() -> None:
    large = facts() | {"weights": {"target": 30 * GIB, "drafter": GIB}}
    (found,) = judge_memory(auto(maxUtilization=0.85), large, box(118)).findings
    assert (found.reason, found.deterministic) == ("UtilizationDoesNotFit", True)
    assert "utilization 0.87; the pod requests memory for at most 0.85" in found.message
    assert "requests.memory 106Gi" in found.remedy
    assert judge_memory(auto(), large, box(118)).findings == ()


def test_auto_refuses_what_cannot_fit() -> None:
    (found,) = judge_memory(auto(), facts() | {"weights": {"target": 62 * GIB, "drafter": GIB}}, box(115)).findings
    assert (found.reason, found.deterministic) == ("UtilizationDoesNotFit", True)
    assert "weights 62.0 GiB" in found.message


@pytest.mark.parametrize("weights", [{}, {"target": {"error": "FileNotFoundError: x"}}])
def test_auto_without_weights(weights: dict[str, Any]) -> None:
    (found,) = judge_memory(auto(), facts() | {"weights": weights}, box(115)).findings
    assert found.reason == "BudgetUnknown"


def on_cpu(figures: Figures, utilization: float | None = None, **resolved: Any) -> list[str]:
    memory = {"device": "cpu"} | ({"utilization": utilization} if utilization else {})
    found = facts(arguments={"gpu_memory_utilization": 0.92}, resolved=resolved)
    return [finding.reason for finding in judge_memory(pin(memory=memory), found, figures).findings]


def test_vllm_claims_a_share_of_a_cpu_s_memory_too() -> None:
    busy = Figures(100 * GIB, 80 * GIB, 80 * GIB)
    assert on_cpu(busy) == ["UtilizationDoesNotFit"]
    assert on_cpu(busy, utilization=0.5) == []
    assert on_cpu(busy, kvCacheBytes=1 << 30) == []
    limited = Figures(100 * GIB, 80 * GIB, 80 * GIB, cgroup_left=10 * GIB, cgroup_limit=10 * GIB)
    assert on_cpu(limited) == []
    assert on_cpu(Figures(100 * GIB, 80 * GIB, 80 * GIB, 5 * GIB, 10 * GIB)) == ["UtilizationDoesNotFit"]
