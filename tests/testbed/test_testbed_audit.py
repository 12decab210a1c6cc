from __future__ import annotations

import json
from pathlib import Path

from testbed.audit import AuditLog


def _line(verb: str, resource: str, user: str = "operator", name: str = "x") -> str:
    return json.dumps(
        {
            "verb": verb,
            "user": {"username": user},
            "objectRef": {"resource": resource, "namespace": "ns", "name": name},
            "responseStatus": {"code": 200},
            "requestObject": {"metadata": {"name": name}},
        }
    )


def test_events_after_a_mark_by_property(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    assert log.events() == []
    log.path.write_text(_line("create", "pods") + "\n")
    mark = log.mark()
    with log.path.open("a") as handle:
        handle.write(_line("get", "pods") + "\n" + _line("patch", "pods", "kubelet") + "\n")
        handle.write(_line("patch", "services") + "\n")
    assert [event.verb for event in log.events()] == ["create", "get", "patch", "patch"]
    assert [event.resource for event in log.mutations(mark, user="operator")] == ["services"]
    assert log.events(mark, resource="pods", namespace="elsewhere") == []


def test_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    whole = _line("create", "pods") + "\n"
    log.path.write_text(whole + whole[:20])
    assert len(log.events()) == 1
    log.path.write_text(whole + whole)
    assert len(log.events()) == 2


def test_name_of_a_created_object_comes_from_its_body(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    raw = json.loads(_line("create", "pods", name="born"))
    del raw["objectRef"]["name"]
    log.path.write_text(json.dumps(raw) + "\n")
    assert log.events()[0].name == "born"


def test_mark_within_a_line_that_is_being_written_puts_it_before(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    whole = _line("create", "pods") + "\n"
    log.path.write_text(whole[:20])
    mark = log.mark()
    log.path.write_text(whole)
    assert log.events(mark) == []
    log.path.write_text(whole + whole)
    assert len(log.events(mark)) == 1
