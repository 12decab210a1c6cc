"""What the resource owns, as it must still be after an hour: uid and generation tell even what was changed back."""

from __future__ import annotations

import json
from typing import Any, Final

from demo.resource import Resource
from gemmaspec.core import names

_KINDS: Final = "deployments,services,configmaps,serviceaccounts,poddisruptionbudgets"
_KEPT: Final = ("uid", "generation", "labels", "ownerReferences")


def children(resource: Resource) -> dict[str, str]:
    """Each child as text by kind and name: identity, generation, labels, owner, and all but metadata and status.

    What agents have learnt is left out: it is theirs to change.
    """
    found = resource.json("get", _KINDS, "-l", names.selector_text(resource.name))["items"]
    return {
        f"{child['kind']}/{child['metadata']['name']}": _text(child)
        for child in found
        if not child["metadata"]["name"].endswith("-learned")
    }


def _text(child: dict[str, Any]) -> str:
    metadata = {key: child["metadata"][key] for key in _KEPT if key in child["metadata"]}
    body = {key: value for key, value in child.items() if key not in ("metadata", "status")}
    return json.dumps({"metadata": metadata, **body}, sort_keys=True)


def drift(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names of children that are new, gone or other than before."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
