"""The order of revisions: which of them is the newest, and which records are kept."""

from __future__ import annotations

import pytest

from gemmaspec.core import names
from gemmaspec.core.observation import Child
from gemmaspec.core.trial import number


def child(revision: str, given: int | None, kind: str = "Deployment") -> Child:
    annotations = {} if given is None else {names.NUMBER_ANNOTATION: str(given)}
    metadata = {"labels": {names.REVISION_LABEL: revision}, "annotations": annotations}
    return Child(kind, f"tiny-{revision}", f"uid-{revision}", "1", "owner", {"metadata": metadata})


@pytest.mark.parametrize(
    ("known", "revision", "expected"),
    [
        ({}, "a", 1),
        ({"a": 1}, "a", 1),
        ({"a": 1}, "b", 2),
        ({"a": 1, "b": 2}, "a", 3),  # comes back: it is the newest
        ({"a": 3, "b": 2}, "a", 3),
        ({"a": None}, "a", 0),  # of an operator that numbered none: no write
        ({"a": None}, "b", 1),
        ({"a": None, "b": 1}, "a", 2),
        ({"a": 2, "b": 2}, "a", 3),
    ],
)
def test_a_revision_is_numbered_when_it_is_driven_to(
    known: dict[str, int | None], revision: str, expected: int
) -> None:
    children = [child(name, given) for name, given in known.items()]
    assert number([*children, child("x", 9, kind="ConfigMap")], revision) == expected
