"""Names, units and help texts as Prometheus wants them, and a reference that is no older than the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gemmaspec.runtime.metrics_reference import render
from tests.monitoring import exposition
from tests.monitoring.conftest import BUILD_SECONDS, Promtool

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.prometheus
@pytest.mark.timeout(BUILD_SECONDS)
@pytest.mark.parametrize("source", [exposition.of_operator, exposition.of_agent])
def test_promtool_finds_no_fault(promtool: Promtool, source: object) -> None:
    assert callable(source)
    assert promtool("check", "metrics", stdin=source()) == ""


def test_every_family_has_a_series_in_the_exposition() -> None:
    """Else promtool and the dashboard's test would look at less than there is."""
    text = exposition.of_operator()
    for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE):
        assert re.search(rf"^{name}(_bucket|_total)?[{{ ]", text, re.MULTILINE), name


def test_the_reference_is_fresh() -> None:
    assert PAGE.read_text() == render(), "run `make generate`"


def test_the_reference_names_every_family() -> None:
    page = PAGE.read_text()
    for text in (exposition.of_operator(), exposition.of_agent()):
        for name in re.findall(r"^# HELP (\S+) ", text, re.MULTILINE):
            assert name.removesuffix("_created") in page, name
