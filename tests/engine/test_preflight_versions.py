"""Versions are compared as pins need it."""

from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from gemmaspec_engine.versions import matches, release, valid_wish, within


@pytest.mark.parametrize(
    ("actual", "wanted", "fits"),
    [
        ("0.32.0", "0.32.0", True),
        ("0.32.0", "0.32", True),
        ("0.32.0+cpu", "0.32.0", True),
        ("0.32.0+cpu", "0.32.0+cu130", False),
        ("0.32.0", "0.32.0+cpu", False),
        ("0.32.0rc1", "0.32.0", False),
        ("0.32.0rc1", "0.32.0.rc1", True),
        ("0.21.1rc0.dev33+gd8b38266", "0.21.1rc0.dev33", True),
        ("5.8.0.dev0", "5.8.0", False),
        ("5.8.0.dev0", ">=5.8", True),
        ("5.14.1", ">=5.8,<5.15", True),
        ("5.15.0", ">=5.8,<5.15", False),
        ("5.15.0", ">5.15", False),
        ("5.15.0", "<=5.15", True),
        ("5.15.0", "!=5.15", False),
        ("5.15.0", "== 5.15", True),
    ],
)
def test_matches(actual: str, wanted: str, fits: bool) -> None:
    assert matches(actual, wanted) is fits


def test_finished_releases_agree_with_packaging() -> None:
    versions = ["0.9", "0.10", "0.21.0", "0.21.1", "0.32", "1.0", "5.8.0", "5.15"]
    for actual in versions:
        for other in versions:
            for how in ("==", "!=", ">=", "<=", ">", "<"):
                wanted = f"{how}{other}"
                assert matches(actual, wanted) == SpecifierSet(wanted).contains(Version(actual)), (actual, wanted)


@pytest.mark.parametrize("wanted", ["", "main", ">=", "5.x", ">=5.8;<6", "5.8 5.9"])
def test_what_is_no_wish(wanted: str) -> None:
    assert not valid_wish(wanted)


def test_release_numbers() -> None:
    assert release("v0.32.0rc1+cpu") == (0, 32)
    assert release("0.25.1.post2") == (0, 25, 1)
    with pytest.raises(ValueError, match="not a version"):
        release("dev")


def test_ranges() -> None:
    assert within("0.25.0", "0.25.0", "0.27.1")
    assert within("0.27.0", "0.25.0", "0.27.1")
    assert not within("0.27.1", "0.25.0", "0.27.1")
    assert not within("0.24.9", "0.25.0", "0.27.1")
    assert within("9", "0.32")
    assert not within(None, "0")
    assert not within("nightly", "0")
