"""Configurations and a tokenizer in the published shapes of Gemma 4 26B-A4B and 31B: ``python models.py FOLDER``.

Weights are random (``--load-format dummy``): step times are those of the real sizes, texts are not. Widths, layers,
heads and experts are the published ones; the drafters are the published four-layer assistants.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma4AssistantConfig, Gemma4TextConfig, PreTrainedTokenizerFast

VOCABULARY = 262_144
SLIDING, FULL = "sliding_attention", "full_attention"

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "head_dim": 256,
    "global_head_dim": 512,
    "sliding_window": 1024,
    "max_position_embeddings": 262_144,
    "rms_norm_eps": 1e-6,
    "attention_k_eq_v": True,
    "attention_bias": False,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "dtype": "bfloat16",
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "rope_parameters": {
        FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0, "rope_type": "proportional"},
        SLIDING: {"rope_theta": 10_000.0, "rope_type": "default"},
    },
}
HEADS: dict[str, dict[str, int]] = {
    "26b": {"num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2},
    "31b": {"num_attention_heads": 32, "num_key_value_heads": 16, "num_global_key_value_heads": 4},
}
TARGETS: dict[str, dict[str, Any]] = {
    "26b": {
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "layer_types": ([SLIDING] * 5 + [FULL]) * 5,
        "enable_moe_block": True,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
    },
    "31b": {
        "hidden_size": 5376,
        "intermediate_size": 21_504,
        "num_hidden_layers": 60,
        "layer_types": ([SLIDING] * 5 + [FULL]) * 10,
        "enable_moe_block": False,
    },
}
DRAFTER: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
    "enable_moe_block": False,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and names without meaning for the rest of the vocabulary."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: i for i, name in enumerate(names)}
    vocabulary |= {f"t{i}": i for i in range(len(names), VOCABULARY)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def main() -> None:
    """Writes four folders."""
    out, words = Path(sys.argv[1]), tokenizer()
    for name, shape in TARGETS.items():
        target = Gemma4TextConfig(**COMMON, **HEADS[name], **shape)
        target.architectures = ["Gemma4ForCausalLM"]
        text = Gemma4TextConfig(**COMMON, **HEADS[name], **DRAFTER).to_dict() | {"num_kv_shared_layers": 4}
        drafter = Gemma4AssistantConfig(
            text_config=text,
            backbone_hidden_size=shape["hidden_size"],
            use_ordered_embeddings=False,
            num_centroids=2048,
            centroid_intermediate_top_k=32,
        )
        drafter.architectures, drafter.dtype = ["Gemma4AssistantForCausalLM"], "bfloat16"
        for folder, made in ((out / name, target), (out / f"{name}-assistant", drafter)):
            folder.mkdir(parents=True, exist_ok=True)
            made.save_pretrained(folder)
            words.save_pretrained(folder)


if __name__ == "__main__":
    main()
