"""Decisions on recorded observations: what is made cheaper must decide as before.

The recording holds the K of every step, so one decision that differs does not change what comes after it. After a
change that is meant to decide otherwise: ``python -m tests.engine.test_policy_recorded`` writes it anew.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from gemmaspec_engine.policy import Policy, make

RECORDED = Path(__file__).resolve().parents[1] / "data" / "policy-decisions.json"
GRID = (0, 1, 2, 4, 8)
STEPS = 1200
CASES = [(name, batch) for name in ("adaptive", "rollback") for batch in (1, 4, 16)]


def decisions(policy: Policy, batch: int, recorded: str = "") -> str:
    """One character a step: the index of its K. Observations are those of the recorded K, else of the chosen one."""
    dice = random.Random(100 + batch)
    ids, fresh, chosen = list(range(batch)), batch, []
    for step in range(STEPS):
        good = (step // 300) % 2 == 0
        if dice.random() < 0.02:
            ids[dice.randrange(batch)] = fresh = fresh + 1
        running = ids[: 1 + int(dice.random() * batch)] if dice.random() < 0.1 else ids
        requests = tuple(f"r{number}" for number in running)
        chosen.append(str(GRID.index(policy.choose(len(requests), requests))))
        k = GRID[int((recorded or chosen)[step])]
        lengths = [_length(dice, 0.85 if good else 0.2) for _ in requests]
        noise = 1.0 + 0.06 * (dice.random() - 0.5)
        step_ms = (8.0 + 1.2 * k + 0.3 * len(requests)) * noise if dice.random() < 0.95 else math.nan
        policy.observe(len(requests), k, [min(k, length) for length in lengths], step_ms, requests)
    return "".join(chosen)


def _length(dice: random.Random, rate: float) -> int:
    length = 0
    while length < max(GRID) and dice.random() < rate:
        length += 1
    return length


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_decides_as_recorded(name: str, batch: int) -> None:
    recorded = json.loads(RECORDED.read_text())[f"{name}, batch {batch}"]
    assert len(recorded) == STEPS
    assert decisions(make(name, k_max=max(GRID), ks=GRID), batch, recorded) == recorded


def test_the_recording_holds_decisions_worth_comparing() -> None:
    recorded = json.loads(RECORDED.read_text())
    assert all(len(set(recorded[f"adaptive, batch {batch}"])) >= 3 for batch in (1, 4, 16))
    assert len(set(recorded["rollback, batch 4"])) >= 2


if __name__ == "__main__":
    found = {f"{name}, batch {batch}": decisions(make(name, k_max=max(GRID), ks=GRID), batch) for name, batch in CASES}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")
