"""Memory sums against what owners of GB10 boxes published."""

from __future__ import annotations

import json
import struct

import pytest

from gemmaspec_engine.budget import Request, budget, kv_bytes_per_sequence, tensor_bytes, utilization_for
from gemmaspec_engine.memory import GIB
from tests.engine.gemma4 import target_26b, target_31b

LONG = Request(max_model_len=262144, max_num_seqs=4, max_num_batched_tokens=16384, kv_element_bytes=1)
TOTAL = int(121.7 * GIB)


def test_the_26b_holds_17_million_tokens_in_26_gib() -> None:
    # Published for nvidia/Gemma-4-26B-A4B-NVFP4 at utilization 0.55, fp8 KV, 262,144 tokens, 16,384 batched.
    tokens = 26 * GIB / kv_bytes_per_sequence(target_26b(), LONG) * 262144
    assert tokens == pytest.approx(1.7e6, rel=0.1)


def test_the_31b_fits_the_published_utilization() -> None:
    # ebircak's NVFP4A16 at 0.85: 1.2 M tokens of KV cache in what 20 GiB of weights and 8 GiB of overhead leave.
    kv = 1.2e6 / 262144 * kv_bytes_per_sequence(target_31b(), LONG)
    assert kv + 28 * GIB == pytest.approx(0.85 * TOTAL, rel=0.05)


def test_auto_asks_for_no_more_than_the_request_needs() -> None:
    needed = budget(target_31b(), LONG, weights=20 * GIB, drafter=GIB, overhead=8 * GIB)
    utilization = utilization_for(needed, TOTAL)
    assert 0.75 < utilization < 0.85
    assert utilization * TOTAL >= needed.total
    assert (utilization - 0.01) * TOTAL < needed.total
    assert str(needed).startswith(f"{needed.total / GIB:.1f} GiB = weights 20.0 GiB + drafter 1.0 GiB + KV cache")


def test_a_sliding_layer_holds_its_window_and_the_tokens_in_flight() -> None:
    # 1 block of 16 tokens × 2 (K, V) × heads × size × bytes
    config = {
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    request = Request(max_model_len=1600, max_num_seqs=1, max_num_batched_tokens=17, kv_element_bytes=4)
    token = 2 * 2 * 32 * 4
    assert kv_bytes_per_sequence(config, request) == (100 + 4) * 16 * token  # 31 + 17 tokens: 3 blocks and one more
    short = Request(max_model_len=16, max_num_seqs=1, max_num_batched_tokens=8192, kv_element_bytes=4)
    assert kv_bytes_per_sequence(config, short) == 2 * 16 * token


def test_layers_that_share_keys_and_values_cost_nothing() -> None:
    shared = target_31b()
    shared["text_config"]["num_kv_shared_layers"] = 60
    assert kv_bytes_per_sequence(shared, LONG) == 0


def test_a_safetensors_header_tells_the_bytes() -> None:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]},
        }
    ).encode()
    assert tensor_bytes(struct.pack("<Q", len(header)) + header) == (32, 2)


@pytest.mark.parametrize(
    "head", [b"", b"1234567", struct.pack("<Q", 5) + b"{", struct.pack("<Q", 2) + b"[]", b"\xff" * 64]
)
def test_what_is_no_safetensors_file(head: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|char|short"):
        tensor_bytes(head)
