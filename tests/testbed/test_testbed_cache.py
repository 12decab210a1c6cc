from __future__ import annotations

import threading
from pathlib import Path

import pytest

from testbed.cache import ROOT_VARIABLE, built, cache_root, digest_of, first_free


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def test_root_follows_the_variable_then_the_users_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == root
    monkeypatch.delenv(ROOT_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_root() == Path("/elsewhere/gemmaspec")


def test_digest_tells_where_a_part_ends() -> None:
    assert digest_of(["ab", "c"]) != digest_of(["a", "bc"])
    assert digest_of(["ab"]) == digest_of([b"ab"])


def test_failed_build_leaves_nothing_that_looks_like_a_result() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        built("thing", "1", fail)
    home = built("thing", "1", lambda folder: (folder / "whole").touch())
    assert [path.name for path in home.iterdir()] == ["whole"]


def test_first_free_name_is_held_until_the_end(root: Path) -> None:
    with first_free(root, ["a", "b"]) as first:
        with first_free(root, ["a", "b"]) as second:
            assert (first, second) == ("a", "b")
            with pytest.raises(RuntimeError, match="every name"), first_free(root, ["a", "b"]):
                pass
        with first_free(root, ["a", "b"]) as third:
            assert third == "b"


def test_two_builders_build_once() -> None:
    count: list[int] = []
    inside = threading.Event()
    go_on = threading.Event()

    def build(folder: Path) -> None:
        count.append(1)
        inside.set()
        assert go_on.wait(10)

    first = threading.Thread(target=built, args=("thing", "2", build))
    second = threading.Thread(target=built, args=("thing", "2", build))
    first.start()
    assert inside.wait(10)
    second.start()
    go_on.set()
    first.join(10)
    second.join(10)
    assert count == [1]
