"""The committed files: complete, small, and a target and assistants that fit together."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tinypair import manifest

ASSISTANTS = [part for part in manifest.PARTS if part != "target"]


def config(part: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((manifest.FOLDER / part / "config.json").read_text())
    return loaded


def tensors(part: str) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: eight bytes of length, then JSON."""
    data = (manifest.FOLDER / part / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, dict[str, Any]] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return header


def test_every_file_is_the_one_that_was_made() -> None:
    assert manifest.hashes() == manifest.read()
    assert {Path(path).parts[0] for path in manifest.read()} == set(manifest.PARTS)


def test_the_pair_is_small() -> None:
    assert manifest.size() < 5_000_000


@pytest.mark.parametrize("part", manifest.PARTS)
def test_weights_are_float32(part: str) -> None:
    assert {tensor["dtype"] for tensor in tensors(part).values()} == {"F32"}


@pytest.mark.parametrize("part", ASSISTANTS)
def test_an_assistant_shares_vocabulary_and_tokenizer_with_the_target(part: str) -> None:
    target, text = config("target"), config(part)["text_config"]
    assert text["vocab_size"] == target["vocab_size"] == 512
    assert config(part)["backbone_hidden_size"] == target["hidden_size"]
    tokenizers = [(manifest.FOLDER / name / "tokenizer.json").read_bytes() for name in ("target", part)]
    assert tokenizers[0] == tokenizers[1]
    assert len(json.loads(tokenizers[0])["model"]["vocab"]) == target["vocab_size"]


@pytest.mark.parametrize("part", ASSISTANTS)
def test_an_assistant_has_no_keys_and_values_of_its_own(part: str) -> None:
    text = config(part)["text_config"]
    assert config(part)["model_type"] == "gemma4_assistant"
    assert text["num_kv_shared_layers"] == text["num_hidden_layers"]
    assert text["layer_types"][-1] == "full_attention"
    assert not [name for name in tensors(part) if ".k_proj." in name or ".v_proj." in name]


@pytest.mark.parametrize("part", ASSISTANTS)
def test_an_assistants_heads_fit_the_targets_keys(part: str) -> None:
    target, text = config("target"), config(part)["text_config"]
    for size in ("head_dim", "num_key_value_heads", "sliding_window", "per_layer_config"):
        assert text[size] == target[size], size


def test_the_target_is_a_dense_gemma_4() -> None:
    target = config("target")
    assert target["architectures"] == ["Gemma4ForCausalLM"]
    assert target["layer_types"][-1] == "full_attention"
    assert set(target["layer_types"]) == {"full_attention", "sliding_attention"}
    assert target["hidden_size_per_layer_input"] == 0


@pytest.mark.parametrize("part", manifest.PARTS)
def test_a_chat_is_the_contents_of_its_messages(part: str) -> None:
    template = (manifest.FOLDER / part / "chat_template.jinja").read_text()
    assert "message['content']" in template
    assert "role" not in template


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    for part in manifest.PARTS:
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    manifest.write(tmp_path)
    assert manifest.hashes(tmp_path) == manifest.read(tmp_path)
    (tmp_path / "target" / "config.json").write_text("{} ")
    assert manifest.hashes(tmp_path) != manifest.read(tmp_path)
