from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tinypair import manifest
from tinypair.fault import broken_assistant, silence


def test_only_the_last_norm_differs_from_the_sound_assistant(tmp_path: Path) -> None:
    broken = (broken_assistant(tmp_path / "broken") / "model.safetensors").read_bytes()
    sound = (manifest.FOLDER / "assistant" / "model.safetensors").read_bytes()
    assert len(broken) == len(sound)
    different = [at for at in range(len(sound)) if broken[at] != sound[at]]
    assert 0 < len(different) <= 64 * 4  # one float32 for each of the hidden size's 64 numbers
    assert max(different) - min(different) < 64 * 4
    assert not any(broken[at] for at in different)


def test_a_tensor_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(KeyError):
        silence(file)
