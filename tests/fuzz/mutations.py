"""Mutations of one field of a spec, derived from the schema: valid alternatives, bounds, wrong types, removal."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]
REMOVED = object()
# What a value of a type is not.
OTHER_TYPES: Mapping[str, tuple[Any, ...]] = {
    "integer": ("four", 1.5, True, {}, []),
    "number": ("half", True, {}, []),
    "string": (7, True, {}, []),
    "boolean": ("yes", 1, {}),
    "object": ("text", 7, [1]),
    "array": ("text", 7, {}),
}
# A fake kubelet and a busy machine: more engines than this say nothing more.
MOST_REPLICAS = 3


@dataclass(frozen=True)
class Mutation:
    """Set the value at ``path``, or remove it. ``kind`` says how it was found."""

    path: Path
    kind: str
    value: Any = REMOVED

    @property
    def field(self) -> str:
        """The path in dots."""
        return ".".join(str(step) for step in self.path)

    @property
    def identity(self) -> str:
        """What tells it from others, the same in every run."""
        return f"{self.field} {self.kind} {'' if self.value is REMOVED else repr(self.value)}"

    def apply(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The mutated spec."""
        mutated: Any = copy.deepcopy(dict(spec))
        node = mutated
        for step in self.path[:-1]:
            node = node[step] if isinstance(node, list) else node.setdefault(step, {})
        last = self.path[-1]
        if self.value is not REMOVED:
            node[last] = copy.deepcopy(self.value)
        elif isinstance(node, list):
            del node[int(last)]
        else:
            node.pop(last, None)
        return dict(mutated)

    def __str__(self) -> str:
        value = "" if self.value is REMOVED else f" = {self.value!r}"[:120]
        return f"{self.field}: {self.kind}{value}"


def fields(schema: Mapping[str, Any], spec: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any], Any]]:
    """Every field of the schema below ``path``: path, schema, value in the spec (None where absent)."""
    if path:
        yield path, schema, spec
    for name, below in schema.get("properties", {}).items():
        yield from fields(below, spec.get(name) if isinstance(spec, Mapping) else None, (*path, name))
    if "items" in schema and isinstance(spec, list):
        for i, item in enumerate(spec[:1]):
            yield from fields(schema["items"], item, (*path, i))


def wrong_of(path: Path, schema: Mapping[str, Any]) -> st.SearchStrategy[Mutation]:
    """Mutations of one field to what it can't be: another type, nothing, a value out of its bounds."""
    kind = schema.get("type", "object")
    choices: list[st.SearchStrategy[tuple[str, Any]]] = [
        st.sampled_from(OTHER_TYPES[kind]).map(lambda wrong: ("another type", wrong)),
        st.just(("null", None)),
    ]
    invalid = _invalid(schema)
    choices += [invalid, invalid] if invalid is not None else []
    return st.one_of(choices).map(lambda found: Mutation(path, *found))


def right_of(path: Path, schema: Mapping[str, Any], value: Any) -> st.SearchStrategy[Mutation] | None:
    """Mutations of one field to what its own schema allows, and its removal; None where there are none."""
    valid = _valid(path, schema, value)
    choices = [valid, valid, valid] if valid is not None else []
    if value is not None:
        choices.append(st.just(("removed", REMOVED)))
    return st.one_of(choices).map(lambda found: Mutation(path, *found)) if choices else None


def _valid(path: Path, schema: Mapping[str, Any], value: Any) -> st.SearchStrategy[tuple[str, Any]] | None:
    match schema.get("type"):
        case _ if "enum" in schema:
            return st.sampled_from(schema["enum"]).map(lambda one: ("enum", one))
        case "boolean":
            return st.booleans().map(lambda one: ("toggled", one))
        case "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 2**40)
            high = MOST_REPLICAS if path == ("replicas",) else high
            bounds = st.sampled_from([low, high])
            near = st.integers(-2, 2).map(lambda d: min(high, max(low, (value or low) + d)))
            return st.one_of(bounds, near, st.integers(low, high)).map(lambda one: ("integer", one))
        case "number":
            low, high = schema.get("minimum", 0.0), schema.get("maximum", 1.0)
            found = st.floats(low, high, allow_nan=False, width=16)
            return found.map(lambda one: ("number", round(one, 4)))
        case "string":
            return _text(schema).map(lambda one: ("text", one))
        case "array" if isinstance(value, list):
            pushed = [[*value, copy.deepcopy(value[0])]] if value else []
            return st.sampled_from([[], value[1:], value[:-1], *pushed]).map(lambda one: ("array", one))
        case "object" if "additionalProperties" in schema:
            keys = st.from_regex(r"\A[a-z]{1,8}\Z")
            values = _text(schema["additionalProperties"])
            return st.dictionaries(keys, values, max_size=3).map(lambda one: ("map", one))
    return None


def _text(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    most = min(schema.get("maxLength", 40), 40)
    if "pattern" not in schema:
        return st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=most)
    pattern = re.compile(schema["pattern"].removeprefix("^").removesuffix("$"), re.ASCII)
    found = st.from_regex(pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))
    return found.filter(lambda text: len(text) <= schema.get("maxLength", 512) and text.isprintable())


def _invalid(schema: Mapping[str, Any]) -> st.SearchStrategy[tuple[str, Any]] | None:
    wrong: list[Any] = []
    if "minimum" in schema:
        wrong += [schema["minimum"] - 1, -(2**40)]
    if "maximum" in schema:
        wrong += [schema["maximum"] + 1, 2**40]
    if "maxLength" in schema:
        wrong += ["x" * (schema["maxLength"] + 1)]
    if schema.get("minLength") or "pattern" in schema:
        wrong += ["", " ", "a\nb"]
    if "enum" in schema:
        wrong += ["Nonsense", schema["enum"][0].swapcase()]
    return st.sampled_from(wrong).map(lambda one: ("out of bounds", one)) if wrong else None
