"""The way to the cluster fails in words that help; without a cluster."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gemmaspec.cli.access import advice
from gemmaspec.cli.main import app


def kubeconfig(folder: Path, server: str) -> Path:
    file = folder / "kubeconfig"
    content = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


VERBS = (["status", "a"], ["history", "a"], ["top", "--once"], ["doctor"], ["set-k", "a", "2", "--for", "10m"])


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_nobody_answers(tmp_path: Path, verb: list[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        file = kubeconfig(tmp_path, f"http://127.0.0.1:{closed.getsockname()[1]}")
        result = CliRunner().invoke(app, [*verb, "--kubeconfig", str(file)])
    assert result.exit_code == 1
    assert "Does `kubectl cluster-info` answer" in result.stderr


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (None, []),
        ("", []),
        ("nothing: here", []),
        ("- a list", []),
        ("{not yaml", []),
        ("good", ["--context", "unheard-of"]),
    ],
)
def test_no_usable_kubeconfig(tmp_path: Path, text: str | None, options: list[str]) -> None:
    file = tmp_path / "kubeconfig"
    if text == "good":
        kubeconfig(tmp_path, "http://127.0.0.1:1")
    elif text is not None:
        file.write_text(text, encoding="utf-8")
    before = file.read_bytes() if file.exists() else None
    result = CliRunner().invoke(app, ["status", "a", "--kubeconfig", str(file), *options])
    assert result.exit_code == 1
    assert "kubectl config get-contexts" in result.stderr
    assert (file.read_bytes() if file.exists() else None) == before


@pytest.mark.parametrize("status", [0, 401, 403, 404, 500, 503])
def test_every_failure_keeps_its_words_and_adds_a_way_out(status: int) -> None:
    text = advice(status, "the words of the API server")
    assert "the words of the API server" in text
    assert len(text) > len("the words of the API server") + 20
