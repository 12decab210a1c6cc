"""The termination message fits kubelet's limits whatever the engine said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec_engine.termination import LIMIT_BYTES, LastWords, encode, write


def test_it_is_one_line_of_json() -> None:
    encoded = encode(LastWords("launch", "EngineFailed", "ValueError: a\n  b", 1, 2, "Do this."))
    assert json.loads(encoded) == {
        "stage": "launch",
        "reason": "EngineFailed",
        "message": "ValueError: a b",
        "remedy": "Do this.",
        "exitCode": 1,
        "boots": 2,
    }
    assert b"\n" not in encoded


@given(st.text(max_size=4000), st.text(max_size=2000))
def test_it_never_exceeds_its_budget(message: str, remedy: str) -> None:
    encoded = encode(LastWords("launch", "FreeMemoryTooLow", message, 137, 4, remedy))
    assert len(encoded) <= LIMIT_BYTES
    assert json.loads(encoded.decode())["reason"] == "FreeMemoryTooLow"


def test_a_long_message_keeps_its_beginning_and_the_remedy() -> None:
    told = json.loads(encode(LastWords("launch", "X", "start " + "é\x01" * 3000, 1, 1, "Do this.")))
    assert told["message"].startswith("start ")
    assert told["message"].endswith("…")
    assert told["remedy"] == "Do this."


def test_a_lost_log_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEMMASPEC_TERMINATION_LOG", str(tmp_path / "no" / "such" / "file"))
    write(LastWords("launch", "X", "y", 1, 1))
    assert "cannot write" in capsys.readouterr().err
