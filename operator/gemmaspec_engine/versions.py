"""Comparing versions of vLLM and transformers, as far as pins need it.

``packaging`` does this fully, but it is not in the standard library, and these files must run in any image.
"""

from __future__ import annotations

import re

__all__ = ["matches", "release", "valid_wish", "within"]

_VERSION = re.compile(
    r"v?(?P<release>\d+(?:\.\d+)*)(?P<pre>[._-]?(?:a|b|c|rc|alpha|beta|preview|pre)[._-]?\d*)?"
    r"(?P<post>[._-]?post[._-]?\d*)?(?P<dev>[._-]?dev[._-]?\d*)?(?:\+(?P<local>[a-z0-9._-]+))?",
    re.IGNORECASE,
)
_COMPARED = re.compile(r"(==|!=|>=|<=|>|<)\s*(.+)")


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version without trailing zeros: 0.32.0rc1+cpu → (0, 32).

    Pre-releases, development builds and build tags count as their release: a nightly of 0.32 behaves like 0.32
    for every rule here.  Raises ValueError for what is no version.
    """
    found = _VERSION.fullmatch(version.strip())
    if found is None:
        raise ValueError(f"{version!r} is not a version")
    numbers = [int(part) for part in found["release"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def within(version: str | None, first: str, fixed: str | None = None) -> bool:
    """first ≤ version < fixed, by release numbers; an unknown version is never within."""
    if version is None:
        return False
    try:
        found = release(version)
    except ValueError:
        return False
    return release(first) <= found and (fixed is None or found < release(fixed))


def matches(actual: str, wanted: str) -> bool:
    """Is ``actual`` what ``wanted`` asks for?

    ``wanted`` is one version ("0.21.0": pre-release tags must agree, a build tag like ``+cu130`` only if given)
    or a comma-separated list of comparisons (">=5.8,<5.15").  Raises ValueError when either cannot be read.
    """
    for wish in wanted.split(","):
        compared = _COMPARED.fullmatch(wish.strip())
        if compared is None or compared[1] == "==":
            fits = _same(actual, compared[2] if compared else wish)
        else:
            fits = _compare(release(actual), compared[1], release(compared[2]))
        if not fits:
            return False
    return True


def valid_wish(wanted: str) -> bool:
    """Can ``matches`` read this?"""
    try:
        matches("1", wanted)
    except ValueError:
        return False
    return True


def _same(actual: str, wanted: str) -> bool:
    if release(actual) != release(wanted):
        return False
    tags = [_VERSION.fullmatch(version.strip()) for version in (actual, wanted)]
    assert tags[0] is not None
    assert tags[1] is not None
    for part in ("pre", "post", "dev"):
        if (tags[0][part] or "").strip(".-_").lower() != (tags[1][part] or "").strip(".-_").lower():
            return False
    return not tags[1]["local"] or tags[0]["local"] == tags[1]["local"]


def _compare(left: tuple[int, ...], how: str, right: tuple[int, ...]) -> bool:
    return {
        "!=": left != right,
        ">=": left >= right,
        "<=": left <= right,
        ">": left > right,
        "<": left < right,
    }[how]
