"""What PUT /k and GEMMASPEC_AGENT may say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemmaspec_engine.agent.settings import Config, Settings, SettingsError, at_most, parse, parse_config

KS = (0, 1, 2, 4)


def test_whole_settings() -> None:
    found = parse({"mode": "Adaptive", "k": 2, "kMin": 1, "kMax": 4, "untilSeconds": 60}, KS)
    assert found == Settings("Adaptive", 2, 1, 4, 60.0)
    assert found.bounds == (1, 4)


def test_defaults_are_the_ends_of_the_grid() -> None:
    assert parse({"mode": "Fixed"}, KS) == Settings("Fixed", 4, 0, 4)


def test_rollback_never_goes_above_the_desired_k() -> None:
    assert parse({"mode": "Rollback", "k": 2, "kMax": 4}, KS).bounds == (0, 2)


def test_a_ceiling_above_the_engine_is_the_engines() -> None:
    assert parse({"mode": "Adaptive", "kMax": 9}, KS).k_max == 4


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "object"),
        ({}, "mode"),
        ({"mode": "adaptive"}, "mode"),
        ({"mode": ["Fixed"]}, "mode"),
        ({"mode": "Fixed", "K": 3}, "unknown field K"),
        ({"mode": "Fixed", "k": -1}, "k must"),
        ({"mode": "Fixed", "k": True}, "k must"),
        ({"mode": "Fixed", "k": 1.5}, "k must"),
        ({"mode": "Adaptive", "kMin": 3, "kMax": 2}, "bounds"),
        ({"mode": "Adaptive", "kMin": 3, "kMax": 3}, "none within 3..3"),
        ({"mode": "Fixed", "untilSeconds": 0}, "untilSeconds"),
        ({"mode": "Fixed", "untilSeconds": float("inf")}, "untilSeconds"),
        ({"mode": "Fixed", "untilSeconds": "60"}, "untilSeconds"),
    ],
)
def test_refusals_name_the_field(body: Any, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parse(body, KS)


def test_at_most() -> None:
    assert [at_most(KS, k) for k in (0, 3, 4, 99)] == [0, 2, 4, 4]
    assert at_most((2, 4), 1) == 2


def test_config() -> None:
    assert parse_config("") == Config()
    text = json.dumps({"port": 1234, "tokenSha256": "ab", "stateDir": "/s", "stallSeconds": 7, "start": {"k": 1}})
    assert parse_config(text) == Config(1234, "", "ab", "/s", 7.0, {"k": 1})
    assert parse_config('{"port": null}').port is None


@pytest.mark.parametrize("text", ["[]", "{", '{"port": "x"}', '{"stallSeconds": 0}', '{"start": 1}', '{"host": 1}'])
def test_config_refusals(text: str) -> None:
    with pytest.raises(SettingsError, match="GEMMASPEC_AGENT"):
        parse_config(text)
