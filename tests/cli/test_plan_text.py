"""What `gemmaspec plan` prints is read by kubectl, whose YAML knows other numbers than PyYAML's."""

from __future__ import annotations

import pytest
import yaml

from gemmaspec.cli.plans import Dumper


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
