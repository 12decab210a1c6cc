"""Options of the operator's process, from environment variables (the chart's and the manifests' way)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gemmaspec.core.acceptance import MAX_GAP_SECONDS

LEAST_KEY_BYTES = 16


class OptionError(ValueError):
    """An option can't be read; the text names the variable, its value and what it takes."""


@dataclass(frozen=True)
class Options:
    """How this operator runs.

    namespaces: watched namespaces; empty for the whole cluster. workers: passes that run at once.
    scrape_seconds: time between two scrapes of an engine; half the gap over which counters may be differenced, at
    most, so that one lost scrape does no harm. metrics_port, health_port: 0 for none.
    host_path_prefixes: directories of nodes below which weights may be cached. key: secret from which the tokens of
    the agents in the engines are made; empty for none, and K is then moved by restart. image: the operator's own, of
    which benchmarks are made; empty where its own pod tells.
    """

    namespaces: tuple[str, ...] = ()
    workers: int = 16
    scrape_seconds: float = 5.0
    metrics_port: int = 8080
    health_port: int = 8081
    host_path_prefixes: tuple[str, ...] = ()
    log_level: str = "INFO"
    key: bytes = field(default=b"", repr=False)
    image: str = ""


def from_environment(environment: Mapping[str, str] | None = None) -> Options:
    """Read GEMMASPEC_* variables. Raises OptionError."""
    source = os.environ if environment is None else environment
    default = Options()
    return Options(
        namespaces=_words(source.get("GEMMASPEC_NAMESPACES", "")),
        workers=int(_number(source, "GEMMASPEC_WORKERS", default.workers, 1, 256)),
        scrape_seconds=_number(source, "GEMMASPEC_SCRAPE_SECONDS", default.scrape_seconds, 1, MAX_GAP_SECONDS / 2),
        metrics_port=int(_number(source, "GEMMASPEC_METRICS_PORT", default.metrics_port, 0, 65535)),
        health_port=int(_number(source, "GEMMASPEC_HEALTH_PORT", default.health_port, 0, 65535)),
        host_path_prefixes=_prefixes(source.get("GEMMASPEC_HOST_PATH_PREFIXES", "")),
        key=_key(source.get("GEMMASPEC_KEY_FILE", "")),
        image=source.get("GEMMASPEC_IMAGE", "").strip(),
        log_level=_level(source.get("GEMMASPEC_LOG_LEVEL", default.log_level)),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _number(source: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = source.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise OptionError(f"{name} is {text!r}; it takes a number from {low:g} to {high:g}")
    return value


def _prefixes(text: str) -> tuple[str, ...]:
    prefixes = _words(text)
    for prefix in prefixes:
        if not prefix.startswith("/") or ".." in prefix:
            raise OptionError(f"GEMMASPEC_HOST_PATH_PREFIXES holds {prefix!r}; it takes absolute paths without '..'")
    return prefixes


def _key(path: str) -> bytes:
    """The key's bytes; none where the file is missing, since the Secret is optional. A short one is an error."""
    if not path:
        return b""
    try:
        key = Path(path).read_bytes().strip()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise OptionError(f"GEMMASPEC_KEY_FILE names {path}, which can't be read: {error}") from error
    if len(key) < LEAST_KEY_BYTES:
        raise OptionError(f"the key in {path} has {len(key)} bytes; give at least {LEAST_KEY_BYTES} random ones")
    return key


def _level(text: str) -> str:
    level = text.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise OptionError(f"GEMMASPEC_LOG_LEVEL is {text!r}; it takes DEBUG, INFO, WARNING or ERROR")
    return level
