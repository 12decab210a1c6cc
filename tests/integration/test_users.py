"""Users who hold Kubernetes' own roles in a namespace: what the installation lets them do with resources there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from testbed import ControlPlane, KubectlError
from testbed.deadline import wait_for
from testbed.kubectl import Kubectl
from tests.integration.stage import ROOT
from tests.integration.test_schema import WRONG

pytestmark = pytest.mark.control_plane

ROLES = ROOT / "manifests" / "install" / "users.yaml"
HOME, OTHER = "team-home", "team-other"
LOOKING = [["get", "gsd", "own"], ["get", "gsd"], ["get", "gsd", "own", "--subresource=status"]]
CHANGING = [
    ["patch", "gsd", "own", "--type=merge", "-p", '{"spec":{"replicas":2}}'],
    ["scale", "gsd/own", "--replicas=1"],
    ["delete", "gsd", "own", "--dry-run=server"],
]
STATUS = ["patch", "gsd", "own", "--subresource=status", "--type=merge", "-p", '{"status":{"readyReplicas":9}}']


@pytest.fixture(scope="module")
def users(control_plane: ControlPlane, stage: object) -> Iterator[dict[str, Kubectl]]:
    """kubectl of a user for each role, who holds it in one of two namespaces, each with a resource."""
    del stage  # the definition is served
    admin = control_plane.kubectl
    admin.apply(ROLES.read_text(encoding="utf-8"))
    for namespace in (HOME, OTHER):
        admin.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))
        admin.apply(json.dumps(resource("own", namespace)))
    found = {}
    for role in ("view", "edit", "admin"):
        admin("create", "rolebinding", role, f"--clusterrole={role}", f"--user=user-{role}", "-n", HOME)
        found[role] = control_plane.kubectl_as(control_plane.kubeconfig_for(f"user-{role}"))
        wait_for(lambda: found[role]("auth", "can-i", "get", "gsd", "-n", HOME) == "yes\n", "the aggregated rule", 60)  # noqa: B023
    yield found
    admin("delete", "namespace", HOME, OTHER, "--wait=false")


def resource(name: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "gemmaspec.io/v1alpha1",
        "kind": "GemmaSpecDeploy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": WRONG["good"],
    }


def refused(kubectl: Kubectl, *arguments: str) -> None:
    with pytest.raises(KubectlError) as error:
        kubectl(*arguments)
    assert "orbidden" in error.value.output, error.value.output


def test_view_looks_and_changes_nothing(users: dict[str, Kubectl]) -> None:
    for command in LOOKING:
        assert users["view"](*command, "-n", HOME)
    for command in [*CHANGING, STATUS]:
        refused(users["view"], *command, "-n", HOME)


@pytest.mark.parametrize("role", ["edit", "admin"])
def test_edit_makes_and_changes_all_but_the_status(users: dict[str, Kubectl], role: str) -> None:
    for command in [*LOOKING, *CHANGING]:
        assert users[role](*command, "-n", HOME)
    users[role].apply(yaml.safe_dump(resource(f"of-{role}", HOME)))
    users[role]("delete", "gsd", f"of-{role}", "-n", HOME)
    refused(users[role], *STATUS, "-n", HOME)


@pytest.mark.parametrize("role", ["view", "edit", "admin"])
def test_no_role_reaches_another_namespace(users: dict[str, Kubectl], role: str) -> None:
    refused(users[role], "get", "gsd", "-n", OTHER)
    refused(users[role], "get", "gsd", "-A")
