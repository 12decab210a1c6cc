from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinypair import manifest
from tinypair.check import faults
from tinypair.serving import command


def report(**changes: Any) -> dict[str, Any]:
    row = {"k": 4, "kind": "prose", "accepted": [0.1, 0.01, 0.0, 0.0], "equal": 8, "texts": 8}
    return {"assistant": "assistant", "rows": [row | changes]}


def test_a_pair_as_wanted_has_no_faults() -> None:
    assert faults(report()) == []


@pytest.mark.parametrize("share", [0.0, 0.04, 0.16, 0.8])
def test_an_acceptance_outside_its_band_is_a_fault(share: float) -> None:
    (fault,) = faults(report(accepted=[share, 0.0, 0.0, 0.0]))
    assert f"acceptance {share} at position 0" in fault


def test_a_differing_text_is_a_fault() -> None:
    assert faults(report(equal=6)) == ["assistant K=4 prose: 2 texts differ from those of K=0"]


def test_without_speculation_there_is_no_acceptance_to_judge() -> None:
    assert faults(report(k=0, accepted=[])) == []


@pytest.mark.parametrize("k", [0, 4])
def test_the_command_line_names_a_drafter_only_with_speculation(k: int) -> None:
    line = command(Path("/opt/vllm"), 8000, k, "assistant-mixed")
    assert line[:3] == ["/opt/vllm/bin/python3", "-m", "vllm.entrypoints.openai.api_server"]
    speculative = [part for part in line if part.startswith("--speculative-config=")]
    assert len(speculative) == (1 if k else 0)
    if k:
        options = json.loads(speculative[0].partition("=")[2])
        assert options["num_speculative_tokens"] == k
        assert options["model"] == str(manifest.FOLDER / "assistant-mixed")
