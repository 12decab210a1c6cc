"""Which K values an engine is started with, so that each of them has its CUDA graphs.

vLLM captures a verification graph for the K values that its start schedule names for some batch size within
1..max_num_seqs, and for no other: the schedule here is a list of the grid, not a policy.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["capture_sizes", "fit", "schedule_for"]

FINE_BATCHES = 8
"""Up to this many sequences every batch size gets graphs of its own; above, every fourth: a step is padded to
the next captured size, and three idle rows more than one in four cost a memory-bound decode step nothing."""
COARSE_STEP = 4


def fit(grid: Sequence[int], max_num_seqs: int) -> tuple[int, ...]:
    """The values of ``grid`` that a schedule for ``max_num_seqs`` sequences can name: one per sequence.

    Where there are too many, the smallest and the largest stay and the rest thins out geometrically, because a
    deeper draft position is the less likely to be reached: 0..4 for four sequences becomes 0, 1, 2, 4.

    Raises:
        ValueError: no or a negative K, only zeros, or no sequence.
    """
    values = sorted(set(grid))
    if not values or values[0] < 0 or values[-1] < 1:
        raise ValueError(f"the grid must name K values from 0 up, one of them above 0, got {list(grid)}")
    if max_num_seqs < 1:
        raise ValueError(f"max_num_seqs must be at least 1, got {max_num_seqs}")
    if len(values) <= max_num_seqs:
        return tuple(values)
    chosen = {values[-1]}
    if max_num_seqs > 1:
        chosen.add(values[0])
    inner = [value for value in values if value not in chosen and value > 0]
    wanted = max_num_seqs - len(chosen)
    low, high = (inner[0] if inner else 1), values[-1]
    for i in range(wanted):
        aim = low * (high / low) ** (i / max(wanted, 1))
        left = [value for value in inner if value not in chosen]
        if left:
            chosen.add(min(left, key=lambda value: (abs(value - aim), value)))
    return tuple(sorted(chosen))


def schedule_for(grid: Sequence[int], max_num_seqs: int) -> list[list[int]]:
    """Value of ``num_speculative_tokens_per_batch_size``: inclusive ranges [first, last, K] that cover 1..max_num_seqs.

    Every value of `fit` stands in it once. Larger K come first, at the small batches: should the agent not run,
    that is the order in which they make sense.

    Raises:
        ValueError: as `fit`.
    """
    values = fit(grid, max_num_seqs)[::-1]
    share, rest = divmod(max_num_seqs, len(values))
    schedule, first = [], 1
    for i, k in enumerate(values):
        last = first + share - 1 + (1 if i >= len(values) - rest else 0)
        schedule.append([first, last, k])
        first = last + 1
    return schedule


def capture_sizes(grid: Sequence[int], max_num_seqs: int) -> list[int]:
    """Value of ``cudagraph_capture_sizes``: tokens of every uniform decode step, batch × (K + 1).

    vLLM's own default gives each K only the batch sizes that the schedule pairs it with.

    Raises:
        ValueError: as `fit`.
    """
    batches = [*range(1, min(FINE_BATCHES, max_num_seqs) + 1)]
    batches += [*range(FINE_BATCHES + COARSE_STEP, max_num_seqs, COARSE_STEP), max_num_seqs]
    return sorted({batch * (k + 1) for k in fit(grid, max_num_seqs) for batch in batches})
