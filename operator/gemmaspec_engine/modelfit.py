"""Do target and drafter belong together?  Judged from their two ``config.json`` alone.  Pure.

vLLM's own configuration step accepts a drafter of another vocabulary and fails only once the weights are
loaded, or not at all, with an acceptance of zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmaspec_engine.configs import Layer, layers, text
from gemmaspec_engine.finding import Finding

__all__ = ["check"]

Config = Mapping[str, Any]
_ASSISTANTS = {"gemma4_assistant": "gemma4", "gemma4_unified_assistant": "gemma4_unified"}
_REMEDY = "Use the assistant published for exactly this target, e.g. google/gemma-4-31B-it-assistant for a 31B."


def check(target: Config, drafter: Config, method: str, max_model_len: int | None = None) -> list[Finding]:
    """What does not fit between the two; nothing for methods whose drafters have no fixed shape."""
    if method not in ("mtp", "gemma4_mtp"):
        return []
    findings = _kind(target, drafter)
    if findings:
        return findings
    findings = [*_vocabulary(target, drafter), *_hidden(target, drafter), *_attention(target, drafter)]
    return findings + _length(drafter, max_model_len)


def _kind(target: Config, drafter: Config) -> list[Finding]:
    kind, family = str(drafter.get("model_type")), str(target.get("model_type"))
    if kind not in _ASSISTANTS:
        text = f"the drafter's model_type is {kind!r}, which is no Gemma 4 assistant"
        return [Finding("DrafterKindWrong", text, _REMEDY)]
    unified = family.startswith("gemma4_unified")
    if family.startswith("gemma4") and unified != (kind == "gemma4_unified_assistant"):
        text = f"a {kind} cannot draft for a {family} target"
        return [Finding("DrafterKindWrong", text, _REMEDY)]
    return []


def _vocabulary(target: Config, drafter: Config) -> list[Finding]:
    theirs, ours = text(target).get("vocab_size"), text(drafter).get("vocab_size")
    if theirs is None or ours is None or theirs == ours:
        return []
    return [Finding("DrafterVocabMismatch", f"the target has {theirs} tokens, the drafter {ours}", _REMEDY)]


def _hidden(target: Config, drafter: Config) -> list[Finding]:
    theirs, ours = text(target).get("hidden_size"), drafter.get("backbone_hidden_size")
    if theirs is None or ours is None or theirs == ours:
        return []
    message = f"the target's hidden size is {theirs}, the drafter was made for {ours} (backbone_hidden_size)"
    return [Finding("DrafterHiddenMismatch", message, _REMEDY)]


def _attention(target: Config, drafter: Config) -> list[Finding]:
    """The drafter reads the target's last keys and values of each kind: their shapes must agree."""
    try:
        theirs, ours = _last_of_kind(layers(target)), _last_of_kind(layers(drafter))
    except (KeyError, TypeError, ValueError):
        return []
    for sliding, own in ours.items():
        other, kind = theirs.get(sliding), "sliding" if sliding else "full"
        if other is None:
            message = f"the drafter has {kind}-attention layers, the target has none"
        elif (own.kv_heads, own.head_dim) != (other.kv_heads, other.head_dim):
            message = (
                f"the target's {kind}-attention layers keep {other.kv_heads} K/V heads of {other.head_dim}, "
                f"the drafter reads {own.kv_heads} of {own.head_dim}"
            )
        else:
            continue
        return [Finding("DrafterKVMismatch", message, _REMEDY)]
    return []


def _last_of_kind(found: list[Layer]) -> dict[bool, Layer]:
    return {layer.sliding: layer for layer in found}


def _length(drafter: Config, max_model_len: int | None) -> list[Finding]:
    longest = text(drafter).get("max_position_embeddings")
    if longest is None or max_model_len is None or max_model_len <= longest:
        return []
    message = f"maxModelLen is {max_model_len}, but the drafter knows only {longest} positions"
    return [
        Finding(
            "DrafterTooShort",
            message,
            "Lower spec.model.maxModelLen, or expect no drafts beyond it.",
            fatal=False,
        )
    ]
