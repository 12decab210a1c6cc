"""Which vLLM flags belong to typed fields, and which may come through ``engine.extraArgs``.

``extraArgs`` is an allow-list: argparse accepts abbreviations, dotted keys and short forms, so that a list of
forbidden flags could always be walked around. A token is normalised (``_`` to ``-``, the part before ``=`` and
before a dot) before it is looked up. Flag and value are one item, ``--name=value``: a word alone is vLLM's positional
argument where the flag before it is a switch, and a rule of one item can't see its neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# flag -> the typed field that sets it
TYPED: Final[dict[str, str]] = {
    "--model": "model.target",
    "--revision": "model.revision",
    "--served-model-name": "model.servedName",
    "--quantization": "model.quantization",
    "--dtype": "model.dtype",
    "--max-model-len": "model.maxModelLen",
    "--kv-cache-dtype": "model.kvCacheDtype",
    "--load-format": "model.loadFormat",
    "--trust-remote-code": "model.trustRemoteCode",
    "--tool-call-parser": "model.chat.toolCallParser",
    "--enable-auto-tool-choice": "model.chat.toolCallParser",
    "--reasoning-parser": "model.chat.reasoningParser",
    "--default-chat-template-kwargs": "model.chat.templateKwargs",
    "--max-num-seqs": "engine.scheduling.maxNumSeqs",
    "--max-num-batched-tokens": "engine.scheduling.maxNumBatchedTokens",
    "--enable-prefix-caching": "engine.scheduling.prefixCaching",
    "--no-enable-prefix-caching": "engine.scheduling.prefixCaching",
    "--enable-chunked-prefill": "engine.scheduling.chunkedPrefill",
    "--no-enable-chunked-prefill": "engine.scheduling.chunkedPrefill",
    "--enforce-eager": "engine.scheduling.enforceEager",
    "--no-enforce-eager": "engine.scheduling.enforceEager",
    "--gpu-memory-utilization": "memory.utilization",
    "--kv-cache-memory-bytes": "memory.kvCacheBytes",
    "--speculative-config": "speculative",
    "--spec-method": "speculative.method",
    "--spec-model": "speculative.drafter.model",
    "--spec-tokens": "speculative.k",
    "--host": "service",
    "--port": "service.port",
    "--api-key": "service.apiKeySecretRef",
    "--shutdown-timeout": "rollout.drainSeconds",
}

# Flags that tune the engine without touching what the operator decides, proves or guards: switches, and those that
# take a value.
SWITCHES: Final[frozenset[str]] = frozenset(
    {
        "--async-scheduling",
        "--no-async-scheduling",
        "--enable-flashinfer-autotune",
        "--no-enable-flashinfer-autotune",
        "--enable-force-include-usage",
        "--enable-log-requests",
        "--no-enable-log-requests",
        "--enable-prompt-tokens-details",
        "--skip-mm-profiling",
    }
)
VALUED: Final[frozenset[str]] = frozenset(
    {
        "--attention-backend",
        "--block-size",
        "--chat-template-content-format",
        "--compilation-config",
        "--generation-config",
        "--hf-overrides",
        "--kernel-config",
        "--limit-mm-per-prompt",
        "--long-prefill-token-threshold",
        "--mamba-cache-dtype",
        "--max-cudagraph-capture-size",
        "--max-log-len",
        "--max-logprobs",
        "--max-long-partial-prefills",
        "--max-num-partial-prefills",
        "--mm-processor-cache-gb",
        "--mm-processor-kwargs",
        "--moe-backend",
        "--optimization-level",
        "--override-generation-config",
        "--per-request-spec-decode-metrics",
        "--prefix-caching-hash-algo",
        "--scheduling-policy",
        "--seed",
        "--tensor-parallel-size",
        "--tokenizer-mode",
        "--uvicorn-log-level",
    }
)


def flag_of(token: str) -> str:
    """The flag that a command-line token names, normalised; values give themselves."""
    return token.split("=", 1)[0].split(".", 1)[0].replace("_", "-")


def extra_args_rules() -> list[dict[str, Any]]:
    """The CEL rules of one item of ``engine.extraArgs``: contradictions first, since they can name the typed field.

    They judge items and not the list: the API server's cost estimate multiplies through every list operation.
    """
    flag = "self.split('=')[0].split('.')[0].replace('_', '-')"
    typed = "{" + ", ".join(f"'{name}': '{field}'" for name, field in sorted(TYPED.items())) + "}"
    known = _list([*TYPED, *SWITCHES, *VALUED])
    return [
        _rule(
            f"!({flag} in {typed})",
            "contradicts a typed field; remove it from extraArgs and set the field",
            f"' contradicts the typed field spec.' + {typed}[{flag}] + '; remove it from extraArgs and set that field'",
        ),
        _rule(
            # Behind a switch, a word alone would be vLLM's positional argument: another model.
            "self.startsWith('-')",
            "is no flag; write a flag and its value as one item, --name=value",
        ),
        _rule(
            f"!self.startsWith('-') || {flag} in {known}",
            "is not among the flags that extraArgs takes; write flags in full, as --name (the list is in "
            "docs/reference.md)",
        ),
        _rule(
            f"!({flag} in {_list(VALUED)}) || self.contains('=')",
            "has no value; write flag and value as one item, --name=value",
        ),
        _rule(f"!({flag} in {_list(SWITCHES)}) || !self.contains('=')", "takes no value; write the flag alone"),
        _rule(
            f"{flag} != '--tensor-parallel-size' || self.endsWith('=1')",
            "spreads one engine over several GPUs, and one engine is one box here; remove it, and set spec.replicas "
            "for more boxes",
        ),
    ]


def _list(names: Iterable[str]) -> str:
    return "[" + ", ".join(f"'{name}'" for name in sorted(names)) + "]"


def _rule(condition: str, message: str, saying: str | None = None) -> dict[str, Any]:
    """A rule of one item: the item, then ``message`` or the CEL expression ``saying``."""
    quoted = message.replace("'", "\\'")
    return {
        "rule": condition,
        "messageExpression": f"self + {saying}" if saying else f"self + ' {quoted}'",
        "message": message,
        "reason": "FieldValueForbidden",
    }
