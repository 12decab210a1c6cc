"""The table of all resources: a pure function of them, the time and the width."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from gemmaspec.cli.top import row, table
from gemmaspec.core import moment

NOW = moment.seconds("2026-11-22T12:10:30Z")
WORLD = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))
NEW = {"metadata": {"name": "a-new-one", "namespace": "llm"}, "spec": {}}


@pytest.mark.parametrize("width", [120, 80])
def test_the_table(golden: Callable[[str, str], None], width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(
        table([WORLD["resource"], NEW], NOW, width)
    )
    golden(f"cli-top-{width}.txt", "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n")


def test_a_stalled_resource_tells_why_it_is_stalled() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Serving"}
    stalled = {"type": "Stalled", "status": "True", "reason": "RolledBack"}
    found = row({**NEW, "status": {"conditions": [ready, stalled]}})
    assert (found["ready"], found["reason"]) == ("True", "RolledBack")


def test_what_is_not_known_is_none() -> None:
    found = row(NEW)
    assert {found[key] for key in ("ready", "kDesired", "kEffective", "acceptance", "tokensPerSecond")} == {None}
