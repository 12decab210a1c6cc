"""manifests/monitoring, read: monitors, rules, and the queries of the dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).resolve().parents[2] / "manifests" / "monitoring"
DASHBOARD: Final = FOLDER / "dashboards" / "gemmaspec.json"
LIVE_DASHBOARD: Final = FOLDER / "dashboards" / "gemmaspec-live.json"
ROLLED_BACK: Final = "GemmaSpecRolledBack"
# What Grafana puts in for its variables; intervals that suit a scrape every few seconds.
_VARIABLES: Final = {"$namespace": ".*", "$name": ".*", "$__rate_interval": "1m", "$__interval": "15s"}


@dataclass(frozen=True)
class Query:
    """One query of a panel, Grafana's variables filled in."""

    panel: str
    expression: str


def monitors() -> list[dict[str, Any]]:
    """The PodMonitors."""
    return [_read(FOLDER / name) for name in ("operator.yaml", "engines.yaml")]


def rule_groups() -> dict[str, Any]:
    """The rules in the form of Prometheus' own rule files."""
    return {"groups": _read(FOLDER / "rules.yaml")["spec"]["groups"]}


def alerts() -> Iterator[dict[str, Any]]:
    """Every alerting rule."""
    for group in rule_groups()["groups"]:
        yield from (rule for rule in group["rules"] if "alert" in rule)


def queries(dashboard: Path) -> list[Query]:
    """Every query of every panel, and those that mark moments."""
    body = json.loads(dashboard.read_text())
    panels = [(panel["title"], target["expr"]) for panel in body["panels"] for target in panel.get("targets", ())]
    marks = [(mark["name"], mark["expr"]) for mark in body["annotations"]["list"]]
    return [Query(title, filled(expression)) for title, expression in panels + marks]


def filled(expression: str) -> str:
    """The query as Grafana sends it, with everything chosen. Raises ValueError for a variable that is not known."""
    for name, value in _VARIABLES.items():
        expression = re.sub(rf"{re.escape(name)}\b", value, expression)
    if "$" in expression:
        raise ValueError(f"unknown variable in {expression!r}")
    return expression


def _read(file: Path) -> dict[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(file.read_text())
    return dict(found)
