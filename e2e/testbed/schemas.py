"""JSON schemas for kubeconform, made from what an API server publishes of itself: nothing is downloaded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from testbed.api import Api
from testbed.golang import KUBECONFORM, programs

_OPENAPI = "#/components/schemas/"
_DEFINITIONS = "#/definitions/"
_SECONDS = 60.0
# Of a file, as kubeconform looks it up: kind and API version in small letters.
_PATTERN = "{{ .ResourceKind }}{{ .KindSuffix }}.json"


def write_schemas(api: Api, folder: Path, paths: Sequence[str]) -> int:
    """Write a schema for each kind of these API paths (`api/v1`, `apis/apps/v1`); returns how many.

    Each file stands alone. Fields that the API server does not know are errors, as with `--validate=strict`.
    Raises RuntimeError when the API server does not publish a path.
    """
    count = 0
    for path in paths:
        code, answer = api.get(f"/openapi/v3/{path}", seconds=_SECONDS)
        if code != 200:
            raise RuntimeError(f"/openapi/v3/{path}: {code}")
        definitions = {name: _strict(schema) for name, schema in json.loads(answer)["components"]["schemas"].items()}
        for name, kind in _kinds(definitions, path):
            schema = {"$ref": _DEFINITIONS + name, "definitions": definitions}
            (folder / _file_name(kind)).write_text(json.dumps(schema))
            count += 1
    return count


def kubeconform(manifests: str, schemas: Path) -> list[dict[str, Any]]:
    """Validate YAML documents strictly; returns one record a document, in kubeconform's words (kind, status, msg)."""
    done = subprocess.run(
        [
            str(programs(KUBECONFORM) / "kubeconform"),
            "-strict",
            "-verbose",
            "-output=json",
            f"-schema-location={schemas}/{_PATTERN}",
        ],
        input=manifests,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"kubeconform: {done.returncode}: {done.stderr}")
    return list(json.loads(done.stdout)["resources"])


def _kinds(definitions: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Definitions that are objects of this very path, and their group, version and kind."""
    served = path.split("/")[1:]
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            if [part for part in (kind["group"], kind["version"]) if part] == served:
                yield name, kind


def _file_name(kind: dict[str, str]) -> str:
    """As kubeconform's {{ .ResourceKind }}{{ .KindSuffix }}: of a group only the first part counts."""
    group = kind["group"].split(".")[0]
    return "-".join(part.lower() for part in (kind["kind"], group, kind["version"]) if part) + ".json"


def _strict(schema: Any) -> Any:
    """An OpenAPI schema as JSON schema: other references, and no fields beside those that are named."""
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(made.get("$ref"), str):
        made["$ref"] = made["$ref"].replace(_OPENAPI, _DEFINITIONS)
    if _is_closed(schema):
        made["additionalProperties"] = False
    return made


def _is_closed(schema: dict[str, Any]) -> bool:
    """Whether a schema names all of its fields. `properties` may itself be the name of a field."""
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), dict):
        return False
    return "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields")
