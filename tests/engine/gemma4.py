"""Configs with the published shapes of Gemma 4 models and their assistants, for tests."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


def text(**changes: Any) -> Config:
    sliding = ["sliding_attention"] * 5 + ["full_attention"]
    fields: Config = {
        "model_type": "gemma4_text",
        "vocab_size": 262144,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 1024,
        "max_position_embeddings": 262144,
        "attention_k_eq_v": True,
        "num_kv_shared_layers": 0,
        "layer_types": sliding * (changes["num_hidden_layers"] // 6) if "num_hidden_layers" in changes else None,
    }
    return fields | changes


def target_26b(**changes: Any) -> Config:
    shape = text(
        hidden_size=2816,
        num_hidden_layers=30,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_global_key_value_heads=2,
        enable_moe_block=True,
    )
    return {"model_type": "gemma4", "text_config": shape} | changes


def target_31b(**changes: Any) -> Config:
    shape = text(
        hidden_size=5376,
        num_hidden_layers=60,
        num_attention_heads=32,
        num_key_value_heads=16,
        num_global_key_value_heads=4,
        enable_moe_block=False,
    )
    return {"model_type": "gemma4", "text_config": shape} | changes


def assistant(target: Config, **changes: Any) -> Config:
    own = target["text_config"]
    shape = text(
        hidden_size=1024,
        intermediate_size=8192,
        num_attention_heads=own["num_attention_heads"],
        num_key_value_heads=own["num_key_value_heads"],
        num_global_key_value_heads=own["num_global_key_value_heads"],
    ) | {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 4,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    }
    fields = {"model_type": "gemma4_assistant", "text_config": shape, "backbone_hidden_size": own["hidden_size"]}
    return fields | changes


QUANTIZED = {"quantization_config": {"quant_method": "compressed-tensors"}}
