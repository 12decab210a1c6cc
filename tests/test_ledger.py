"""What a campaign keeps between its parts."""

from __future__ import annotations

from pathlib import Path

from tests.ledger import Ledger, digest


def test_a_part_begins_where_the_one_before_stopped(tmp_path: Path) -> None:
    file, about = tmp_path / "out" / "ledger", {"sources": "abc"}
    Ledger(file, about).add({"one": 1})
    Ledger(file, about).add({"two": [2]})
    assert Ledger(file, about).entries == [{"one": 1}, {"two": [2]}]


def test_results_of_other_sources_are_not_put_together(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    Ledger(file, {"sources": "abc"}).add({"one": 1})
    assert Ledger(file, {"sources": "def"}).entries == []
    assert Ledger(file, {"sources": "def"}).entries == []


def test_a_digest_tells_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = digest([tmp_path])
    (tmp_path / "b.txt").write_text("not a source")
    assert digest([tmp_path]) == before
    (tmp_path / "c.yaml").write_text("1")
    assert digest([tmp_path]) != before
