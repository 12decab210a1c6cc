"""set-k: what it refuses before it asks a cluster, and how durations are read."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from gemmaspec.cli import duration
from gemmaspec.cli.main import app


@pytest.mark.parametrize(("text", "expected"), [("10m", 600), ("1h30m", 5400), ("90s", 90), (" 2h ", 7200)])
def test_durations(text: str, expected: int) -> None:
    assert duration.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "1.5h", "-5m", "30m1h", "10m later"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="10m, 1h30m or 90s"):
        duration.seconds(text)


@pytest.mark.parametrize(
    ("words", "field", "remedy"),
    [
        ([], "K", "--for 10m"),
        (["2"], "--for", "spec.speculative.k"),
        (["33", "--for", "10m"], "K", "0 to 32"),
        (["2", "--for", "soon"], "--for", "10m, 1h30m or 90s"),
        (["2", "--for", "5s"], "--for", "10s to 24h"),
        (["2", "--for", "25h"], "--for", "spec.speculative.k"),
        (["2", "--clear"], "--clear", "neither K nor --for"),
        (["--clear", "--for", "10m"], "--clear", "neither K nor --for"),
    ],
)
def test_wrong_input_is_refused_by_field_and_with_the_way_out(words: list[str], field: str, remedy: str) -> None:
    result = CliRunner().invoke(app, ["set-k", "a", *words, "--kubeconfig", "/nowhere"])
    assert result.exit_code == 1
    assert f"Error: {field}: " in result.stderr
    assert remedy in result.stderr
