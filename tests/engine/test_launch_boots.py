"""The boot record: what is counted, what is forgotten, and that doubt never means another boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemmaspec_engine import boots
from gemmaspec_engine.pin import BootPin

PIN = BootPin(healthy_seconds=600, backoff_seconds=20, backoff_max_seconds=600)


def failed(record: boots.Record, at: float = 0.0) -> boots.Record:
    return boots.end(boots.begin(record), boots.Ending("EngineFailed", "boom", 1, at), failed=True)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    assert boots.load(tmp_path) == boots.Record()
    record = failed(boots.Record(), at=12.5)
    boots.save(tmp_path, record)
    assert boots.load(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["boots.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"boots": "1", "failures": 0, "running": false, "last": null}',
        '{"boots": -1, "failures": 0, "running": false, "last": null}',
        '{"boots": 1, "failures": 0, "running": false, "last": {"reason": "x"}}',
        '{"boots": 1, "failures": 0, "running": false, "last": [1]}',
    ],
)
def test_a_damaged_record_allows_no_boot(tmp_path: Path, content: str) -> None:
    (tmp_path / "boots.json").write_text(content)
    assert boots.load(tmp_path).at_cap(max_restarts=3)


def test_an_unreadable_record_allows_no_boot(tmp_path: Path) -> None:
    (tmp_path / "boots.json").mkdir()
    assert boots.load(tmp_path).at_cap(max_restarts=3)


def test_the_cap_is_the_first_boot_and_the_restarts() -> None:
    record, started = boots.Record(), 0
    while not record.at_cap(max_restarts=3):
        record = failed(record)
        started += 1
    assert started == 4


def test_lasting_service_forgets_earlier_boots() -> None:
    record = boots.prove(boots.begin(failed(failed(boots.Record()))))
    assert record.running
    crashed = boots.end(record, boots.Ending("OutOfMemory", "boom", 1, 0), failed=True)
    assert not crashed.at_cap(max_restarts=0)
    assert boots.pause(crashed, PIN, now=0) == 20


def test_the_pause_doubles_up_to_its_limit() -> None:
    record, pauses = boots.Record(), []
    for _ in range(7):
        pauses.append(boots.pause(record, PIN, now=100.0))
        record = failed(record, at=100.0)
    assert pauses == [0, 20, 40, 80, 160, 320, 600]


def test_the_pause_counts_from_the_last_end_whatever_the_clock_does() -> None:
    record = failed(failed(boots.Record()), at=1000.0)
    assert boots.pause(record, PIN, now=1010.0) == 30
    assert boots.pause(record, PIN, now=1040.0) == 0
    assert boots.pause(record, PIN, now=0.0) == 40


def test_a_boot_without_an_end_has_failed() -> None:
    record = boots.notice_kill(boots.begin(boots.Record()), now=50.0)
    assert (record.running, record.failures, record.boots) == (False, 1, 1)
    assert record.last is not None
    assert record.last.reason == "Killed"
    assert boots.notice_kill(record, now=60.0) == record


def test_a_stop_on_request_is_no_failure() -> None:
    record = boots.end(boots.begin(failed(boots.Record())), boots.Ending("Stopped", "", 0, 9.0), failed=False)
    assert boots.pause(record, PIN, now=9.0) == 0
    assert record.boots == 2
