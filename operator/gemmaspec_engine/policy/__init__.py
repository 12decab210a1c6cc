"""K policies: which number of draft tokens pays, decided step by step.

One interface serves the simulator, the agent inside the engine and the operator:

>>> policy = make("fixed", k_max=4)
>>> policy.choose(1)
4
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .adaptive import Adaptive
from .base import Policy
from .reference import EmaTiers, Fixed, HfHeuristic, ThresholdOff, Ucb
from .rollback import Rollback

_POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (Fixed, Rollback, Adaptive, HfHeuristic, EmaTiers, ThresholdOff, Ucb)
}
NAMES: tuple[str, ...] = tuple(_POLICIES)
"""Names that `make` knows."""


def make(name: str, *, k_max: int, ks: Sequence[int] | None = None, **options: Any) -> Policy:
    """A fresh policy.

    Args:
        name: one of `NAMES`.
        k_max: largest K of the engine.
        ks: the K values that the engine has graphs for; default all of 0..k_max.
        options: settings of that policy, such as `k`, `k_min` or `prior`.

    Raises:
        ValueError: unknown name or option, or an argument out of range.
    """
    policy = _POLICIES.get(name)
    if policy is None:
        raise ValueError(f"unknown policy {name!r}; known: {', '.join(NAMES)}")
    try:
        return policy(k_max=k_max, ks=ks, **options)
    except TypeError as error:
        raise ValueError(f"policy {name!r} does not take these options: {error}") from error


__all__ = ["NAMES", "Policy", "make"]
