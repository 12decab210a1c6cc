"""The sources' figures as they are bundled."""

from __future__ import annotations

import pytest

from gemmaspec.bench import prompts, published
from gemmaspec.core.bench import comparison, result
from gemmaspec.core.bench.result import Basis, Cell
from gemmaspec.core.bench.sweep import BadSweep


def cell(name: str, workload: str, k: int, concurrency: int = 1) -> Cell:
    (found,) = [
        entry
        for entry in published.load()[name].cells
        if (entry.workload, entry.concurrency, entry.k) == (workload, concurrency, k)
    ]
    return found


def test_what_was_published_and_what_is_derived_are_told_apart() -> None:
    found = cell("fp8-26b-sweep", "py_code", 4)
    assert found.speedup is not None
    assert found.tokens_per_second is not None
    assert (found.speedup.mean, found.basis_of("speedup")) == (1.75, Basis.PUBLISHED)
    assert found.tokens_per_second.mean == pytest.approx(600 / 8.66, abs=0.01)
    assert found.basis_of("tokensPerSecond") is Basis.DERIVED
    assert published.load()["fp8-26b-sweep"].source


def test_both_conventions_of_acceptance_become_one() -> None:
    without, held = cell("fp8-26b-sweep", "all", 4), cell("nvfp4-26b", "all", 4)
    assert (without.mean_accepted, without.basis_of("meanAccepted")) == (1.98, Basis.PUBLISHED)
    assert (held.mean_accepted, held.basis_of("meanAccepted")) == (2.68, Basis.DERIVED)
    # Shares of all drafts sum up to the mean; conditional rates multiply to the shares.
    assert pytest.approx(1.98, abs=0.01) == 0.722 * (1 + 0.7424 * (1 + 0.7687 * (1 + 0.75)))
    assert without.acceptance == [0.722, 0.7424, 0.7687, 0.75]
    assert without.basis_of("acceptance") is Basis.DERIVED


def test_every_published_result_is_whole_and_can_be_written() -> None:
    for name, found in published.load().items():
        assert found.cells, name
        assert found.source, name
        assert found.basis is Basis.PUBLISHED
        assert result.parse(result.text(found), name) == found


def test_two_results_side_by_side() -> None:
    load = published.load()
    pairs = comparison.compare(load["fp8-26b-sweep"], load["fp8-31b"])
    (pair,) = [p for p in pairs if (p.workload, p.k, p.figure) == ("py_code", 4, "speedup")]
    assert pair.ratio == pytest.approx(3.52 / 1.75)
    (alone,) = [p for p in pairs if (p.workload, p.k, p.figure) == ("py_code", 8, "speedup")]
    assert (alone.first.value, alone.second.value, alone.ratio) == (1.59, None, None)


def test_own_prompts_are_of_the_three_kinds_and_not_the_sources() -> None:
    found = {workload.name: workload for workload in prompts.own(600)}
    assert set(found) == {"ja_finance", "en_finance", "py_code"}
    assert all(workload.tokens == 600 for workload in found.values())
    assert not any(word in found["ja_finance"].text for word in ("YCC", "三菱"))
    assert not any(word in found["en_finance"].text for word in ("TGA", "RRP"))
    assert "yfinance" not in found["py_code"].text
    assert [workload.prompt_tokens for workload in prompts.depths()] == [2048, 6144, 10240]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([], "holds list; it takes a mapping"),
        ({}, "holds dict; it takes a mapping"),
        ({"": "x"}, "'' is no name"),
        ({"x" * 41: "x"}, "is no name; give each prompt one of at most 40"),
        ({"code": ""}, "code is ''; it takes a text"),
        ({"code": 7}, "code is '7'; it takes a text"),
    ],
)
def test_prompts_that_are_none(told: object, words: str) -> None:
    with pytest.raises(BadSweep, match=words):
        prompts.parse(told, 100, "file")


def test_prompts_of_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "prompts.yaml"
    with pytest.raises(BadSweep, match="can't be read"):
        prompts.from_file(str(file), 100)
    file.write_text("mine: Tell me.\n")
    (found,) = prompts.from_file(str(file), 100)
    assert (found.name, found.text, found.tokens) == ("mine", "Tell me.", 100)
    assert "mine (file, sha256 " in prompts.described([found], "file")
