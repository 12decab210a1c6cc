"""What doctor asks for, and what it makes of refusals; the cluster is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gemmaspec.adapters.cluster import ApiFailure, Missing, Rejected
from gemmaspec.adapters.reader import Reader
from gemmaspec.cli.checkup import Unseen
from gemmaspec.cli.doctor import look

OPERATORS = "/apis/apps/v1/deployments"
SYSTEM_OPERATORS = "/apis/apps/v1/namespaces/gemmaspec-system/deployments"
ALL = "/apis/gemmaspec.io/v1alpha1/gemmaspecdeploys"
OWN = "/apis/gemmaspec.io/v1alpha1/namespaces/own/gemmaspecdeploys"
ENTRY = {"metadata": {"name": "a", "namespace": "own"}}


class FakeCluster:
    """A fake API server: the answers that it is given, 403 for the rest."""

    server = "https://192.0.2.1"

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = {"/version": {"gitVersion": "v1.36.3"}, **answers}

    async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> Any:
        found = self.answers.get(path, Rejected(403, f"{path} is forbidden"))
        if isinstance(found, ApiFailure):
            raise found
        return found

    async def serves_resource(self) -> bool:
        return True


def seen(answers: Mapping[str, Any], namespace: str | None = None) -> Any:
    return asyncio.run(look(Reader(FakeCluster(answers)), namespace, "own"))  # type: ignore[arg-type]


def test_who_may_see_nothing_sees_no_fault() -> None:
    found = seen({})
    for field in ("definition", "operators", "key", "metrics", "monitors", "nodes", "runtime_classes", "resources"):
        value = getattr(found, field)
        assert isinstance(value, Unseen), field
        assert value.forbidden


def test_who_may_not_see_all_namespaces_sees_the_own_one() -> None:
    assert seen({OWN: {"items": [ENTRY]}}).resources == [ENTRY]


def test_a_namespace_that_is_named_is_not_replaced() -> None:
    assert isinstance(seen({OWN: {"items": [ENTRY]}}, "other").resources, Unseen)


def test_the_operator_is_looked_for_where_our_manifests_put_it() -> None:
    assert seen({SYSTEM_OPERATORS: {"items": []}}).operators == []


def test_a_cluster_without_the_definition_has_no_resources() -> None:
    assert seen({ALL: Missing(404, "not found")}).resources == []


@pytest.mark.parametrize("status", [500, 503])
def test_a_failure_is_no_matter_of_rights(status: int) -> None:
    found = seen({OPERATORS: ApiFailure(status, "etcd is away")}).operators
    assert found == Unseen("etcd is away", forbidden=False)


def test_an_api_server_that_does_not_know_us_ends_it() -> None:
    with pytest.raises(ApiFailure):
        seen({"/version": ApiFailure(401, "Unauthorized")})
