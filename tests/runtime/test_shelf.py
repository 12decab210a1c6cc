"""What is known of objects, by resource, from lists and from events that may come late."""

from __future__ import annotations

from gemmaspec.runtime.handlers import ANY, KINDS, unlisted
from gemmaspec.runtime.shelf import MOST_LOST, Shelf

ONE, TWO = ("ns", "one"), ("ns", "two")


def test_the_newest_is_kept_and_what_is_gone_is_not() -> None:
    shelf: Shelf[str] = Shelf()
    assert shelf.put(ONE, "u1", 5, "old")
    assert shelf.put(ONE, "u2", 6, "other")
    assert shelf.put(ONE, "u1", 7, "new")
    assert sorted(shelf[ONE]) == ["new", "other"]
    assert not shelf.put(ONE, "u1", 6, "late"), "its list overtook the event"
    assert shelf.put(ONE, "u1", 7, "again")
    assert sorted(shelf.get(ONE, ())) == ["again", "other"]
    shelf.remove("u1")
    shelf.remove("u2")
    shelf.remove("u3")
    assert (list(shelf), len(shelf), shelf.get(ONE, ())) == ([], 0, ())


def test_what_a_list_lacked_is_not_brought_back_by_an_event_of_before() -> None:
    shelf: Shelf[str] = Shelf()
    shelf.put(ONE, "u1", 5, "known")
    shelf.lose("u1")
    shelf.lose("never seen")
    assert ONE not in shelf
    assert not shelf.put(ONE, "u1", 4, "late")
    assert shelf.put(ONE, "u1", 6, "the list was an old one")
    assert list(shelf[ONE]) == ["the list was an old one"]


def test_what_is_lost_is_not_remembered_for_ever() -> None:
    shelf: Shelf[str] = Shelf()
    for number in range(MOST_LOST + 10):
        shelf.put(ONE, f"u{number}", 5, "one")
        shelf.lose(f"u{number}")
    assert (len(shelf), len(shelf._lost)) == (0, MOST_LOST)


def test_an_object_that_changes_its_owner_moves() -> None:
    shelf: Shelf[str] = Shelf()
    shelf.put(ONE, "u1", 5, "mine")
    shelf.put(TWO, "u1", 6, "yours")
    assert {key: list(kept) for key, kept in shelf.items()} == {TWO: ["yours"]}


def test_what_must_be_listed_before_anything_is_decided() -> None:
    assert unlisted(()) == {(plural, "") for plural in KINDS}
    assert unlisted(("team-a", "b2")) == {(plural, name) for plural in KINDS for name in ("team-a", "b2")}
    assert unlisted(("team-*",)) == {(plural, ANY) for plural in KINDS}
