"""How much memory an engine needs, from what is known before its weights load.  Pure sums in bytes.

Sources: the KV-cache sums follow ``max_memory_usage_bytes`` of vLLM's ``FullAttentionSpec`` and
``SlidingWindowSpec``.  Against published runs on GB10: the 26B-A4B with fp8 KV, 262,144 tokens and 16,384
batched tokens reports 1.7 M tokens in about 26 GiB; this sum comes within a tenth of that (see the tests).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemmaspec_engine.configs import layers, text
from gemmaspec_engine.memory import gib

__all__ = ["Budget", "Request", "budget", "kv_bytes_per_sequence", "tensor_bytes", "utilization_for"]

DEFAULT_OVERHEAD_BYTES = 8 << 30
"""Activations of the profiling run, CUDA context and graphs, vision encoder.  The published 31B run at 16,384
batched tokens leaves 103.4 GiB (0.85) − 76 GiB of KV cache (1.2 M tokens) − 20 GiB of weights ≈ 8 GiB for these."""


@dataclass(frozen=True)
class Request:
    """What the engine was asked to hold at once."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_element_bytes: int
    """2 for a 16-bit KV cache, 1 for fp8, 4 for float32."""


@dataclass(frozen=True)
class Budget:
    """The parts of an engine's memory, in bytes."""

    weights: int
    drafter: int
    kv: int
    overhead: int
    held: str = ""
    """What the KV cache holds, in words."""

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.drafter + self.kv + self.overhead

    def __str__(self) -> str:
        return (
            f"{gib(self.total)} = weights {gib(self.weights)} + drafter {gib(self.drafter)} + "
            f"KV cache {gib(self.kv)}{self.held and f' ({self.held})'} + overhead {gib(self.overhead)}"
        )


def tensor_bytes(head: bytes) -> tuple[int, int]:
    """(bytes of tensor data, number of tensors) that the beginning of a safetensors file announces.

    ``head`` is the file's first 8 bytes (length of the header, little-endian) and the header itself.
    Raises ValueError when it is not one.
    """
    if len(head) < 8:
        raise ValueError("shorter than a safetensors header")
    (length,) = struct.unpack("<Q", head[:8])
    if length > 100_000_000 or len(head) < 8 + length:  # the format's own limit on headers
        raise ValueError(f"announces a header of {length} bytes")
    header = json.loads(head[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return max(ends, default=0), len(ends)


def kv_bytes_per_sequence(config: Mapping[str, Any], request: Request, block: int = 16) -> int:
    """KV cache of one sequence of ``max_model_len`` tokens: K and V of each layer that has its own, whole blocks.

    A sliding layer holds only its window and the tokens in flight.  Raises KeyError for a config without shape.
    """
    everything = math.ceil(request.max_model_len / block)
    window = int(_window(config) or request.max_model_len)
    tokens = min(window - 1 + request.max_num_batched_tokens, request.max_model_len)
    windowed = min(math.ceil(tokens / block) + 1, everything)
    size = 0
    for layer in layers(config):
        if layer.owns_kv:
            per_token = 2 * layer.kv_heads * layer.head_dim * request.kv_element_bytes
            size += (windowed if layer.sliding else everything) * block * per_token
    return size


def _window(config: Mapping[str, Any]) -> int | None:
    found = text(config).get("sliding_window")
    return int(found) if found else None


def budget(
    config: Mapping[str, Any], request: Request, weights: int, drafter: int, overhead: int, kv: int | None = None
) -> Budget:
    """What the engine needs so that ``max_num_seqs`` sequences of full length fit at once, or ``kv`` bytes of cache.

    The Gemma 4 assistant has no KV cache of its own: it reads the target's.
    """
    if kv is not None:
        return Budget(weights, drafter, kv, overhead, "kvCacheBytes")
    each = kv_bytes_per_sequence(config, request)
    held = f"{request.max_num_seqs} × {request.max_model_len} tokens of {each / request.max_model_len / 1024:.1f} KiB"
    return Budget(weights, drafter, each * request.max_num_seqs, overhead, held)


def utilization_for(needed: Budget, total: int) -> float:
    """The smallest utilization, in steps of 0.01, whose share of ``total`` holds the budget; may exceed 1."""
    return math.ceil(needed.total * 100 / total) / 100
