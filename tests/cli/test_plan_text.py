"""What `gemmaspec plan` prints is read by kubectl, whose YAML knows other numbers than PyYAML's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gemmaspec.cli.main import app
from gemmaspec.cli.plans import Dumper

SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "gemmaspec-tiny.yaml"


@pytest.mark.parametrize(
    "text", ["0764925533", "12e4567890", "1247000665", "1e5", "0x1f", "0o17", "1_000", "-1", "+1.5"]
)
def test_texts_that_look_like_numbers_are_quoted(text: str) -> None:
    assert yaml.dump({"a": text}, Dumper=Dumper) == f"a: '{text}'\n"


@pytest.mark.parametrize("text", ["971746g2", "tiny-cpu", "python3", "v1", "8 GiB", "sha256:1"])
def test_other_texts_are_not(text: str) -> None:
    assert yaml.dump({"a": text}, Dumper=Dumper) == f"a: {text}\n"


def test_many_lines_come_back_as_they_were() -> None:
    text = "# a file\nx = 'y'\n\n\tz: \"1\"\n"
    assert yaml.safe_load(yaml.dump({"a": text}, Dumper=Dumper)) == {"a": text}


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_programs_get_the_objects(form: str) -> None:
    done = CliRunner().invoke(app, ["plan", "-f", str(SAMPLE), "-o", form])
    assert done.exit_code == 0
    if form == "json":
        told = json.loads(done.stdout)
        assert (told["apiVersion"], told["kind"]) == ("v1", "List")
        found = told["items"]
    else:
        found = list(yaml.safe_load_all(done.stdout))
    assert {"Deployment", "Service", "ConfigMap"} <= {entry["kind"] for entry in found}
