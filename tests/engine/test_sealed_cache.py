"""Preflight reads configs and weights from a cache that nothing may be added to, with the real hub client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "a" * 40
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
ASK = """
import json, sys
from gemmaspec_engine.probe import config_of, weight_bytes
model, revision = sys.argv[1], sys.argv[2] or None
try:
    print(json.dumps([config_of(model, revision)["model_type"], weight_bytes(model, revision)]))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A cache with one model, as `hf download` leaves it."""
    model = tmp_path / "hub" / "models--acme--gemma"
    snapshot = model / "snapshots" / COMMIT
    blobs = model / "blobs"
    for folder in (snapshot, blobs, model / "refs"):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    contents = {
        "config.json": b'{"model_type": "gemma4"}',
        "model.safetensors": len(HEADER).to_bytes(8, "little") + HEADER + bytes(16),
    }
    for name, content in contents.items():
        (blobs / name).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    return tmp_path


def ask(home: Path, model: str, revision: str = "") -> list[object]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator"), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ASK, model, revision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("revision", ["", "main", COMMIT])
def test_what_the_image_holds_is_read_and_nothing_is_written(sealed: Path, revision: str) -> None:
    before = sorted(sealed.rglob("*"))
    assert ask(sealed, "acme/gemma", revision) == ["gemma4", 16]
    assert sorted(sealed.rglob("*")) == before


@pytest.mark.parametrize(("model", "revision"), [("acme/other", ""), ("acme/gemma", "b" * 40)])
def test_what_the_image_lacks_is_a_lasting_failure(sealed: Path, model: str, revision: str) -> None:
    kind, said = ask(sealed, model, revision)
    assert kind == "FileNotFoundError"  # which the verdict takes for ModelNotFound, not to be tried again
    where = f"{model}@{revision}" if revision else model
    assert str(said).startswith(f"{where} is not in {sealed}/hub")
