"""What vLLM's V2 runner needs mended so that live K works and pays, for the versions that `compat` marks.

The engine's worker and scheduler share one process (one GPU, no tensor parallelism), so the scheduler's choice
reaches the drafter through a module variable. Nothing here runs where the version is not marked.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from gemmaspec_engine import compat

__all__ = ["apply", "graph_counts", "tell", "teller", "told"]

_RUNNER = "vllm.v1.worker.gpu"
_FIRST_TOLD = (0, 32)
"""vLLM passes K to its V2 drafter from this version on; its V1 runner does in every version of the matrix."""


class _Shared:
    """What scheduler and worker know of each other."""

    k: int | None = None
    """K of the last scheduled step; None before the first (warm-up and capture draft all)."""
    applied: tuple[str, ...] = ()


_shared = _Shared()
_graphs: Counter[str] = Counter()


def tell(k: int) -> None:
    """The step that goes out now drafts ``k`` tokens."""
    _shared.k = k


def teller() -> Callable[[int], None] | None:
    """`tell`, where something mended asks for K; None where every step would only pay for it."""
    return tell if _shared.applied else None


def told(v2: bool, vllm: str) -> bool:
    """Does the drafter stop at K, or make all drafts whatever K is?"""
    if not v2:
        return True
    numbers = tuple(int(part) for part in vllm.split("+")[0].split(".")[:2] if part.isdigit())
    return numbers >= _FIRST_TOLD or compat.DRAFTER in _shared.applied


def graph_counts() -> Callable[[], Mapping[str, int]] | None:
    """Uniform decode steps of the target by CUDA-graph mode; None where nothing was patched to count them."""
    return (lambda: _graphs) if _shared.applied else None


def apply(vllm: str) -> tuple[str, ...]:
    """Mends what the matrix marks for this version. Returns what was done.

    Raises:
        Exception: the code to mend does not look as it should; then this piece is left alone.
    """
    found = compat.find(vllm)
    wanted = found.patches if found else ()
    if compat.CAPTURE in wanted:
        _mend_capture()
        _shared.applied += (compat.CAPTURE,)
    if compat.DRAFTER in wanted:
        _mend_drafter()
        _shared.applied += (compat.DRAFTER,)
    if wanted:
        _count_graphs()
    return _shared.applied


def _mend_capture() -> None:
    """The draft model decodes one token a step whatever K is: its manager must not look at the K schedule."""
    manager: Any = importlib.import_module(f"{_RUNNER}.cudagraph_utils").CudaGraphManager
    original = manager._init_candidates  # noqa: SLF001

    def init_candidates(self: Any) -> Any:
        speculative = self.vllm_config.speculative_config
        schedule = getattr(speculative, "num_speculative_tokens_per_batch_size", None)
        if not schedule or self.decode_query_len > self.vllm_config.num_speculative_tokens:
            return original(self)
        speculative.num_speculative_tokens_per_batch_size = None
        try:
            return original(self)
        finally:
            speculative.num_speculative_tokens_per_batch_size = schedule

    manager._init_candidates = init_candidates  # noqa: SLF001


def _mend_drafter() -> None:
    """Drafts K tokens instead of all; none at K = 0 for a drafter that keeps no keys and values of its own."""
    drafter: Any = importlib.import_module(f"{_RUNNER}.spec_decode.autoregressive.speculator").AutoRegressiveSpeculator
    decode, propose = drafter._multi_step_decode, drafter.propose  # noqa: SLF001

    def multi_step_decode(self: Any, *args: Any, **kwargs: Any) -> Any:
        k = _shared.k
        most = self.num_speculative_steps
        if k is None or k >= most:
            return decode(self, *args, **kwargs)
        self.num_speculative_steps = max(1, k)
        try:
            return decode(self, *args, **kwargs)
        finally:
            self.num_speculative_steps = most

    def proposed(self: Any, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        if _shared.k == 0 and not self.advance_draft_positions and not kwargs.get("dummy_run"):
            return self.draft_tokens[: input_batch.num_reqs]
        return propose(self, input_batch, *args, **kwargs)

    drafter._multi_step_decode, drafter.propose = multi_step_decode, proposed  # noqa: SLF001


def _count_graphs() -> None:
    """Counts the graph modes of the target's steps: these versions tell them to nobody."""
    utils: Any = importlib.import_module(f"{_RUNNER}.cudagraph_utils")
    original = utils.CudaGraphManager.dispatch
    target = getattr(utils, "ModelCudaGraphManager", None)

    def dispatch(self: Any, num_reqs: int, num_tokens: int, uniform_token_count: int | None, **kwargs: Any) -> Any:
        found = original(self, num_reqs, num_tokens, uniform_token_count, **kwargs)
        decode = uniform_token_count is not None and _shared.k is not None
        if decode and (target is None or isinstance(self, target)):
            _graphs[found.cg_mode.name] += 1
        return found

    utils.CudaGraphManager.dispatch = dispatch
