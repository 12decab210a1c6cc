"""Makes vLLM's own configuration, scheduler and requests, in whatever signature this version has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gemmaspec_engine.agent.grid import schedule_for

GRID: Final = (0, 1, 2, 4)
SEQUENCES: Final = 8
BLOCK: Final = 16
CHUNK: Final = 96
LENGTH: Final = 512


def fitting(callee: Callable[..., Any], **offered: Any) -> Any:
    """Calls with those of the arguments that this version takes."""
    taken = inspect.signature(callee).parameters
    return callee(**{name: value for name, value in offered.items() if name in taken})


def configuration(pair: Path, sequences: int = SEQUENCES, live: bool = True) -> Any:
    """Of the tiny pair, through vLLM's own argument classes: with a K schedule and our scheduler, or plain."""
    from vllm.engine.arg_utils import EngineArgs

    speculative = {
        "method": "mtp",
        "model": str(pair / "assistant"),
        "num_speculative_tokens": max(GRID),
    }
    if live:
        speculative["num_speculative_tokens_per_batch_size"] = schedule_for(GRID, sequences)
    arguments = EngineArgs(
        model=str(pair / "target"),
        dtype="float32",
        max_model_len=LENGTH,
        max_num_seqs=sequences,
        max_num_batched_tokens=CHUNK,
        enforce_eager=True,
        speculative_config=speculative,
        **({"scheduler_cls": "gemmaspec_engine.agent.scheduler.LiveScheduler"} if live else {}),
    )
    return arguments.create_engine_config()


def scheduler(configured: Any, blocks: int, asynchronous: bool, v2: bool) -> Any:
    """The class that vLLM itself resolves from ``--scheduler-cls``, built as its engine core does."""
    import torch
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    configured.scheduler_config.async_scheduling = asynchronous
    configured.cache_config.num_gpu_blocks = blocks
    configured.cache_config.block_size = BLOCK
    spec = fitting(FullAttentionSpec, block_size=BLOCK, num_kv_heads=2, head_size=32, dtype=torch.float32)
    groups = [KVCacheGroupSpec(["layers.0"], spec)]
    offered = {
        "vllm_config": configured,
        "kv_cache_config": fitting(KVCacheConfig, num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups),
        "structured_output_manager": StructuredOutputManager(configured),
        "block_size": BLOCK,
        "hash_block_size": BLOCK,
        "log_stats": True,
    }
    taken = inspect.signature(Scheduler.__init__).parameters
    chosen = configured.scheduler_config.get_scheduler_cls()
    made = chosen(**{name: value for name, value in offered.items() if name in taken})
    made.use_v2_model_runner = v2
    return made


def request(name: str, prompt: list[int], tokens: int) -> Any:
    """One greedy request of so many tokens, with its blocks hashed for the prefix cache."""
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    hashing = get_hash_fn_by_name("sha256")
    init_none_hash(hashing)
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    return Request(name, prompt, params, None, block_hasher=get_request_block_hasher(BLOCK, hashing))
