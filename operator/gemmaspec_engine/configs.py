"""Reads what matters out of a model's ``config.json``.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Layer", "layers", "quantization", "text"]

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """One attention layer's shape. ``owns_kv`` is false where it reads an earlier layer's keys and values."""

    sliding: bool
    kv_heads: int
    head_dim: int
    owns_kv: bool


def text(config: Config) -> Config:
    """The part that describes the language model: ``text_config`` where there is one, else everything."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def quantization(config: Config) -> str | None:
    """The checkpoint's quantization method, None for an unquantized one."""
    found = config.get("quantization_config") or text(config).get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    return str(found.get("quant_method") or "unknown")


def layers(config: Config) -> list[Layer]:
    """The attention layers of a Gemma 4 text model, in order.  Raises KeyError for a missing number.

    Full-attention layers have a head size of their own (``global_head_dim``), and own K/V heads where
    ``attention_k_eq_v`` says so.  transformers ≥ 5.15 writes the same as ``per_layer_config``.
    """
    own = text(config)
    count = int(own["num_hidden_layers"])
    kinds = own.get("layer_types") or _default_kinds(count)
    shared_from = count - int(own.get("num_kv_shared_layers") or 0)
    overrides = own.get("per_layer_config") or {}
    return [_layer(own, kind, overrides.get(str(at), {}), at < shared_from) for at, kind in enumerate(kinds)]


def _default_kinds(count: int) -> list[str]:
    # transformers' Gemma4TextConfig: every sixth layer, and the last one, attends to everything.
    kinds = ["full_attention" if (at + 1) % 6 == 0 else "sliding_attention" for at in range(count)]
    return [*kinds[:-1], "full_attention"]


def _layer(own: Config, kind: str, override: Config, owns_kv: bool) -> Layer:
    sliding = kind == "sliding_attention"
    heads, size = own["num_key_value_heads"], own["head_dim"]
    if not sliding:
        size = own.get("global_head_dim") or size
        if own.get("attention_k_eq_v", True) and own.get("num_global_key_value_heads"):
            heads = own["num_global_key_value_heads"]
    heads = override.get("num_key_value_heads", heads)
    size = override.get("head_dim", size)
    return Layer(sliding, int(heads), int(size), owns_kv)
