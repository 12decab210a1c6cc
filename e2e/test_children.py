"""The operator, in its pod, repairs its children; without it a deletion finishes all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from demo.resource import GONE_SECONDS, Gone, Resource
from gemmaspec.core import names
from stories import Site, operator_down
from testbed.deadline import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_NOWHERE = {"nodes": {"selector": {"e2e/nowhere": "true"}}}  # its pod stays pending: children without an engine
_KINDS = ("deployment", "service", "serviceaccount", "configmap", "poddisruptionbudget")
_SECONDS = 2.0


@pytest.fixture(scope="module")
def resource(site: Site) -> Iterator[Resource]:
    found = site.apply("children", **_NOWHERE)
    wait_for(lambda: all(_children(found, kind) for kind in _KINDS), "its children", 30)
    yield found
    found.delete()


def _children(resource: Resource, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = resource.json("get", kind, "-l", f"{names.OWNER_LABEL}={resource.name}")["items"]
    return [entry for entry in found if "deletionTimestamp" not in entry["metadata"]]


@pytest.mark.parametrize("kind", _KINDS)
def test_a_deleted_child_comes_back(resource: Resource, kind: str) -> None:
    before = _children(resource, kind)[0]["metadata"]
    resource.kubectl("delete", kind, before["name"], "--wait=false")

    def back() -> bool:
        return any(child["metadata"]["uid"] != before["uid"] for child in _children(resource, kind))

    wait_for(back, f"another {kind}", _SECONDS)


def test_an_edited_service_is_put_right(resource: Resource) -> None:
    patch = '{"spec":{"ports":[{"name":"http","port":9999,"targetPort":"http","protocol":"TCP"}]}}'
    resource.kubectl("patch", "service", resource.name, "--type=merge", "-p", patch)
    wait_for(lambda: _children(resource, "service")[0]["spec"]["ports"][0]["port"] == 8000, "port 8000 again", _SECONDS)


def test_an_engine_made_to_run_otherwise_is_put_right(resource: Resource) -> None:
    deployment = _children(resource, "deployment")[0]["metadata"]["name"]
    resource.kubectl("set", "env", f"deployment/{deployment}", "-c", "engine", "SOMEBODY=else")

    def clean() -> bool:
        containers = _children(resource, "deployment")[0]["spec"]["template"]["spec"]["containers"]
        return all(entry["name"] != "SOMEBODY" for container in containers for entry in container.get("env", ()))

    wait_for(clean, "the foreign variable gone", _SECONDS)


def test_deletion_finishes_without_the_operator(site: Site) -> None:
    doomed = site.apply("doomed", **_NOWHERE)
    wait_for(lambda: all(_children(doomed, kind) for kind in _KINDS), "its children", 30)
    with operator_down(site):
        doomed.delete()
        with pytest.raises(Gone):
            doomed.read()
        wait_for(lambda: not any(_children(doomed, kind) for kind in _KINDS), "its children gone", GONE_SECONDS)
        assert doomed.pods() == []
