"""Labels, annotations and taints as the API server takes them, told of the field of ours that holds them.

The rules are those of k8s.io/apimachinery/pkg/util/validation (IsQualifiedName, IsValidLabelValue). The schema can't
hold them: a map's keys have no pattern there. Without them the API server refuses the child, in words about the child.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gemmaspec.api.spec import GemmaSpecDeploySpec
from gemmaspec.core.problem import Problem

_NAME: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_PREFIX: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_KEY_SAYS: Final = "is no name of a label; take letters, digits, '-', '_' and '.', at most 63, after a 'domain/' if any"
_VALUE_SAYS: Final = (
    "is no value of a label; take letters, digits, '-', '_' and '.', beginning and ending with the former"
)
_MOST_NAME, _MOST_PREFIX = 63, 253


def problems(spec: GemmaSpecDeploySpec) -> Iterator[Problem]:
    """Every label, annotation or taint that the API server would refuse."""
    nodes, service = spec.nodes, spec.service
    yield from _map("spec.nodes.selector", (nodes.selector if nodes else None) or {})
    for i, taint in enumerate((nodes.tolerations if nodes else None) or ()):
        path = f"spec.nodes.tolerations[{i}]"
        yield from _keys(f"{path}.key", [taint.key] if taint.key else ())
        yield from _values(f"{path}.value", [taint.value or ""])
    yield from _map("spec.service.labels", service.labels or {})
    yield from _keys("spec.service.annotations", service.annotations or {})


def _map(path: str, given: Mapping[str, str]) -> Iterator[Problem]:
    yield from _keys(path, given)
    yield from _values(path, given.values())


def _keys(path: str, given: Iterable[str]) -> Iterator[Problem]:
    return (Problem("InvalidSpec", path, f"{key!r} {_KEY_SAYS}") for key in sorted(given) if not _qualified(key))


def _values(path: str, given: Iterable[str]) -> Iterator[Problem]:
    wrong = (value for value in sorted(given) if value and not (_NAME.fullmatch(value) and len(value) <= _MOST_NAME))
    return (Problem("InvalidSpec", path, f"{value!r} {_VALUE_SAYS}") for value in wrong)


def _qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    named = bool(_NAME.fullmatch(name)) and len(name) <= _MOST_NAME
    return named and (not slash or (bool(_PREFIX.fullmatch(prefix)) and len(prefix) <= _MOST_PREFIX))
