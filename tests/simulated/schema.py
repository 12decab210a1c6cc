"""Any value that the CRD's schema admits, as a hypothesis strategy."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_ASCII = st.characters(min_codepoint=32, max_codepoint=126)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(_ASCII, max_size=5), st.lists, max_leaves=4
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a structural schema. CEL rules are left out: what they refuse may be drawn."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object":
            return _objects(schema)
        case "array":
            most = min(schema.get("maxItems", 3), 3)
            return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=most)
        case "string":
            return _strings(schema)
        case "integer":
            return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31))
        case "number":
            return st.floats(schema.get("minimum", -1e6), schema.get("maximum", 1e6), allow_nan=False, width=32)
        case "boolean":
            return st.booleans()
    raise AssertionError(f"a schema of no known type: {schema}")


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(st.text(_ASCII, max_size=5), _JSON, max_size=3)
    if "additionalProperties" in schema:
        keys = st.text(_ASCII, min_size=1, max_size=8)
        return st.dictionaries(keys, values(schema["additionalProperties"]), max_size=3)
    fields = {name: values(child) for name, child in schema.get("properties", {}).items()}
    needed = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: fields[name] for name in fields if name in needed},
        optional={name: fields[name] for name in fields if name not in needed},
    )


def _strings(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 40)
    if "pattern" in schema:
        drawn = st.from_regex(schema["pattern"], fullmatch=True, alphabet=_ASCII)
        return drawn.filter(lambda text: low <= len(text) <= high)
    return st.text(_ASCII, min_size=low, max_size=min(high, 12))
