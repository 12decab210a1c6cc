"""The table of vLLM versions against what the matrix measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemmaspec_engine import compat
from gemmaspec_engine.versions import release

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "live-k-matrix.json"


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(MEASURED.read_text())
    return found


@pytest.mark.parametrize("entry", compat.RELEASES, ids=lambda entry: entry.version)
def test_every_release_passed_every_scenario(measured: dict[str, Any], entry: compat.Release) -> None:
    row = next(row for row in measured["rows"] if row["version"] == entry.version)
    assert set(row["results"]) == {"sync", "async", "async, V2 runner", "plug-in"}
    said = {outcome for results in row["results"].values() for outcome in results.values()}
    assert said == {"passed"}
    assert row["passed"] is True


def test_the_table_is_in_order_and_reaches_the_newest(measured: dict[str, Any]) -> None:
    versions = [release(entry.version) for entry in compat.RELEASES]
    assert versions == sorted(set(versions))
    assert compat.find(measured["newest"]) is not None
    assert len(measured["scenarios"]) >= 7


def test_find_ignores_build_tags() -> None:
    found = compat.find("0.26.0+cu130")
    assert found is not None
    assert found.patches == (compat.CAPTURE, compat.DRAFTER)
    assert compat.find("0.99.0") is None
    assert compat.find("nonsense") is None
    assert compat.find(None) is None


def test_auto_wants_a_whole_engine_on_that_device() -> None:
    assert compat.tested("0.32.0", "cpu")
    assert not compat.tested("0.32.0", "NVIDIA GB10")
    assert not compat.tested("0.99.0", "cpu")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"version": "0.99.0"}, "0.99.0"),
        ({"version": None}, "None"),
        ({"tensor": 2}, "tensor-parallel size 2"),
        ({"pipeline": 4}, "pipeline-parallel size 4"),
        ({"data": 2}, "2 data-parallel ranks"),
        ({"version": "0.28.0", "v2": True}, "V2 model runner"),
        ({"positions": 0}, "without speculation"),
        ({"scheduled": False}, "without a K schedule"),
    ],
)
def test_refusals_say_what_to_do(facts: dict[str, Any], words: str) -> None:
    said = compat.refusal(facts.pop("version", "0.32.0"), **facts)
    assert words in said
    assert "\n" not in said


def test_no_refusal() -> None:
    assert compat.refusal("0.32.0", v2=True) == ""
    assert compat.refusal("0.28.0") == ""
