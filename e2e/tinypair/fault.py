"""A drafter that loads, drafts and is never accepted: what a wrong patch or a badly quantized drafter looks like.

``python -m tinypair.fault FOLDER`` copies the assistant there with its last norm set to zero: all logits are equal
then, so it always drafts token 0, the padding, which the target never writes. Standard library only.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any, Final

from tinypair import manifest

_WEIGHT: Final = "model.norm.weight"


def silence(weights: Path, name: str = _WEIGHT) -> None:
    """Sets one tensor of a safetensors file to zero, in place. Raises KeyError when the file lacks it.

    The format: eight bytes of header length, a JSON header with offsets, then the tensors' bytes
    (https://github.com/huggingface/safetensors#format).
    """
    data = bytearray(weights.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
    data[begin:end] = bytes(end - begin)
    weights.write_bytes(data)


def broken_assistant(folder: Path, pair: Path = manifest.FOLDER) -> Path:
    """Writes the broken drafter into `folder`, which must not exist yet, and returns it."""
    shutil.copytree(pair / "assistant", folder)
    silence(folder / "model.safetensors")
    return folder


if __name__ == "__main__":
    print(broken_assistant(Path(sys.argv[1])))
