"""What kubectl is told when it completes the plugin's words; without a cluster."""

from __future__ import annotations

import sys

import pytest

from gemmaspec.cli import completion


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["do"], ["doctor", ":4"]),
        (["top", "--on"], ["--once", ":4"]),
        (["explain", "RolledB"], ["RolledBack", ":4"]),
        (["recipes", "tiny"], ["tiny-cpu", ":4"]),
        (["status", ""], [":4"]),  # no cluster answers
    ],
)
def test_candidates(
    words: list[str],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-gemmaspec", *words])
    for name in ("_GEMMASPEC_COMPLETE", "COMP_WORDS", "COMP_CWORD"):
        monkeypatch.setenv(name, "")  # set back after the test
    monkeypatch.setattr(completion, "Access", lambda *_: Nobody())
    with pytest.raises(SystemExit) as ended:
        completion.kubectl()
    assert ended.value.code == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line] == told


class Nobody:
    """A fake way to a cluster that does not answer."""

    async def answer(self, question: object) -> list[str]:
        raise completion.Unanswered("nobody")
