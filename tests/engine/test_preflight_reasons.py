"""Every reason that the engine's files can give is explained in docs/preflight.md."""

from __future__ import annotations

import re
from pathlib import Path

import gemmaspec_engine

SOURCE = Path(gemmaspec_engine.__file__).resolve().parent
DOCUMENT = SOURCE.parents[1] / "docs" / "preflight.md"
GIVEN = re.compile(
    r'(?:Finding|Failure|Diagnosis|Refused|MountError|InstallError|Explanation|_Rule|Ending|_words|_answer|_explained)\(\s*"([A-Z]\w+)"'
)
MODULES = [
    "boots",
    "explanations",
    "fingerprint",
    "knownbad",
    "launch",
    "modelfit",
    "mount",
    "overlay",
    "patches",
    "preflight",
    "rootcause",
    "verdict",
    "weights",
]


def given() -> set[str]:
    return {reason for module in MODULES for reason in GIVEN.findall((SOURCE / f"{module}.py").read_text())}


def test_every_reason_is_explained() -> None:
    explained = set(re.findall(r"\b[A-Z][A-Za-z0-9]+\b", DOCUMENT.read_text()))
    found = given()
    assert len(found) > 50
    assert found - explained == set()
