"""The API server's answers, sorted into what the operator does about them."""

from __future__ import annotations

import json

import pytest

from gemmaspec.adapters.cluster import ApiFailure, Missing, Rejected, Stale, Taken, environment_proxy, sort_failure


def said(reason: str, message: str = "told") -> str:
    return json.dumps({"kind": "Status", "reason": reason, "message": message})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, said("AlreadyExists"), Taken),
        (409, said("Conflict"), Stale),
        (409, "not json", Stale),
        (404, said("NotFound"), Missing),
        (400, said("BadRequest"), Rejected),
        (403, said("Forbidden"), Rejected),
        (413, "", Rejected),
        (422, said("Invalid"), Rejected),
        (401, said("Unauthorized"), ApiFailure),
        (429, said("TooManyRequests"), ApiFailure),
        (500, b"\xff\xfe", ApiFailure),
        (503, "[]", ApiFailure),
        (0, "", ApiFailure),
    ],
)
def test_kinds(status: int, body: str | bytes, kind: type[ApiFailure]) -> None:
    failure = sort_failure(status, body, {})
    assert type(failure) is kind
    assert failure.status == status


def test_the_message_is_the_servers() -> None:
    assert sort_failure(422, said("Invalid", "spec.ports: Required value"), {}).message == "spec.ports: Required value"
    assert sort_failure(500, "x" * 9999, {}).message == "x" * 512


@pytest.mark.parametrize(
    ("headers", "wait"), [({}, None), ({"Retry-After": "7"}, 7.0), ({"Retry-After": "tomorrow"}, None)]
)
def test_patience_is_taken_from_the_header(headers: dict[str, str], wait: float | None) -> None:
    assert sort_failure(429, said("TooManyRequests"), headers).retry_after == wait


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.96.0.1"}, None),
    ],
)
def test_proxy_is_the_environments(
    environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy("https://10.96.0.1:443") == proxy
