from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from testbed.deadline import wait_for
from testbed.programs import ProgramError, Supervised


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir()
    return made


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_programs_and_folder_go_when_it_is_closed(folder: Path) -> None:
    supervised = Supervised(folder, folder)
    pid = supervised.start("sleeper", ["sleep", "600"])
    assert _alive(pid)
    supervised.close()
    assert not _alive(pid)
    assert not folder.exists()
    supervised.close()


def test_program_that_ended_is_reported_with_its_last_words(folder: Path) -> None:
    supervised = Supervised(folder, folder)
    supervised.start("brief", [sys.executable, "-c", "import sys; print('no disk'); sys.exit(3)"])
    wait_for(supervised.ended, "its end", 10)
    with pytest.raises(ProgramError, match=r"brief ended with status 3:\nno disk"):
        supervised.check()
    supervised.close()


def test_mild_signal_lets_a_program_finish(folder: Path) -> None:
    supervised = Supervised(folder, folder)
    code = "import signal,sys,time; signal.signal(15, lambda *_: (print('bye'), sys.exit(0))); print('on', flush=True);"
    supervised.start("polite", [sys.executable, "-c", code + "time.sleep(600)"])
    wait_for(lambda: supervised.tail("polite"), "its start", 10)
    supervised.stop("polite", signal.SIGTERM)
    assert supervised.tail("polite").endswith("bye")
    assert supervised.ended() == {}
    supervised.close()


def test_program_that_is_not_there_is_an_error(folder: Path) -> None:
    supervised = Supervised(folder, folder)
    with pytest.raises(ProgramError, match="no-such-program"):
        supervised.start("missing", ["no-such-program"])
    supervised.close()
    with pytest.raises(ProgramError, match="closed"):
        supervised.ended()


def test_killed_supervisor_takes_its_programs_along(folder: Path) -> None:
    supervised = Supervised(folder, folder)
    pid = supervised.start("sleeper", ["sleep", "600"])
    os.kill(supervised._process.pid, signal.SIGKILL)
    wait_for(lambda: not _alive(pid), "the program's end", 10)
    with pytest.raises(ProgramError, match="died"):
        supervised.ended()
    supervised.close()
