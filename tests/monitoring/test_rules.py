"""Recording rules and alerts under the real promtool; every alert fires where it should and only there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import manifests
from tests.monitoring.conftest import BUILD_SECONDS, Promtool

CASES = Path(__file__).with_name("rules_cases.yaml")
DOCS = Path(__file__).parents[2] / "docs"
ALERTS = [rule["alert"] for rule in manifests.alerts()]


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rules as a file of Prometheus' own format."""
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(manifests.rule_groups(), sort_keys=False))
    return file


@pytest.mark.prometheus
@pytest.mark.timeout(BUILD_SECONDS)
def test_promtool_takes_the_rules(promtool: Promtool, rules: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", rules)


@pytest.mark.prometheus
@pytest.mark.timeout(BUILD_SECONDS)
def test_alerts_fire_when_they_should(promtool: Promtool, rules: Path) -> None:
    (rules.parent / CASES.name).write_text(CASES.read_text())
    assert "SUCCESS" in promtool("test", "rules", rules.parent / CASES.name)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_seen_firing_and_silent(name: str) -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test.get("alert_rule_test", ())]
    fired = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == name]
    assert {True, False} <= set(fired), fired


@pytest.mark.parametrize("rule", list(manifests.alerts()), ids=ALERTS)
def test_every_alert_tells_what_to_do(rule: Mapping[str, Any]) -> None:
    said = rule["annotations"]
    assert said["summary"]
    assert said["description"]
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    page, _, anchor = said["runbook"].removeprefix("docs/").partition("#")
    anchors = [_anchor(title) for title in re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)]
    assert anchor == rule["alert"].lower()
    assert anchor in anchors


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
