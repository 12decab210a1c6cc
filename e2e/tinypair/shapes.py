"""The pair's sizes and Hugging Face configurations (needs transformers: runs in the engine's Python)."""

from __future__ import annotations

from typing import Final

from transformers import Gemma4AssistantConfig, Gemma4TextConfig

VOCABULARY: Final = 512
HIDDEN: Final = 64
TARGET_LAYERS: Final = 8  # of 12, drafts are so cheap that a useless K=4 costs a third; of 8, half
ASSISTANT_LAYERS: Final = 1
WINDOW: Final = 128  # tokens a sliding layer looks back
POSITIONS: Final = 16_384  # many more than it has read: long prompts can be tried, what it says to them means nothing


def _alternating(layers: int) -> list[str]:
    """Sliding and full attention by turns, ending in a full layer as Gemma 4 demands of the last one."""
    kinds = ("full_attention", "sliding_attention")
    return [kinds[(layers - 1 - layer) % 2] for layer in range(layers)]


def _text(layers: int, shared: int = 0) -> Gemma4TextConfig:
    return Gemma4TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        global_head_dim=32,
        max_position_embeddings=POSITIONS,
        sliding_window=WINDOW,
        layer_types=_alternating(layers),
        num_kv_shared_layers=shared,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        dtype="float32",
    )


def target() -> Gemma4TextConfig:
    """A dense text-only Gemma 4."""
    config = _text(TARGET_LAYERS)
    config.architectures = ["Gemma4ForCausalLM"]
    return config


def assistant() -> Gemma4AssistantConfig:
    """The MTP drafter of :func:`target`: all its layers read the target's keys and values."""
    config = Gemma4AssistantConfig(
        text_config=_text(ASSISTANT_LAYERS, shared=ASSISTANT_LAYERS).to_dict(),
        backbone_hidden_size=HIDDEN,
        use_ordered_embeddings=False,
    )
    config.architectures = ["Gemma4AssistantForCausalLM"]
    return config
