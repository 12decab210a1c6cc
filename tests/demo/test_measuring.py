"""The demo's own parts that need no cluster: streams of objects, differences of counters, the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo import figure, page, record
from demo.board import Board, Step, StepFailed
from demo.observer import accepted
from demo.record import Mark, Phase, Point, Record
from demo.resource import condition, merged, settled
from demo.screen import line, sparkline, summary
from demo.watch import objects
from gemmaspec.core.observation import Sample

pytestmark = pytest.mark.slow


def _sample(drafts: float, *positions: float) -> Sample:
    return Sample(
        time=drafts,
        drafts=drafts,
        draft_tokens=4 * drafts,
        accepted_tokens=sum(positions),
        accepted_per_position=positions,
        generation_tokens=drafts + sum(positions),
        requests_finished=0,
        step_seconds_sum=0,
        step_seconds_count=0,
        running=1,
    )


def _record() -> Record:
    """Ten seconds of good traffic at K=4, ten of bad, a restart of twenty, ten at K=0."""
    found = Record(100.0, machine={"cores": 2, "architecture": "x86_64", "kubernetes": "v1.36.3"})
    for second in range(50):
        text = "code" if second < 10 else "prose"
        k = 4 if second < 20 else 0
        serving = not 20 <= second < 40
        found.points.append(
            Point(
                time=100.0 + second,
                text=text,
                k=k,
                serving=serving,
                engine_k=k if serving else None,
                tokens_per_second=300.0 if serving else 0.0,
                accepted=([0.97, 0.9] if text == "code" else [0.1, 0.02]) if k and serving else [],
            )
        )
    found.marks.append(Mark(120.0, "decision", "the operator moves K 4 → 0"))
    for name, k, begun, tokens in (
        ("bad traffic, K as asked for", 4, 110.0, 1000),
        ("bad traffic, K lowered", 0, 140.0, 2000),
    ):
        found.phases.append(
            Phase(name=name, text="prose", k=k, begun=begun, ended=begun + 10, tokens=tokens, drafts=9 * k, accepted=[])
        )
    return found


def test_objects_come_out_of_a_stream_however_it_is_cut() -> None:
    text = json.dumps({"a": "ä→"}, ensure_ascii=False).encode() + b"\n" + json.dumps({"b": [1, {"c": 2}]}).encode()
    for size in (1, 2, 3, 7, len(text)):
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(objects(chunks)) == [{"a": "ä→"}, {"b": [1, {"c": 2}]}]


def test_an_object_is_told_before_the_stream_goes_on() -> None:
    stream = iter([b'{"a": 1}', b'{"b"'])
    assert next(objects(stream)) == {"a": 1}
    assert next(stream) == b'{"b"'


def test_acceptance_is_of_the_drafts_between_two_scrapes() -> None:
    assert accepted(_sample(100, 90, 80), _sample(300, 110, 85)) == (200, [0.1, 0.025])


def test_a_position_that_appears_later_counts_from_zero() -> None:
    assert accepted(_sample(0), _sample(10, 9, 3)) == (10, [0.9, 0.3])


def test_without_drafts_there_is_no_acceptance() -> None:
    assert accepted(_sample(100, 90), _sample(100, 90)) == (0, [])


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    _record().write(tmp_path / "demo.json")
    assert record.read(tmp_path / "demo.json").body() == _record().body()


def test_the_title_tells_what_was_measured() -> None:
    assert figure.title(_record()) == (
        "Acceptance fell, the operator moved K from 4 to 0: 100 → 200 tokens/s on the same traffic"
    )


def test_picture_and_page_are_whole_files(tmp_path: Path) -> None:
    figure.write(_record(), tmp_path)
    page.write(_record(), tmp_path)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "demo.html").read_text()
    assert "<svg" in text
    assert "the operator moves K 4 → 0" in text
    assert "http" not in text.split("<svg")[0], "the page must need nothing from elsewhere"


def test_nothing_measured_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no traffic"):
        figure.draw(Record(0.0))


def test_a_step_that_fails_says_which_and_why() -> None:
    board = Board([Step("first"), Step("second")])
    heard: list[str] = []
    board.heard = heard.append
    with pytest.raises(StepFailed, match="first: too late"), board.step("first"):
        raise TimeoutError("too late")
    assert [step.state for step in board.steps] == ["failed", "waiting"]
    assert heard == ["… first", "✗ first: too late"]


def test_a_line_tells_a_point() -> None:
    assert line(_record().points[0]) == "code traffic: 300 tok/s, K 4, accepted by position: 97% 90%"
    assert line(_record().points[25]) == (
        "prose traffic: 0 tok/s, K 0, accepted by position: no drafts, no engine serves"
    )


def test_a_sparkline_is_scaled_to_its_greatest_value() -> None:
    assert sparkline([0, 50, 100]) == "▁▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert len(sparkline(list(range(100)), width=40)) == 40


def test_the_summary_has_a_row_for_each_phase() -> None:
    assert summary(_record()).row_count == 2


def test_a_condition_of_an_earlier_generation_does_not_count() -> None:
    entry = {"type": "Ready", "status": "True", "reason": "Serving", "message": "", "observedGeneration": 1}
    quiet = {"type": "Reconciling", "status": "False", "reason": "Settled", "message": "", "observedGeneration": 1}
    body = {"metadata": {"generation": 1}, "status": {"conditions": [entry, quiet]}}
    assert settled(body)
    body["metadata"] = {"generation": 2}
    assert condition(body, "Ready") == {}
    assert not settled(body)


def test_changes_go_over_a_manifest_leaf_by_leaf() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": []}) == {"a": {"b": 1, "c": 3}, "d": []}
