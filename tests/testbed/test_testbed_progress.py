"""A long step says that it begins, that it goes on, and how it ended."""

from __future__ import annotations

import time

import pytest

from testbed.progress import step


def test_a_long_step_says_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with step("building", every=0.02):
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "testbed: building ..."
    assert "so far" in said[1]
    assert "done in" in said[-1]


def test_a_failed_step_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), step("building", every=0.02):
        raise RuntimeError
    assert "done" not in capsys.readouterr().err
