"""The prompts that are measured with: the project's own, llama-benchy's lengths, or a file of the user's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from gemmaspec.core.bench.sweep import DEPTHS, GENERATED, PREFILL, BadSweep, Workload, depth_name

_FILE: Final = "prompts.yaml"
_MOST_CHARACTERS: Final = 65_536


def own(tokens: int) -> tuple[Workload, ...]:
    """The three kinds of text of the sources, in the project's own words."""
    return tuple(Workload(name, text, tokens) for name, text in _texts().items())


def depths() -> tuple[Workload, ...]:
    """llama-benchy's: pp2048 and tg128 at depth 0, 4096 and 8192. Any text will do; it is repeated to the length."""
    text = _texts()["en_finance"]
    return tuple(Workload(depth_name(depth), text, GENERATED, PREFILL + depth) for depth in DEPTHS)


def from_file(path: str, tokens: int) -> tuple[Workload, ...]:
    """A YAML file, name: text. Raises BadSweep."""
    try:
        told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadSweep(f"prompts file {path} can't be read: {' '.join(str(error).split())}") from error
    return parse(told, tokens, f"prompts file {path}")


def parse(told: Any, tokens: int, name: str) -> tuple[Workload, ...]:
    """A mapping of names to texts. Raises BadSweep."""
    if not isinstance(told, dict) or not told:
        raise BadSweep(f"{name} holds {type(told).__name__}; it takes a mapping, such as `my_kind: the prompt's text`")
    for key, text in told.items():
        if not isinstance(key, str) or not key or len(key) > 40:
            raise BadSweep(f"{name}: {key!r} is no name; give each prompt one of at most 40 characters")
        if not isinstance(text, str) or not 0 < len(text) <= _MOST_CHARACTERS:
            raise BadSweep(
                f"{name}: {key} is {str(text)[:40]!r}; it takes a text of 1 to {_MOST_CHARACTERS} characters"
            )
    return tuple(Workload(str(key), str(text), tokens) for key, text in told.items())


def described(workloads: Sequence[Workload], where: str) -> str:
    """Which prompts, and a hash by which two results can be told to have had the same."""
    texts = "\0".join(f"{entry.name}\0{entry.text}\0{entry.prompt_tokens}" for entry in workloads)
    digest = hashlib.sha256(texts.encode()).hexdigest()[:10]
    return f"{', '.join(entry.name for entry in workloads)} ({where}, sha256 {digest}…)"


def _texts() -> dict[str, str]:
    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
