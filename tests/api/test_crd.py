"""The CRD is what the models say, and holds what an API server and a reader need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmaspec.api import crd, flags
from gemmaspec.api.status import GemmaSpecDeployStatus
from gemmaspec.recipes import load

ROOT = Path(__file__).parents[2]
FILE = ROOT / "crds" / "gemmaspec.io_gemmaspecdeploys.yaml"
VERSION = crd.definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC, STATUS = SCHEMA["properties"]["spec"], SCHEMA["properties"]["status"]


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema node with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


ALL = [*nodes(SPEC, "spec"), *nodes(STATUS, "status")]


def test_the_committed_file_is_what_the_models_render() -> None:
    assert FILE.read_bytes() == crd.render().encode(), "stale: run `make generate`"


def test_the_file_is_one_yaml_document_without_surprises() -> None:
    assert yaml.safe_load(FILE.read_text(encoding="utf-8")) == crd.definition()


def test_every_property_has_a_description() -> None:
    bare = [
        f"{path}.{name}"
        for path, schema in ALL
        for name, child in schema.get("properties", {}).items()
        if len(child.get("description", "")) < 5
    ]
    assert bare == []


def test_the_schema_is_structural() -> None:
    for path, schema in ALL:
        assert schema.get("type") in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert not {"$ref", "anyOf", "oneOf", "allOf", "title", "$defs", "const", "examples"} & set(schema), path
        if schema["type"] == "object":
            known = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"}
            assert known & set(schema), f"{path} would lose every field"


def settable(spec: dict[str, Any], path: str) -> Iterator[str]:
    for name, value in spec.items():
        yield f"{path}.{name}"
        if isinstance(value, dict):
            yield from settable(value, f"{path}.{name}")


def test_no_default_where_a_recipe_can_set_a_value() -> None:
    """A stored default can't be told from an explicit value, and would win over the recipe."""
    by_default = {path for path, schema in ALL if "default" in schema and path.startswith("spec")}
    by_recipe = {path for recipe in load().values() for path in settable(recipe.spec, "spec")}
    never = {"spec.replicas", "spec.rollout", "spec.service"}
    assert not {path for path in by_default if path.split("[")[0] in by_recipe} - never
    assert by_default == {
        "spec.replicas",
        "spec.rollout.drainSeconds",
        "spec.rollout.startupSeconds",
        "spec.rollout.maxRestarts",
        "spec.service.type",
    }
    for recipe in load().values():
        assert "rollout" not in recipe.spec, "the schema's defaults would hide it"
        assert set(recipe.spec.get("service", {})) <= {"port"}


RULED = [(path, schema) for path, schema in ALL if "x-kubernetes-validations" in schema]


def test_rules_say_what_to_do() -> None:
    assert len(RULED) >= 10
    for path, schema in RULED:
        for entry in schema["x-kubernetes-validations"]:
            assert entry["rule"], path
            assert len(entry["message"]) > 20, path
            assert "\n" not in entry["message"], "kubectl prints one line"


@pytest.mark.parametrize(("path", "schema"), RULED, ids=[path for path, _ in RULED])
def test_what_rules_read_is_bounded(path: str, schema: dict[str, Any]) -> None:
    """The API server budgets a rule by the largest input that the schema admits."""
    for entry in schema["x-kubernetes-validations"]:
        read = set(re.findall(r"\b(?:self|e)\.([A-Za-z.]+)", re.sub(r"'[^']*'", "", entry["rule"])))
        for chain in read | {""}:
            for node in chained(schema, chain):
                assert bounded(node), f"{path}: {chain or 'self'} is read by {entry['rule'][:60]}…"


def chained(schema: dict[str, Any], chain: str) -> Iterator[dict[str, Any]]:
    """The strings and lists at the end of a chain such as ``memory.utilizationMode``; none where it is a method."""
    node: dict[str, Any] | None = schema
    for step in filter(None, chain.split(".")):
        inside = node.get("items", node) if node else {}
        node = inside.get("properties", {}).get(step) if node else None
    if node and node["type"] in ("string", "array"):
        yield node
    if node and node["type"] == "array":
        yield node["items"]


def bounded(node: dict[str, Any]) -> bool:
    match node["type"]:
        case "string":
            return "maxLength" in node or "enum" in node
        case "array":
            return "maxItems" in node
    return True


def test_lists_are_bounded_and_say_how_they_merge() -> None:
    for path, schema in nodes(SPEC, "spec"):
        if schema["type"] == "array":
            assert "maxItems" in schema, path
            assert "x-kubernetes-list-type" in schema, path
        if schema["type"] == "string":
            assert "maxLength" in schema or "enum" in schema, path


def test_typed_and_allowed_flags_are_disjoint() -> None:
    groups = (set(flags.TYPED), flags.SWITCHES, flags.VALUED)
    assert len(set().union(*groups)) == sum(map(len, groups))
    for name in (*flags.TYPED, *flags.SWITCHES, *flags.VALUED):
        assert flags.flag_of(name) == name, f"{name} would never be found"


def test_nothing_that_blinds_or_bypasses_the_operator_is_allowed() -> None:
    """Without statistics there is no acceptance; classes, plug-ins and middleware would run foreign code."""
    for name in (*flags.SWITCHES, *flags.VALUED):
        assert name != "--disable-log-stats"
        assert not re.search(r"-cls$|plugin|middleware|trust|worker|^--config$|api-key|^--(host|port|model)$", name), (
            name
        )


def test_typed_flags_name_fields_that_exist() -> None:
    known = {path.removeprefix("spec.") for path, _ in nodes(SPEC, "spec")}
    assert set(flags.TYPED.values()) <= known


@pytest.mark.parametrize(
    ("token", "flag"),
    [
        ("--max_num_seqs", "--max-num-seqs"),
        ("--max-num-seqs=4", "--max-num-seqs"),
        ("--speculative-config.method", "--speculative-config"),
        ("--hf_overrides.a.b=c.d", "--hf-overrides"),
        ("-O3", "-O3"),
    ],
)
def test_the_flag_of_a_token(token: str, flag: str) -> None:
    assert flags.flag_of(token) == flag


def test_columns_and_subresources_read_fields_that_exist() -> None:
    known = {f".{path}" for path, _ in [*nodes(SPEC, "spec"), *nodes(STATUS, "status")]}
    for column in VERSION["additionalPrinterColumns"]:
        path = column["jsonPath"]
        assert path in known or path.startswith((".status.conditions[", ".metadata.")), path
    scale = VERSION["subresources"]["scale"]
    assert set(scale.values()) <= known


def test_the_status_model_has_no_required_field() -> None:
    """A status is built up over passes: one that lacks a field must still be storable."""
    assert "required" not in STATUS
    assert GemmaSpecDeployStatus.model_validate({}).body() == {}
