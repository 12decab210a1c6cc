"""What vLLM says when it fails, in its own words, mapped to a stable reason and a remedy.

A pure table.  The phrases are pieces of messages that vLLM 0.19–0.33, transformers, huggingface_hub, torch and
argparse print; the samples under ``tests/data`` show them in context.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["UNKNOWN", "Explanation", "explain", "known"]


@dataclass(frozen=True)
class Explanation:
    """A class of failures: ``phrases`` are regular expressions, any of which recognises it."""

    reason: str
    remedy: str
    phrases: tuple[str, ...] = ()


UNKNOWN = Explanation("EngineFailed", "Read the engine's log (kubectl logs --previous) above this line.")

# The first that matches wins, so what is special comes before what is general.
_KNOWN = (
    Explanation(
        "KVCacheTooLarge",
        "Lower spec.memory.kvCacheBytes (--kv-cache-memory-bytes), or free memory on the node.",
        ("requested memory for kv",),
    ),
    Explanation(
        "FreeMemoryTooLow",
        "Lower spec.memory.utilization to what fits, or free memory on the box: other GPU processes, and before "
        "vLLM 0.32 the page cache, count as used.",
        ("Free memory on device", "Available memory on node"),
    ),
    Explanation(
        "KVCacheTooSmall",
        "Lower spec.model.maxModelLen or spec.engine.scheduling.maxNumSeqs, raise spec.memory.utilization, or use "
        "an fp8 KV cache.",
        (
            "No available memory for the cache blocks",
            "is larger than the available KV cache memory",
            "larger than the maximum number of tokens that can be stored in KV cache",
            "KV cache is needed, which is larger than",
        ),
    ),
    Explanation(
        "OutOfMemory",
        "Lower spec.memory.utilization or spec.engine.scheduling.maxNumBatchedTokens, or leave more to the host "
        "with spec.memory.reserveGiB.",
        (
            "OutOfMemoryError",
            "CUDA out of memory",
            "CUDA error: out of memory",
            "NV_ERR_NO_MEMORY",
            "Cannot allocate memory",
            r"\bMemoryError",
            "DefaultCPUAllocator: .*allocate",
        ),
    ),
    Explanation(
        "ModelNotFound",
        "Check spec.model.target, its revision and spec.speculative.drafter, that the weights are in the cache, "
        "and that the token may read them.",
        (
            "is not a local folder and is not a valid model identifier",
            "Repository ?Not ?Found",
            "Repo id must ",
            "Invalid repository ID or local directory",
            "LocalEntryNotFoundError",
            "RevisionNotFoundError",
            "EntryNotFoundError",
            "GatedRepoError",
            "OfflineModeIsEnabled",
            "annot find (the requested files|an appropriate cached snapshot)",
            "couldn't connect to .*(hugging|load)",
            "does not appear to have a file named",
            "Cannot find any model weights",
            "Couldn't instantiate the backend tokenizer",
        ),
    ),
    Explanation(
        "BadArgument",
        "Remove or correct the named argument in spec.engine.extraArgs: this vLLM version does not take it.",
        (
            "unrecognized arguments",
            "invalid choice",
            "expected (one|at least one) argument",
            r"argument \S+: ",
            "the following arguments are required",
            "not allowed with argument",
            "ambiguous option",
        ),
    ),
    Explanation(
        "DrafterMismatch",
        "Use the drafter that was trained for this target (same vocabulary, same hidden size), or set "
        "spec.speculative.method: off.",
        (
            r"[Dd]raft.*\bvocab",
            r"\bvocab.*[Dd]raft",
            "[Dd]raft model.*(mismatch|incompatible|hidden)",
            "[Ss]peculative.*(not supported|mismatch|unsupported)",
            "backbone_hidden_size",
        ),
    ),
    Explanation(
        "PortInUse",
        "Another process listens on the engine's port: change spec.service.port, or find the other process.",
        ("Address already in use", r"Errno 98\b"),
    ),
    Explanation(
        "ModelUnsupported",
        "This image's vLLM or transformers is too old for the model: use a newer image, or "
        "spec.engine.transformers.mode: Install.",
        (
            "does not recognize this architecture",
            "but Transformers does not",
            "Model architectures .*(not supported|failed to be inspected)",
            "Unrecognized model in",
        ),
    ),
    Explanation(
        "DeviceUnavailable",
        "The container sees no usable GPU: check the runtime class, the device plug-in, the driver, and that the "
        "image is built for this GPU.",
        (
            "Failed to infer device type",
            "No CUDA GPUs are available",
            "no NVIDIA driver",
            r"libcuda\.so",
            "driver version is insufficient",
            "forward compatibility was attempted",
            "device kernel image is invalid",
            "no kernel image is available",
        ),
    ),
    Explanation(
        "ImportFailed",
        "A module is missing or does not fit in this image: check spec.engine.image, the patches and the "
        "transformers overlay.",
        (
            "No module named",
            "cannot import name",
            "undefined symbol",
            r"^ImportError",
            r"Cannot resolve .*class",
        ),
    ),
    Explanation(
        "StorageFailed",
        "A cache directory is full or not writable: check the cache volumes and the pod's user.",
        ("No space left on device", "Read-only file system", "Permission denied", "isk quota exceeded"),
    ),
    Explanation(
        "WeightsMismatch",
        "The weights do not fit the code that loads them: check for a known-bad vLLM version, the patches, and "
        "that target and drafter belong together.",
        (
            "mat1 and mat2 shapes",
            "size mismatch",
            "shape mismatch",
            "cannot be multiplied",
            "There is no module or parameter named",
            "must match the size of tensor",
            "exceeds dimension size",
            r"AssertionError.*\b(shape|size)\b",
        ),
    ),
    Explanation(
        "DeviceFault",
        "The GPU or one of its kernels failed: look at the node's kernel log (dmesg, Xid), and try "
        "spec.engine.scheduling.enforceEager.",
        (
            "CUDA error",
            "CUBLAS_STATUS",
            "cudaError",
            r"\bXid\b",
            "NCCL error",
            "illegal memory access",
            "PTXAS|ptxas",
        ),
    ),
    Explanation(
        "BadConfiguration",
        "vLLM refused the configuration: correct the field that the message names.",
        ("validation errors? for", "ValidationError", "max_model_len", "must be one of", "is not supported"),
    ),
    Explanation(
        "EngineTimeout",
        "The engine took too long; if it was starting, raise VLLM_ENGINE_READY_TIMEOUT_S in spec.engine.env.",
        ("[Tt]imed out", "TimeoutError", "did not become ready"),
    ),
)


def explain(line: str) -> Explanation:
    """The class of failures that an error line belongs to; UNKNOWN when none claims it."""
    for known in _KNOWN:
        if any(re.search(phrase, line) for phrase in known.phrases):
            return known
    return UNKNOWN


def known() -> tuple[Explanation, ...]:
    """Every class of failures, the unrecognised ones last."""
    return (*_KNOWN, UNKNOWN)
