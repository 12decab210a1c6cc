"""What the hub of the stories holds: the tiny pair, and models that preflight has to refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from tinypair.manifest import FOLDER

TOKEN: Final = "hf_tiny"
TARGET: Final = "example/tiny-gemma4"
ASSISTANT: Final = "example/tiny-gemma4-assistant"
OTHER_VOCABULARY: Final = "example/other-vocabulary"
UNKNOWN_TYPE: Final = "example/unknown-type"
EXPERTS: Final = "example/tiny-experts"
_INSIDE: Final = "/models/tiny-gemma4"
_UNWANTED: Final = "never to be downloaded"


def repositories() -> dict[str, Any]:
    """In the mirror's own words. The broken ones have a config.json, and weights that nobody should fetch."""
    return {
        TARGET: {"folder": f"{_INSIDE}/target"},
        ASSISTANT: {"folder": f"{_INSIDE}/assistant"},
        OTHER_VOCABULARY: _changed("assistant", lambda config: config["text_config"].update(vocab_size=1024)),
        UNKNOWN_TYPE: _changed("assistant", lambda config: config.update(model_type="gemma9_assistant")),
        EXPERTS: _changed("target", _with_experts),
    }


def _changed(model: str, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    config = json.loads((FOLDER / model / "config.json").read_text())
    change(config)
    return {"files": {"config.json": json.dumps(config), "model.safetensors": _UNWANTED}}


def _with_experts(config: dict[str, Any]) -> None:
    text = config.get("text_config", config)
    text.update(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=64)
