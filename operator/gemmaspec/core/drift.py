"""Drift: how an observed child differs from the planned one.

Server-side apply restores what we set, but keeps what others added: an environment variable added by
``kubectl set env`` stays. Fields of ``spec`` that only others own are therefore found in ``managedFields``, and a
spec that holds any is replaced as a whole: field by field there would be states that the API server refuses on
the way (a Service without ports, an update strategy with another's parameters).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Path = tuple[str, ...]

_OURS = "gemmaspec"
# Labels and annotations that we set once and no longer plan go away; those of others are theirs to keep.
_OUR_METADATA = (("f:metadata", "f:labels"), ("f:metadata", "f:annotations"))


def unplanned_paths(managed_fields: Iterable[Mapping[str, Any]]) -> tuple[Path, ...]:
    """Paths that are drift unless the plan holds them, in managedFields' own notation.

    They are fields of ``spec`` that other managers own and we do not (status and scale are subresources with entries
    of their own; the comparison of values repairs a scaled Deployment), and labels and annotations of our own.
    """
    entries = [(entry.get("manager") == _OURS, entry) for entry in managed_fields]
    others = {
        path
        for mine, entry in entries
        if not mine and not entry.get("subresource")
        for path in _below(entry.get("fieldsV1", {}), ("f:spec",))
    }
    own = [entry.get("fieldsV1", {}) for mine, entry in entries if mine]
    if others:  # hundreds of paths, most of the time for nothing
        others -= {path for fields in own for path in _below(fields, ("f:spec",))}
    labels = {path for fields in own for where in _OUR_METADATA for path in _below(fields, where)}
    return tuple(sorted(others | labels))


def _below(fields: Mapping[str, Any], path: Path) -> Iterable[Path]:
    node: Any = fields
    for step in path:
        node = node.get(step)
        if node is None:
            return ()
    return _leaves(node, path)


def _leaves(node: Mapping[str, Any], path: Path) -> Iterable[Path]:
    if not node:
        yield path
        return
    if "." in node and path[-1].startswith(("k:", "v:")):
        yield path  # that manager added the list item, beside the fields that it set in it
    for key, child in node.items():
        if key != ".":
            yield from _leaves(child, (*path, key))


def differs(planned: Any, observed: Any, field: str = "") -> bool:
    """Whether ``observed`` lacks or contradicts anything planned. Defaults added by the API server don't count."""
    if planned == observed:
        return False  # most parts of most passes, and decided without a line of Python for each of their fields
    if isinstance(planned, dict):
        if not isinstance(observed, dict):
            return bool(planned)
        if field in _LABELS and any(observed.get(key) != value for key, value in planned.items()):
            return True  # here an empty text is a value as any other
        amounts = field in _AMOUNTS
        return any(differs(value, observed.get(key), field if amounts else key) for key, value in planned.items())
    if isinstance(planned, list):
        if field == "ownerReferences" and isinstance(observed, list):
            return any(all(differs(ours, theirs) for theirs in observed) for ours in planned)
        if not isinstance(observed, list) or len(planned) != len(observed):
            return bool(planned) or bool(observed)
        return any(differs(ours, theirs) for ours, theirs in zip(planned, observed, strict=True))
    if planned == "" and observed is None:
        return False  # an empty text (the value of a variable) is not stored
    return bool(planned != observed) and not (field in _AMOUNTS and _same_quantity(planned, observed))


# Maps whose keys are the user's.
_LABELS = ("labels", "annotations", "nodeSelector")
# Fields that hold quantities.
_AMOUNTS = ("requests", "limits", "sizeLimit")


def _same_quantity(planned: Any, observed: Any) -> bool:
    """``1000m`` and ``1`` are one quantity; the API server stores the canonical form."""
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


def reset_patch(planned: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any] | None:
    """Strategic-merge patch that takes back what stands at ``paths`` and is not planned; None where all is.

    A planned path that another manager owns is no drift of its own: the comparison of values judges it.
    """
    patch: dict[str, Any] = {}
    for path in paths:
        if _holds(planned, path):
            continue
        if path[0] == "f:spec":
            patch["spec"] = {**planned["spec"], "$patch": "replace"}
        elif len(path) == 3:
            kind, key = path[1].removeprefix("f:"), path[2].removeprefix("f:")
            patch.setdefault("metadata", {}).setdefault(kind, {})[key] = None
    return patch or None


def ports_patch(planned: Mapping[str, Any], observed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Strategic-merge patch that replaces a Service's spec where ports have moved; None elsewhere.

    Ports merge by number and protocol, and what our POST set is not apply's to remove: a moved port would be there
    twice under one name, which the API server refuses.
    """
    if planned.get("kind") != "Service":
        return None
    ours, theirs = ({_port(entry) for entry in body["spec"].get("ports", ())} for body in (planned, observed))
    return {"spec": {**planned["spec"], "$patch": "replace"}} if theirs - ours else None


def _port(entry: Mapping[str, Any]) -> tuple[int, str]:
    return int(entry["port"]), str(entry.get("protocol", "TCP"))


def _holds(planned: Any, path: Path) -> bool:
    """Whether the plan has a value at the path."""
    node = planned
    for step in path:
        if step.startswith("f:") and isinstance(node, Mapping):
            node = node.get(step[2:])
        elif step.startswith("k:") and isinstance(node, list):
            key = json.loads(step[2:])
            node = next((item for item in node if all(item.get(name) == value for name, value in key.items())), None)
        elif step.startswith("v:") and isinstance(node, list):
            return json.loads(step[2:]) in node
        else:
            return False
        if node is None:
            return False
    return True
