"""The CustomResourceDefinition, generated from the pydantic models.

``python -m gemmaspec.api.crd FILE`` writes it; a test regenerates it and compares bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from gemmaspec.api import identity
from gemmaspec.api.schema import rule
from gemmaspec.api.spec import GemmaSpecDeploySpec
from gemmaspec.api.status import GemmaSpecDeployStatus

# A Deployment, its ReplicaSet and its pods add up to 27 characters to the resource's name, and a pod's host
# name has at most 63.
MAX_NAME = 36

COLUMNS = (
    ("Target", "string", ".status.target", 0, "Target model"),
    ("K", "integer", ".status.k.desired", 0, "Desired draft tokens a step"),
    ("K-Eff", "integer", ".status.k.effective", 0, "Draft tokens a step that the engines run with"),
    ("Acceptance", "number", ".status.acceptance.mean", 0, "Accepted draft tokens per draft token"),
    ("Tok/s", "number", ".status.throughput.tokensPerSecond", 0, "Generated tokens per second"),
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", 0, "Whether engines serve"),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 0, "Why it is ready or not"),
    ("Revision", "string", ".status.revision", 1, "Revision that the operator drives to"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Age"),
)


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema in the structural form that a CRD takes: no references, titles or null types."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    result = _convert(schema, definitions)
    assert isinstance(result, dict)
    return result


def _convert(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_convert(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = _inline(node, definitions)
    converted: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("title", "additionalProperties") and isinstance(value, str | bool):
            continue
        if key == "propertyNames" or (key == "default" and value is None):
            continue
        if key == "properties":
            converted[key] = {name: _convert(child, definitions) for name, child in value.items()}
        elif key == "exclusiveMinimum":
            converted |= {"minimum": value, "exclusiveMinimum": True}
        else:
            converted[key] = _convert(value, definitions)
    if converted.get("type") == "object" and converted.get("x-kubernetes-preserve-unknown-fields"):
        converted.pop("additionalProperties", None)
    if "maxLength" in converted and converted.get("type") == "object":
        converted["maxProperties"] = converted.pop("maxLength")
    return converted


def _inline(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Resolve ``$ref`` and ``anyOf: [X, null]`` (an optional field), the field's own keys winning."""
    while True:
        if "$ref" in node:
            target = definitions[node["$ref"].rsplit("/", 1)[-1]]
            own = {key: value for key, value in node.items() if key != "$ref"}
            node = _join(target, own)
        elif "anyOf" in node:
            (choice,) = [option for option in node["anyOf"] if option.get("type") != "null"]
            own = {key: value for key, value in node.items() if key != "anyOf"}
            node = _join(choice, own)
        else:
            return node


def _join(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    joined = base | own
    marker = "x-kubernetes-validations"
    if marker in base and marker in own:
        joined[marker] = own[marker] + base[marker]
    return joined


def definition() -> dict[str, Any]:
    """The whole CustomResourceDefinition as a value."""
    spec = structural(GemmaSpecDeploySpec)
    spec["description"] = "What is asked for."
    status = structural(GemmaSpecDeployStatus)
    status["description"] = "What the operator saw and did."
    name_rule = rule(
        f"self.metadata.name.size() <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        f"metadata.name becomes the name of a Service and of pods: at most {MAX_NAME} characters, a-z, 0-9 and '-', "
        "beginning with a letter; choose another name",
    )
    version = {
        "name": identity.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": priority, "description": text}
            for name, kind, path, priority, text in COLUMNS
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {
            "openAPIV3Schema": {
                "description": "Gemma 4 served by vLLM with speculative decoding on GB10 nodes.",
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string", "description": "Version of this schema."},
                    "kind": {"type": "string", "description": "GemmaSpecDeploy."},
                    "metadata": {"type": "object"},
                    "spec": spec,
                    "status": status,
                },
                "x-kubernetes-validations": [name_rule],
            }
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{identity.PLURAL}.{identity.GROUP}"},
        "spec": {
            "group": identity.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": identity.KIND,
                "listKind": f"{identity.KIND}List",
                "plural": identity.PLURAL,
                "singular": identity.SINGULAR,
                "shortNames": [identity.SHORT_NAME],
                "categories": ["all", "gemmaspec"],
            },
            "versions": [version],
        },
    }


def render() -> str:
    """The CRD as YAML text, ending in a newline."""
    header = "# Generated by `make generate` from operator/gemmaspec/api. Do not edit.\n"
    return header + yaml.safe_dump(definition(), sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
