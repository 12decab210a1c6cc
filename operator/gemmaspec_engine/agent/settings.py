"""What the operator asks of the agent: mode, bounds, K, and for how long."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MODES", "Config", "Settings", "SettingsError", "at_most", "parse", "parse_config"]

MODES = {"Fixed": None, "Engine": None, "Rollback": "rollback", "Adaptive": "adaptive"}
"""Mode → policy that decides; None: K stays at `k`. `Engine` leaves trimming to vLLM's own adaptive verification."""
_LONGEST = 10 * 365 * 86400.0
DEFAULT_PORT = 8471


class SettingsError(ValueError):
    """The settings cannot be followed; the message names the field."""


@dataclass(frozen=True)
class Settings:
    """One PUT /k."""

    mode: str
    k: int
    k_min: int
    k_max: int
    seconds: float | None = None
    """These settings end after so many seconds, and the standing ones hold again."""

    @property
    def bounds(self) -> tuple[int, int]:
        """Range of K that the policy may choose from: Rollback never goes above the desired K."""
        return self.k_min, (self.k if self.mode == "Rollback" else self.k_max)

    def as_json(self) -> dict[str, Any]:
        """In the words of the port."""
        return {"mode": self.mode, "k": self.k, "kMin": self.k_min, "kMax": self.k_max}


@dataclass(frozen=True)
class Config:
    """Environment variable GEMMASPEC_AGENT: what needs a restart to change."""

    port: int | None = DEFAULT_PORT
    host: str = ""
    token_sha256: str = ""
    state_dir: str = ""
    stall_seconds: float = 120.0
    start: Mapping[str, Any] | None = None
    """Settings to begin with, as in PUT /k, until the first PUT or a saved state."""


def at_most(ks: Sequence[int], k: int) -> int:
    """The largest of ``ks`` that is not above ``k``; the smallest of them when all are."""
    return max((value for value in ks if value <= k), default=min(ks))


def parse(body: object, ks: Sequence[int]) -> Settings:
    """Settings from the body of PUT /k, for an engine that has graphs for ``ks``. Absent bounds are the grid's ends.

    Raises:
        SettingsError: unknown field or mode, wrong type, or no K of the grid within the bounds.
    """
    if not isinstance(body, Mapping):
        raise SettingsError("the body must be a JSON object")
    unknown = sorted(set(body) - {"mode", "k", "kMin", "kMax", "untilSeconds"})
    if unknown:
        raise SettingsError(f"unknown field {', '.join(map(str, unknown))}")
    mode = body.get("mode")
    if not isinstance(mode, str) or mode not in MODES:
        raise SettingsError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    top = max(ks)
    low, high = _whole(body, "kMin", 0), _whole(body, "kMax", top)
    k = _whole(body, "k", top)
    if k is None or low is None or high is None or not low <= high:
        raise SettingsError(f"bounds must satisfy 0 <= kMin <= kMax, got {low}..{high}")
    settings = Settings(mode, k, low, min(high, top), _seconds(body.get("untilSeconds")))
    _check_reach(settings, ks)
    return settings


def _check_reach(settings: Settings, ks: Sequence[int]) -> None:
    if MODES[settings.mode] is None:
        return
    low, high = settings.bounds
    if not any(low <= value <= high for value in ks):
        raise SettingsError(f"this engine has graphs for K = {', '.join(map(str, ks))}: none within {low}..{high}")


def _whole(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1024:
        raise SettingsError(f"{name} must be a whole number between 0 and 1024, got {value!r}")
    return value


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST:
        raise SettingsError(f"untilSeconds must be a number above 0, got {value!r}")
    return float(value)


def parse_config(text: str) -> Config:
    """The agent's configuration from GEMMASPEC_AGENT; empty text is all defaults.

    Raises:
        SettingsError: it is no JSON object, or a value has the wrong type.
    """
    try:
        value = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise SettingsError(f"GEMMASPEC_AGENT is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise SettingsError("GEMMASPEC_AGENT must be a JSON object")
    port = value.get("port", DEFAULT_PORT)
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535):
        raise SettingsError(f"GEMMASPEC_AGENT: port must be 0 to 65535, or null for none, got {port!r}")
    stall = value.get("stallSeconds", Config.stall_seconds)
    if isinstance(stall, bool) or not isinstance(stall, int | float) or not stall > 0:
        raise SettingsError(f"GEMMASPEC_AGENT: stallSeconds must be above 0, got {stall!r}")
    start = value.get("start")
    if start is not None and not isinstance(start, dict):
        raise SettingsError("GEMMASPEC_AGENT: start must be an object")
    texts = {name: value.get(name, "") for name in ("host", "tokenSha256", "stateDir")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise SettingsError(f"GEMMASPEC_AGENT: {', '.join(texts)} must be text")
    return Config(port, texts["host"], texts["tokenSha256"], texts["stateDir"], float(stall), start)
