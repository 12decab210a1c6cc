"""The runbook knows every reason of the code, and is the one that the code renders."""

from __future__ import annotations

import ast
import builtins
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gemmaspec.api.status import GemmaSpecDeployStatus
from gemmaspec.cli.conditions import CONDITIONS
from gemmaspec.cli.main import app
from gemmaspec.cli.reasons import GROUPS, REASONS, runbook

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *(ROOT / "operator/gemmaspec/core").rglob("*.py"),
    ROOT / "operator/gemmaspec/runtime/worker.py",  # the one of the runtime that gives reasons
    *(ROOT / "operator/gemmaspec_engine").rglob("*.py"),
]
# Words of the same shape that are no reasons: Kubernetes' kinds and words, conditions, the resource's own enumerations,
# exceptions and figures of other programs.
WORDS = set((ROOT / "tests" / "data" / "no_reasons.txt").read_text().split())


def _literals() -> dict[str, set[str]]:
    """Words in capitals that the code has as text, by the files that have them."""
    trees = {file: ast.parse(file.read_text()) for file in SOURCES}
    found: dict[str, set[str]] = {}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", text):
                found.setdefault(text, set()).add(str(file.relative_to(ROOT)))
    return found


def _exported() -> set[str]:
    """Names of classes, which modules list in ``__all__``."""
    trees = [ast.parse(file.read_text()) for file in SOURCES]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def test_every_reason_of_the_code_is_in_the_runbook() -> None:
    known = WORDS | set(REASONS) | _exported() | set(dir(builtins))
    missing = {word: sorted(files) for word, files in _literals().items() if word not in known}
    assert missing == {}, "add them to gemmaspec/cli/reasons.py, or to WORDS if they are no reasons"


def test_the_runbook_knows_no_reason_that_the_code_lacks() -> None:
    assert sorted(set(REASONS) - set(_literals())) == []


@pytest.mark.parametrize("entry", REASONS.values(), ids=lambda entry: entry.name)
def test_a_reason_says_what_it_means(entry: object) -> None:
    known = REASONS[entry.name]  # type: ignore[attr-defined]
    assert known.group in GROUPS
    assert known.meaning.endswith(".")
    assert len(known.meaning) > 20
    assert known.group == GROUPS[0] or known.remedy or not known.name.endswith(("Failed", "Mismatch", "Missing"))


def test_the_committed_runbook_is_fresh() -> None:
    assert (ROOT / "docs" / "runbook.md").read_text() == runbook(), "run `make generate`"


def test_explain_prints_a_reason_in_any_case_and_as_json() -> None:
    said = CliRunner().invoke(app, ["explain", "draftrejected"])
    assert said.exit_code == 0
    assert "DraftRejected" in said.output
    body = json.loads(CliRunner().invoke(app, ["explain", "DraftRejected", "-o", "json"]).output)
    assert body["remedy"] == REASONS["DraftRejected"].remedy


def test_explain_offers_what_is_near_to_an_unknown_reason() -> None:
    said = CliRunner().invoke(app, ["explain", "DraftReject"])
    assert said.exit_code == 2
    assert "DraftRejected" in said.output


def test_explain_knows_every_condition() -> None:
    promised = GemmaSpecDeployStatus.model_fields["conditions"].description or ""
    assert set(CONDITIONS) == set(promised.rstrip(".").split(", "))
    for name, entry in CONDITIONS.items():
        said = CliRunner().invoke(app, ["explain", name.upper()])
        assert said.exit_code == 0
        assert f"condition; {entry.well} when all is well" in said.output
    body = json.loads(CliRunner().invoke(app, ["explain", "RolledBack", "-o", "json"]).output)
    assert set(body) == {"condition", "reason"}, "it is both"


def test_explain_sends_alerts_to_their_page() -> None:
    said = CliRunner().invoke(app, ["explain", "GemmaSpecOperatorBlind"])
    assert said.exit_code == 2
    assert "docs/alerts.md" in said.output
