"""Dashboards name only what is exported, and only labels that it has. Their data is checked in e2e."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from monitoring import manifests
from monitoring.manifests import Query, queries
from monitoring.scrape import scrape_configs
from tests.monitoring import exposition
from tests.monitoring.conftest import BUILD_SECONDS, Promtool

BOARDS = (manifests.DASHBOARD, manifests.LIVE_DASHBOARD)
ALL = [query for board in BOARDS for query in queries(board)]
# What the scrape configuration adds, what rules keep, and what count_values makes.
TARGET = {"namespace", "pod", "container", "name", "revision", "job", "instance", "__name__"}
_WORDS = {"sum", "by", "rate", "increase", "histogram_quantile", "time", "on", "and", "or", "max", "group_left", "le"}
_WORDS |= {"min_over_time", "count_values", "absent", "changes", "clamp_min", "without", "k"}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Labels by name of a series, of everything that is scraped or recorded."""
    found: dict[str, set[str]] = {}
    for text in (exposition.of_operator(), exposition.of_agent(), exposition.of_vllm()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set(TARGET)).update(sample.labels)
    for group in manifests.rule_groups()["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                found[rule["record"]] = set(TARGET)
    return found


def _names(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^]]*\]|\b(by|on|group_left)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"[A-Za-z_:][\w:]*", bare)) - _WORDS


@pytest.mark.parametrize("query", ALL, ids=lambda query: query.panel)
def test_a_panel_asks_for_what_there_is(query: Query, exported: dict[str, set[str]]) -> None:
    names = _names(query.expression)
    assert names, query.expression
    assert names <= set(exported)
    labels = set(re.findall(r"(\w+)\s*[=!]~?\"", query.expression)) - {"k"}
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query.expression):
        labels |= {label.strip() for label in group.split(",")}
    assert labels <= set.union(*(exported[name] for name in names))


@pytest.mark.parametrize("rule", [rule for group in manifests.rule_groups()["groups"] for rule in group["rules"]])
def test_a_rule_asks_for_what_there_is(rule: dict[str, str], exported: dict[str, set[str]]) -> None:
    assert _names(rule["expr"]) <= set(exported)


@pytest.mark.prometheus
@pytest.mark.timeout(BUILD_SECONDS)
def test_prometheus_parses_every_query(promtool: Promtool, tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query.expression} for number, query in enumerate(ALL)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    assert f"{len(ALL)} rules found" in promtool("check", "rules", file)


@pytest.mark.prometheus
@pytest.mark.timeout(BUILD_SECONDS)
def test_prometheus_takes_what_the_monitors_become(promtool: Promtool, tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump({"scrape_configs": scrape_configs(manifests.monitors(), "5s")}))
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", file)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_dashboard_can_be_imported(board: Path) -> None:
    body = json.loads(board.read_text())
    panels = body["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [variable["name"] for variable in body["templating"]["list"]] == ["datasource", "namespace", "name"]
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"


def test_an_unknown_field_of_a_monitor_is_an_error() -> None:
    (monitor,) = (found for found in manifests.monitors() if found["metadata"]["name"] == "gemmaspec-operator")
    monitor["spec"]["podMetricsEndpoints"][0]["metricRelabelings"] = []
    with pytest.raises(ValueError, match="metricRelabelings"):
        scrape_configs([monitor], "5s")
