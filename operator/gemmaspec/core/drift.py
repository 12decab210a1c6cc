"""Drift: how an observed child differs from the planned one.

Server-side apply restores what we set, but keeps what others added: an environment variable added by
``kubectl set env`` stays. Fields that another manager owns inside ``spec`` are therefore found in
``managedFields`` and removed by a strategic-merge patch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Path = tuple[str, ...]

# Who may own fields of a child's spec beside us: nobody. (Status and the scale of a Deployment are subresources
# with entries of their own; `kubectl scale` writes spec.replicas, which the comparison of values repairs.)
_OURS = "gemmaspec"
# Lists of objects below a pod template merge by these keys; other lists are replaced as a whole.
_MERGE_KEYS = ("name", "containerPort", "mountPath", "key", "ip", "topologyKey", "port", "uid", "devicePath")


def foreign_paths(managed_fields: Iterable[Mapping[str, Any]]) -> tuple[Path, ...]:
    """Paths below ``spec`` or ``data`` that managers other than us own, in managedFields' own notation."""
    found: set[Path] = set()
    for entry in managed_fields:
        if entry.get("manager") == _OURS or entry.get("subresource"):
            continue
        fields = entry.get("fieldsV1", {})
        for root in ("f:spec", "f:data"):
            if root in fields:
                found.update(_leaves(fields[root], (root,)))
    return tuple(sorted(found))


def _leaves(node: Mapping[str, Any], path: Path) -> Iterable[Path]:
    if not node:
        yield path
        return
    item = "." in node and path[-1].startswith(("k:", "v:"))
    if item:
        yield path  # the whole list item was added by that manager
        return
    for key, child in node.items():
        if key != ".":
            yield from _leaves(child, (*path, key))


def differs(planned: Any, observed: Any) -> bool:
    """Whether ``observed`` lacks or contradicts anything planned. Defaults added by the API server don't count."""
    if isinstance(planned, Mapping):
        if not isinstance(observed, Mapping):
            return bool(planned)
        return any(differs(value, observed.get(key)) for key, value in planned.items())
    if isinstance(planned, list):
        if not isinstance(observed, list) or len(planned) != len(observed):
            return bool(planned) or bool(observed)
        return any(differs(ours, theirs) for ours, theirs in zip(planned, observed, strict=True))
    return bool(planned != observed) and not _same_quantity(planned, observed)


def _same_quantity(planned: Any, observed: Any) -> bool:
    """``1000m`` and ``1`` are one quantity; the API server stores the canonical form of what a CRD-less type holds."""
    if not isinstance(planned, str) or not isinstance(observed, str):
        return False
    ours, theirs = _quantity(planned), _quantity(observed)
    return ours is not None and ours == theirs


_SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _quantity(text: str) -> float | None:
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            number = text.removesuffix(suffix)
            return float(number) * _SUFFIXES[suffix] if _numeric(number) else None
    return float(text) if _numeric(text) else None


def _numeric(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def removal_patch(planned: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any] | None:
    """Strategic-merge patch that removes the foreign ``paths`` which the plan does not hold itself.

    None where nothing is to be removed: a path that the plan sets as well is restored by applying the plan.
    """
    patch: dict[str, Any] = {}
    for path in paths:
        _remove(patch, planned, path)
    return patch or None


def _remove(patch: dict[str, Any], planned: Any, path: Path) -> None:
    step, rest = path[0], path[1:]
    if not step.startswith("f:"):
        return
    name = step[2:]
    inside = planned.get(name) if isinstance(planned, Mapping) else None
    if not rest:
        if inside is None:
            patch[name] = None
        return
    if rest[0].startswith("k:"):
        _remove_item(patch, name, inside or [], rest)
    elif rest[0].startswith("v:"):
        value = json.loads(rest[0][2:])
        if value not in (inside or []):
            patch.setdefault(f"$deleteFromPrimitiveList/{name}", []).append(value)
    elif inside is None:
        patch[name] = None
    else:
        child = patch.get(name) or {}
        _remove(child, inside, rest)
        if child:
            patch[name] = child


def _remove_item(patch: dict[str, Any], name: str, planned: list[Any], rest: Path) -> None:
    key = json.loads(rest[0][2:])
    ours = next((item for item in planned if all(item.get(k) == v for k, v in key.items())), None)
    if ours is None:
        patch.setdefault(name, []).append({**key, "$patch": "delete"})
        return
    if not rest[1:]:
        return
    items = patch.get(name, [])
    entry = next((item for item in items if all(item.get(k) == v for k, v in key.items())), None)
    fresh = dict(key) if entry is None else entry
    size = len(fresh)
    _remove(fresh, ours, rest[1:])
    if entry is None and len(fresh) > size:
        patch[name] = [*items, fresh]
