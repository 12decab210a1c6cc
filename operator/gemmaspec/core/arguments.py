"""The engine's command line: the one place that knows which vLLM version takes which key.

Versions and keys were read in the PyPI wheels 0.19.1 to 0.33.0. Where the spec names no version, only
keys that every version since 0.21.0 (the first with Gemma 4 MTP) takes are used.
"""

from __future__ import annotations

import json
from typing import Any

from gemmaspec.api.spec import Method, Mode, ModelSpec, Scheduling
from gemmaspec.core import live as live_k
from gemmaspec.core import verification
from gemmaspec.core.resolve import Resolved

SHUTDOWN_TIMEOUT_SINCE = (0, 18)
# vLLM's key guards /v1 only (gemmaspec_engine.guard).
GUARD = "gemmaspec_engine.guard.Guard"
# n-gram and suffix drafting look this many tokens back unless told otherwise (vLLM's own default for ngram
# is an error: the key must be given).
NGRAM_LOOKUP_MAX = 4


def engine_arguments(resolved: Resolved, k: int, live: bool = False) -> list[str]:
    """Arguments of vLLM's OpenAI server for this spec at ``k`` draft tokens a step; ``live``: with the agent, for
    every K of its grid.

    Order is fixed: the list is hashed into the revision.
    """
    spec = resolved.spec
    assert spec.model is not None and spec.engine is not None
    arguments = ["--model", resolved.target]
    arguments += _model(spec.model)
    arguments += _scheduling(spec.engine.scheduling)
    arguments += _memory(resolved)
    speculative = speculative_config(resolved, k, live)
    if speculative:
        arguments += ["--speculative-config", json.dumps(speculative, separators=(",", ":"))]
    arguments += ["--host", "0.0.0.0", "--port", str(resolved.port)]  # noqa: S104 (a pod serves its network)
    if resolved.vllm is None or resolved.vllm >= SHUTDOWN_TIMEOUT_SINCE:
        arguments += ["--shutdown-timeout", str(spec.rollout.drain_seconds)]
    if live:
        arguments += live_k.arguments(resolved)
    if spec.service.api_key_secret_ref:
        arguments += ["--middleware", GUARD]
    return arguments + list(spec.engine.extra_args or [])


def _model(model: ModelSpec) -> list[str]:
    arguments = _options(
        {
            "--revision": model.revision,
            "--served-model-name": model.served_name,
            "--quantization": model.quantization,
            "--dtype": model.dtype,
            "--max-model-len": model.max_model_len,
            "--kv-cache-dtype": model.kv_cache_dtype,
            "--load-format": model.load_format,
        }
    )
    if model.trust_remote_code:
        arguments.append("--trust-remote-code")
    chat = model.chat
    if chat and chat.tool_call_parser:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", chat.tool_call_parser]
    if chat and chat.reasoning_parser:
        arguments += ["--reasoning-parser", chat.reasoning_parser]
    if chat and chat.template_kwargs:
        kwargs = json.dumps(chat.template_kwargs, separators=(",", ":"), sort_keys=True)
        arguments += ["--default-chat-template-kwargs", kwargs]
    return arguments


def _scheduling(scheduling: Scheduling | None) -> list[str]:
    if scheduling is None:
        return []
    arguments = _options(
        {
            "--max-num-seqs": scheduling.max_num_seqs,
            "--max-num-batched-tokens": scheduling.max_num_batched_tokens,
        }
    )
    arguments += _switch("enable-prefix-caching", scheduling.prefix_caching)
    arguments += _switch("enable-chunked-prefill", scheduling.chunked_prefill)
    arguments += _switch("enforce-eager", scheduling.enforce_eager)
    return arguments


def _memory(resolved: Resolved) -> list[str]:
    memory = resolved.spec.memory
    return _options(
        {
            "--gpu-memory-utilization": resolved.utilization,
            "--kv-cache-memory-bytes": memory.kv_cache_bytes if memory else None,
        }
    )


def speculative_config(resolved: Resolved, k: int, live: bool = False) -> dict[str, Any]:
    """Value of ``--speculative-config``; empty where speculation is off (K = 0 is no valid value there)."""
    if (k == 0 and not live) or resolved.method is Method.OFF:
        return {}
    config: dict[str, Any] = {"method": str(resolved.method)}
    speculative = resolved.spec.speculative
    drafter = speculative.drafter if speculative else None
    if resolved.method.needs_drafter and drafter and drafter.model:
        config["model"] = drafter.model
        if drafter.revision:
            config["revision"] = drafter.revision
    config |= live_k.speculation(resolved) if live else {"num_speculative_tokens": k}
    if resolved.control.mode is Mode.ENGINE:
        config[verification.KEY] = True
    if resolved.method is Method.NGRAM:
        config["prompt_lookup_max"] = NGRAM_LOOKUP_MAX
    return config


def _options(values: dict[str, Any]) -> list[str]:
    return [part for flag, value in values.items() if value is not None for part in (flag, _text(value))]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _switch(name: str, value: bool | None) -> list[str]:
    if value is None:
        return []
    return [f"--{name}" if value else f"--no-{name}"]
