from __future__ import annotations

from pathlib import Path

import pytest

from testbed.machine import Machine, MachineError


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        ("factory failed: inotify_init: too many open files", "fs.inotify.max_user_instances=512"),
        ("open /x: too many open files", ""),
        ("no space left", ""),
    ],
)
def test_a_host_that_has_too_few_watches_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, way_out: str
) -> None:
    machine = Machine(tmp_path, "n1", "group")
    machine.logs.mkdir(parents=True, exist_ok=True)
    (machine.logs / "kubelet.log").write_text(words)
    monkeypatch.setattr(machine, "programs", lambda: {"containerd": None, "kubelet": 1})
    with pytest.raises(MachineError) as raised:
        machine.check()
    assert f"kubelet on n1 ended with status 1:\n{words}" in str(raised.value)
    assert ("sysctl" in str(raised.value)) is bool(way_out)
    assert way_out in str(raised.value)
