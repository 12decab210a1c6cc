"""promtool, as built by the testbed, and expositions that hold every family."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.golang import PROMETHEUS, programs

# The first use on a machine builds Prometheus, within the first test that asks for promtool.
BUILD_SECONDS = 1800
Promtool = Callable[..., str]


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Run promtool; an AssertionError with its words where it finds fault."""
    program = programs(PROMETHEUS) / "promtool"

    def run(*arguments: str | Path, stdin: str | None = None) -> str:
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    return run
