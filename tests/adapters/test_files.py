"""What is delivered into the engine's pod is whole, small enough, and needs nothing but Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gemmaspec.adapters.files import ENTRIES, LIVE_ENTRIES, PACKAGE, SITE, engine_files
from gemmaspec.core.arguments import GUARD
from gemmaspec.core.pod import config_key
from gemmaspec_engine.leaving import MIDDLEWARE

FILES = engine_files()


def test_entries_are_there_and_nothing_that_only_the_operator_needs() -> None:
    assert {f"{PACKAGE}/__init__.py", f"{PACKAGE}/launch.py", f"{PACKAGE}/{SITE}"} <= set(FILES)
    assert list(FILES) == sorted(FILES)
    for text in FILES.values():
        assert not re.search(r"^\s*(from|import) gemmaspec(\.|\s|$)", text, re.MULTILINE)


def test_they_fit_into_a_config_map() -> None:
    assert sum(len(text.encode()) for text in FILES.values()) < 900_000
    keys = [config_key(path) for path in FILES]
    assert len(set(keys)) == len(keys), "two paths make one key"
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) for key in keys)


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_imports_from_the_delivered_files_alone(entry: str, tmp_path: Path) -> None:
    """A bare interpreter, without site-packages: what an entry needs at import is delivered or in the library."""
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-S", "-c", f"import {PACKAGE}.{entry}"],
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_one_entry_brings_only_what_it_needs() -> None:
    alone = engine_files(("finding",))
    assert f"{PACKAGE}/finding.py" in alone
    assert f"{PACKAGE}/launch.py" not in alone
    assert len(alone) < len(FILES)


def test_live_files_are_a_distribution_with_the_plug_in(tmp_path: Path) -> None:
    """What vLLM asks the interpreter for, in a bare one: the entry point is found, and what it names can be called."""
    for path, text in engine_files(LIVE_ENTRIES).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    code = (
        "from importlib.metadata import entry_points\n"
        "(found,) = entry_points(group='vllm.general_plugins')\n"
        "print(found.name, found.load().__name__)"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.split() == ["gemmaspec", "register"], ran.stderr
    assert not [path for path in FILES if "dist-info" in path], "only engines with the agent have it"


def test_what_the_command_line_names_is_delivered() -> None:
    """vLLM imports the middleware by name, which no import of ours tells."""
    for name in (GUARD, MIDDLEWARE):
        assert name.rsplit(".", 1)[0].replace(".", "/") + ".py" in engine_files()
