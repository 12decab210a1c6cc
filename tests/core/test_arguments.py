"""The engine's command line, option by option: one typed field in, its exact arguments out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gemmaspec.api import flags
from gemmaspec.core.arguments import engine_arguments
from gemmaspec.core.resolve import parse_version, resolve

IMAGE = "vllm/vllm-openai@sha256:" + "a" * 64
MINIMAL: dict[str, Any] = {"model": {"target": "m"}, "engine": {"image": IMAGE}, "nodes": {"accelerator": "CPU"}}
FRAME = ["--model", "m", "--host", "0.0.0.0", "--port", "8000", "--shutdown-timeout", "30"]
MTP = {"method": "mtp", "drafter": {"model": "d"}}


def arguments(given: str, **more: Any) -> list[str]:
    """Arguments for MINIMAL with the YAML ``given`` laid over."""
    spec = json.loads(json.dumps(MINIMAL))
    for section, fields in (yaml.safe_load(given) or {}).items():
        spec[section] = {**spec.get(section, {}), **fields}
    resolved = resolve(spec | more, {})
    return engine_arguments(resolved, resolved.k)


def test_the_frame() -> None:
    assert arguments("") == FRAME


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ("model: {revision: abc}", ["--revision", "abc"]),
        ("model: {servedName: gemma}", ["--served-model-name", "gemma"]),
        ("model: {quantization: compressed-tensors}", ["--quantization", "compressed-tensors"]),
        ("model: {dtype: bfloat16}", ["--dtype", "bfloat16"]),
        ("model: {maxModelLen: 262144}", ["--max-model-len", "262144"]),
        ("model: {kvCacheDtype: fp8}", ["--kv-cache-dtype", "fp8"]),
        ("model: {loadFormat: fastsafetensors}", ["--load-format", "fastsafetensors"]),
        ("model: {trustRemoteCode: true}", ["--trust-remote-code"]),
        ("model: {trustRemoteCode: false}", []),
        ("model: {chat: {toolCallParser: gemma4}}", ["--enable-auto-tool-choice", "--tool-call-parser", "gemma4"]),
        ("model: {chat: {reasoningParser: gemma4}}", ["--reasoning-parser", "gemma4"]),
        (
            "model: {chat: {templateKwargs: {b: {c: 'x y'}, a: true}}}",
            ["--default-chat-template-kwargs", '{"a":true,"b":{"c":"x y"}}'],
        ),
        ("model: {chat: {templateKwargs: {}}}", []),
        ("engine: {scheduling: {maxNumSeqs: 4}}", ["--max-num-seqs", "4"]),
        ("engine: {scheduling: {maxNumBatchedTokens: 8192}}", ["--max-num-batched-tokens", "8192"]),
        ("engine: {scheduling: {prefixCaching: true}}", ["--enable-prefix-caching"]),
        ("engine: {scheduling: {prefixCaching: false}}", ["--no-enable-prefix-caching"]),
        ("engine: {scheduling: {chunkedPrefill: true}}", ["--enable-chunked-prefill"]),
        ("engine: {scheduling: {chunkedPrefill: false}}", ["--no-enable-chunked-prefill"]),
        ("engine: {scheduling: {enforceEager: true}}", ["--enforce-eager"]),
        ("engine: {scheduling: {enforceEager: false}}", ["--no-enforce-eager"]),
        ("memory: {utilization: 0.85}", ["--gpu-memory-utilization", "0.85"]),
        ("memory: {utilization: 0.9}", ["--gpu-memory-utilization", "0.9"]),
        ("memory: {reserveGiB: 4}", []),
        ("memory: {kvCacheBytes: 17179869184}", ["--kv-cache-memory-bytes", "17179869184"]),
    ],
)
def test_one_field_one_option(given: str, added: list[str]) -> None:
    assert arguments(given) == FRAME[:2] + added + FRAME[2:]


@pytest.mark.parametrize(
    ("given", "config"),
    [
        (
            {"method": "mtp", "drafter": {"model": "d"}, "k": 4},
            '{"method":"mtp","model":"d","num_speculative_tokens":4}',
        ),
        (
            {"method": "mtp", "drafter": {"model": "d", "revision": "r"}, "k": 1},
            '{"method":"mtp","model":"d","revision":"r","num_speculative_tokens":1}',
        ),
        (
            {"method": "dflash", "drafter": {"model": "d"}, "k": 8},
            '{"method":"dflash","model":"d","num_speculative_tokens":8}',
        ),
        (
            {"method": "eagle3", "drafter": {"model": "d"}, "k": 3},
            '{"method":"eagle3","model":"d","num_speculative_tokens":3}',
        ),
        ({"method": "ngram", "k": 3}, '{"method":"ngram","num_speculative_tokens":3,"prompt_lookup_max":4}'),
        ({"method": "suffix", "k": 5}, '{"method":"suffix","num_speculative_tokens":5}'),
    ],
)
def test_each_method(given: dict[str, Any], config: str) -> None:
    assert arguments("", speculative=given) == [*FRAME[:2], "--speculative-config", config, *FRAME[2:]]


@pytest.mark.parametrize(
    "given", [{}, {"method": "off"}, {"method": "off", "k": 4}, {**MTP, "k": 0}, MTP, {"control": {"kMin": 1}}]
)
def test_without_drafts_there_is_no_speculative_config(given: dict[str, Any]) -> None:
    assert arguments("", speculative=given) == FRAME


def test_port_and_drain() -> None:
    found = arguments("service: {port: 9000}", rollout={"drainSeconds": 7})
    assert found[2:] == ["--host", "0.0.0.0", "--port", "9000", "--shutdown-timeout", "7"]


def test_extra_arguments_come_last_and_as_they_are() -> None:
    given = ["--attention-backend=FLASH_ATTN", "--seed=1", "--async-scheduling"]
    assert arguments(f"engine: {{extraArgs: {json.dumps(given)}}}") == FRAME + given


@pytest.mark.parametrize(
    ("version", "known"),
    [("0.17.1", False), ("0.18.0", True), ("0.18.0rc1", True), ("0.21.0", True), ("0.33.0+cu130", True), ("1.0", True)],
)
def test_shutdown_timeout_since_0_18(version: str, known: bool) -> None:
    assert ("--shutdown-timeout" in arguments(f'engine: {{vllm: "{version}"}}')) is known


def test_gb10_has_a_default_utilization_and_auto_has_none() -> None:
    gb10 = {"accelerator": "GB10"}
    assert arguments("", nodes=gb10)[2:4] == ["--gpu-memory-utilization", "0.85"]
    assert "--gpu-memory-utilization" not in arguments("memory: {utilizationMode: Auto}", nodes=gb10)
    assert "--gpu-memory-utilization" not in arguments("", nodes={"accelerator": "Any"})


FULL = """
model:
  revision: r
  servedName: s
  quantization: q
  dtype: auto
  maxModelLen: 8
  kvCacheDtype: fp8
  loadFormat: auto
  trustRemoteCode: true
  chat: {toolCallParser: t, reasoningParser: p, templateKwargs: {a: 1}}
engine:
  scheduling: {maxNumSeqs: 4, maxNumBatchedTokens: 8, prefixCaching: true, chunkedPrefill: true, enforceEager: true}
memory: {utilization: 0.5, kvCacheBytes: 8}
speculative: {method: mtp, drafter: {model: d}, k: 2}
"""


def test_every_flag_of_ours_belongs_to_a_typed_field() -> None:
    off = FULL.replace("true", "false")
    found = {argument for given in (FULL, off) for argument in arguments(given) if argument.startswith("--")}
    assert found <= set(flags.TYPED), "a flag that extraArgs could set as well"
    assert len(found) == 27


def test_every_typed_flag_is_one_that_we_set_or_another_name_of_it() -> None:
    off = FULL.replace("true", "false")
    found = {argument for given in (FULL, off) for argument in arguments(given) if argument.startswith("--")}
    assert set(flags.TYPED) - found == {"--api-key", "--spec-method", "--spec-model", "--spec-tokens"}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.28.1rc2+cu130", (0, 28, 1)),
        ("0.32", (0, 32)),
        ("1.2.3.4", (1, 2, 3, 4)),
        ("0.19.1²", (0, 19, 1)),
        ("0.19.x", (0, 19)),
        ("v1", ()),
        ("", ()),
    ],
)
def test_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_version(text) == numbers
