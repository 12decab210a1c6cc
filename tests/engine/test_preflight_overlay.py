"""The transformers overlay: what is asked for, what is still missing, and how an installer's failure reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemmaspec_engine import overlay
from gemmaspec_engine.pin import TransformersPin, parse

COMMIT = "d8b3826648da6b407f8c55457a2103be9aeb5d83"


def wanted(version: str | None = None, git: str | None = None, place: str = "/overlay") -> TransformersPin:
    fields: dict[str, object] = {"mode": "Install", "overlayDir": place}
    if version:
        fields["version"] = version
    if git:
        fields["git"] = {"url": git, "commit": COMMIT}
    pin = parse(json.dumps({"files": {"a": "0" * 64}, "stateDir": "/x", "transformers": fields})).transformers
    assert pin is not None
    return pin


@pytest.mark.parametrize(
    ("version", "git", "has_git", "asked"),
    [
        ("5.8.0", None, True, "transformers==5.8.0"),
        (">=5.8,<5.15", None, True, "transformers>=5.8,<5.15"),
        (None, "https://github.com/h/t", True, f"transformers @ git+https://github.com/h/t@{COMMIT}"),
        (None, "https://github.com/h/t.git", False, f"transformers @ https://github.com/h/t/archive/{COMMIT}.zip"),
        (None, "https://git.example/h/t", False, f"transformers @ git+https://git.example/h/t@{COMMIT}"),
    ],
)
def test_what_is_asked_for(version: str | None, git: str | None, has_git: bool, asked: str) -> None:
    assert overlay.requirement(wanted(version, git), has_git) == asked


def package(place: Path, name: str, version: str, *requires: str) -> None:
    folder = place / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def test_only_what_the_image_lacks_is_missing(tmp_path: Path) -> None:
    package(
        tmp_path,
        "transformers",
        "5.8.0",
        "pytest>=1",
        "packaging<1",
        "no-such-package>=2,<3",
        "torch ; extra == 'torch'",
        "colorama ; sys_platform == 'win32'",
        "fakehub>=2",
    )
    package(tmp_path, "fakehub", "2.1")
    assert overlay.unmet(tmp_path) == ["no-such-package<3,>=2", "packaging<1"]


def test_nothing_to_install() -> None:
    assert overlay.install(None, 1) == []
    assert overlay.install(TransformersPin("Verify", "5.8.0", None, None, None), 1) == []


def test_a_finished_overlay_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(overlay, "_run", lambda place, wishes, deadline: ran.append(wishes))
    for _ in range(2):
        assert overlay.install(wanted("5.8.0", place=str(tmp_path)), 1) == []
    assert ran == [["transformers==5.8.0"]]
    assert overlay.install(wanted("5.9.0", place=str(tmp_path)), 1) == []
    assert len(ran) == 2


def test_vllm_and_torch_are_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_run(place: Path, wishes: list[str], deadline: float) -> None:
        package(place, "transformers", "9.0", "torch>=99")

    monkeypatch.setattr(overlay, "_run", fake_run)
    (found,) = overlay.install(wanted("9.0", place=str(tmp_path)), 1)
    assert (found.reason, found.deterministic) == ("TransformersUnfit", True)
    assert "torch>=99" in found.message


@pytest.mark.parametrize(
    ("said", "reason", "deterministic"),
    [
        (
            (
                "ERROR: Could not find a version that satisfies transformers==9 (from versions: 4.0, 5.0)\n"
                "ERROR: No matching distribution found for transformers==9"
            ),
            "TransformersVersionMissing",
            True,
        ),
        (
            (
                "WARNING: Retrying (Retry(total=0)) after connection broken\n"
                "ERROR: Could not find a version that satisfies the requirement transformers==5 (from versions: none)"
            ),
            "TransformersUnfetched",
            False,
        ),
        (
            (
                "  × No solution found when resolving dependencies:\n"
                "  ╰─▶ Because there is no version of transformers==9 and you require transformers==9"
            ),
            "TransformersVersionMissing",
            True,
        ),
        ("error: Failed to fetch: https://index/simple", "TransformersUnfetched", False),
        ("", "TransformersUnfetched", False),
    ],
)
def test_how_a_failure_reads(said: str, reason: str, deterministic: bool) -> None:
    error = overlay._explained(said)
    assert (error.reason, error.deterministic) == (reason, deterministic)
    assert str(error)
