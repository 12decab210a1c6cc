"""The definition against the last release's (tests/data/crd-0.1.0.yaml): what was valid stays valid and keeps its type.

docs/crd-evolution.md is the policy. A change that breaks it on purpose is a row of ALLOWED with its reason, or, while
0.1.0 is not released, `make freeze`; after that release there are no rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmaspec.api.crd import definition
from manifests import assemble

FROZEN = assemble.SNAPSHOT
ALLOWED: dict[str, str] = {}
"""Complaint -> why it may stand."""
Schema = dict[str, Any]
_UPPER = ("maxLength", "maxItems", "maxProperties", "maximum")
_LOWER = ("minLength", "minItems", "minProperties", "minimum")


def schema_of(crd: Schema) -> Schema:
    """The schema of the one stored version."""
    (version,) = crd["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


def complaints(before: Schema, after: Schema, path: str = "") -> Iterator[str]:
    """What a value that the old schema admitted would meet under the new one."""
    if before.get("type") != after.get("type"):
        yield f"{path}: {before.get('type')} became {after.get('type')}"
        return
    yield from narrowed(before, after, path)
    for name in sorted(set(after.get("required", ())) - set(before.get("required", ()))):
        yield f"{path}.{name} became required"
    for name, old in before.get("properties", {}).items():
        new = after.get("properties", {}).get(name)
        if new is None:
            yield f"{path}.{name} is gone"
        else:
            yield from complaints(old, new, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(before.get(key), dict) and isinstance(after.get(key), dict):
            yield from complaints(before[key], after[key], f"{path}[]")


def narrowed(before: Schema, after: Schema, path: str) -> Iterator[str]:
    """Bounds, choices and rules that admit less than they did, and defaults that mean something else."""
    for key in _UPPER:
        if key in after and after[key] < before.get(key, float("inf")):
            yield f"{path}: {key} fell to {after[key]}"
    for key in _LOWER:
        if key in after and after[key] > before.get(key, float("-inf")):
            yield f"{path}: {key} rose to {after[key]}"
    if "enum" in after and (lost := set(before.get("enum", ["anything"])) - set(after["enum"])):
        yield f"{path}: {', '.join(sorted(map(str, lost)))} no longer allowed"
    for key in ("pattern", "format", "default", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"):
        if before.get(key) != after.get(key) and not (key == "pattern" and key not in after):
            yield f"{path}: {key} is another"
    rules = {entry["rule"] for entry in before.get("x-kubernetes-validations", ())}
    for entry in after.get("x-kubernetes-validations", ()):
        if entry["rule"] not in rules:
            yield f"{path}: new rule {entry['message'][:60]}"


def frozen() -> Schema:
    return dict(yaml.safe_load(FROZEN.read_text(encoding="utf-8")))


def test_what_the_last_release_admitted_is_still_admitted() -> None:
    found = set(complaints(schema_of(frozen()), schema_of(definition())))
    assert found == set(ALLOWED)


def test_names_versions_and_scale_stay() -> None:
    before, after = frozen()["spec"], definition()["spec"]
    assert after["names"] | {"categories": []} == before["names"] | {"categories": []}
    assert (after["group"], after["scope"]) == (before["group"], before["scope"])
    assert {one["name"] for one in before["versions"]} <= {one["name"] for one in after["versions"]}
    assert after["versions"][0]["subresources"] == before["versions"][0]["subresources"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec["properties"].pop("replicas"), ".spec.replicas is gone"),
        (lambda spec: spec["properties"]["replicas"].update(type="string"), ".spec.replicas: integer became string"),
        (lambda spec: spec.update(required=["replicas"]), ".spec.replicas became required"),
        (lambda spec: spec["properties"]["replicas"].update(maximum=1), ".spec.replicas: maximum fell to 1"),
        (lambda spec: spec["properties"]["replicas"].update(minimum=1), ".spec.replicas: minimum rose to 1"),
        (lambda spec: spec["properties"]["replicas"].update(default=7), ".spec.replicas: default is another"),
        (lambda spec: spec["properties"]["recipe"].update(enum=["a"]), ".spec.recipe: anything no longer allowed"),
        (
            lambda spec: spec["properties"]["recipe"].update(
                {"x-kubernetes-validations": [{"rule": "false", "message": "no"}]}
            ),
            ".spec.recipe: new rule no",
        ),
    ],
)
def test_a_narrower_schema_would_be_noticed(change: Any, said: str) -> None:
    before = schema_of(frozen())
    after = copy.deepcopy(before)
    change(after["properties"]["spec"])
    assert list(complaints(before, after)) == [said]


def test_a_wider_schema_is_welcome() -> None:
    before = schema_of(frozen())
    after = copy.deepcopy(before)
    after["properties"]["spec"]["properties"] |= {"brandNew": {"type": "string"}}
    after["properties"]["spec"]["properties"]["recipe"]["maxLength"] += 1
    assert list(complaints(before, after)) == []


def test_only_the_explicit_verb_moves_what_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FROZEN not in assemble.rendered(), "`make generate` would let every change through"
    changelog, snapshot = tmp_path / "CHANGELOG.md", tmp_path / "crd-0.1.0.yaml"
    monkeypatch.setattr(assemble, "CHANGELOG", changelog)
    monkeypatch.setattr(assemble, "SNAPSHOT", snapshot)
    changelog.write_text("# Changelog\n\n## Unreleased\n")
    assert assemble.main(["--freeze"]) == 0
    assert snapshot.read_text(encoding="utf-8") == assemble.CRD.read_text(encoding="utf-8")
    changelog.write_text("# Changelog\n\n## Unreleased\n\n## 0.1.0\n")
    with pytest.raises(RuntimeError, match="is released"):
        assemble.main(["--freeze"])
