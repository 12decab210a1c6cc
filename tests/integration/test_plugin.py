"""The plugin's verbs on a real API server, as a user who may only look (docs/plugin.md has the role)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gemmaspec.adapters.cluster import Cluster
from gemmaspec.adapters.reader import Reader
from gemmaspec.bench import steering
from gemmaspec.cli.bench import target
from gemmaspec.cli.main import app
from gemmaspec.core import hold
from testbed import ControlPlane
from testbed.controlplane import kubectl_program
from testbed.pki import ADMINISTRATORS
from tests.integration.test_schema import WRONG, merged

pytestmark = pytest.mark.control_plane

ROOT = Path(__file__).resolve().parents[2]
WORLD = yaml.safe_load((ROOT / "tests/cli/world.yaml").read_text(encoding="utf-8"))
NAMESPACE = "seen"
BINDING = """
apiVersion: rbac.authorization.k8s.io/v1
kind: {kind}
metadata: {{name: {user}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: gemmaspec-viewer}}
subjects: [{{kind: User, name: {user}, apiGroup: rbac.authorization.k8s.io}}]
"""


def role() -> str:
    """The role as the documentation gives it."""
    text, *_ = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/plugin.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane, stage: object) -> Iterator[ControlPlane]:
    """A control plane with one resource that has a status, and users who may look: everywhere, and in one namespace."""
    del stage  # the definition is served
    kubectl = control_plane.kubectl
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    kubectl.apply(role())
    kubectl.apply(BINDING.format(kind="ClusterRoleBinding", user="viewer", namespace=NAMESPACE))
    kubectl.apply(BINDING.format(kind="RoleBinding", user="neighbour", namespace="default"))
    resource = {
        "apiVersion": "gemmaspec.io/v1alpha1",
        "kind": "GemmaSpecDeploy",
        "metadata": {"name": "gemma4-31b", "namespace": NAMESPACE},
        "spec": merged(WRONG["good"], {}),
    }
    kubectl.apply(json.dumps(resource))
    patch = json.dumps({"status": WORLD["resource"]["status"]})
    kubectl("patch", "gsd", "gemma4-31b", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", patch)
    yield control_plane
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def run(plane: ControlPlane, user: str, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--kubeconfig", str(plane.kubeconfig_for(user))])


def test_status_for_programs(plane: ControlPlane) -> None:
    result = run(plane, "viewer", "status", "gemma4-31b", "-n", NAMESPACE, "-o", "json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["status"]["k"] == WORLD["resource"]["status"]["k"]
    assert answer["pods"] == []


def test_history_for_programs(plane: ControlPlane) -> None:
    result = run(plane, "viewer", "history", "gemma4-31b", "-n", NAMESPACE, "-o", "yaml")
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load(result.stdout) == WORLD["resource"]["status"]["history"]


def test_top_sees_all_namespaces(plane: ControlPlane) -> None:
    result = run(plane, "viewer", "top", "-o", "json")
    assert result.exit_code == 0, result.stderr
    found = {(entry["namespace"], entry["name"]): entry for entry in json.loads(result.stdout)}
    assert found[NAMESPACE, "gemma4-31b"]["kEffective"] == 2


def test_top_sees_the_own_namespace_where_one_may_see_no_more(plane: ControlPlane) -> None:
    result = run(plane, "neighbour", "top", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert {entry["namespace"] for entry in json.loads(result.stdout)} <= {"default"}


def doctor(plane: ControlPlane, user: str) -> dict[str, dict[str, Any]]:
    result = run(plane, user, "doctor", "-o", "json")
    assert result.stdout, result.stderr
    found = {entry["subject"]: entry for entry in json.loads(result.stdout)}
    assert result.exit_code == int(any(entry["grade"] == "missing" for entry in found.values()))
    return found


def test_doctor(plane: ControlPlane) -> None:
    found = doctor(plane, "viewer")
    assert found["cluster"]["grade"] == "ok"
    assert found["cluster"]["found"].startswith("Kubernetes v1.")
    assert (found["definition"]["grade"], found["operator"]["grade"]) == ("ok", "missing")
    assert "of this release" in found["definition"]["found"]
    assert found["nodes"]["grade"] in ("note", "missing", "ok")
    assert found["monitoring"]["grade"] == "note"
    assert all(entry["remedy"] for entry in found.values() if entry["grade"] == "missing")


def test_doctor_tells_what_one_may_not_see(plane: ControlPlane) -> None:
    found = doctor(plane, "neighbour")
    assert (found["nodes"]["grade"], found["operator"]["grade"]) == ("unseen", "unseen")
    assert found["definition"]["grade"] == "ok"
    assert "resources" not in found or found["resources"]["grade"] == "note", "it sees its own namespace"


def test_a_user_without_rights_is_told_what_to_ask_for(plane: ControlPlane) -> None:
    result = run(plane, "stranger", "status", "gemma4-31b", "-n", NAMESPACE)
    assert result.exit_code == 1
    assert 'User "stranger" cannot get' in result.stderr
    assert "docs/plugin.md has a role" in result.stderr


def test_who_may_only_look_is_told_what_set_k_needs(plane: ControlPlane) -> None:
    result = run(plane, "viewer", "set-k", "gemma4-31b", "0", "--for", "10m", "--yes", "-n", NAMESPACE)
    assert result.exit_code == 1
    assert 'User "viewer" cannot patch' in result.stderr
    assert "docs/plugin.md has a role" in result.stderr
    resource = plane.kubectl.json("get", "gsd", "gemma4-31b", "-n", NAMESPACE)
    assert "gemmaspec.io/hold-k" not in resource["metadata"].get("annotations", {})


def test_a_name_that_is_not_there(plane: ControlPlane) -> None:
    result = run(plane, "viewer", "status", "gemma4-99b", "-n", NAMESPACE)
    assert result.exit_code == 1
    assert '"gemma4-99b" not found' in result.stderr
    assert "kubectl get gsd -A" in result.stderr


def test_kubectl_finds_it(plane: ControlPlane) -> None:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": programs, "KUBECONFIG": str(plane.kubeconfig_for("viewer")), "COLUMNS": "120"}
    kubectl = str(kubectl_program())

    def run_it(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [kubectl, *words], env=environment, capture_output=True, text=True, timeout=120, check=True
        )

    done = run_it("gemmaspec", "status", "gemma4-31b", "-n", NAMESPACE)
    assert "4 desired, 2 effective" in done.stdout
    assert "position 0  █" in done.stdout
    completed = run_it("__complete", "gemmaspec", "status", "-n", NAMESPACE, "gem")
    assert completed.stdout.splitlines() == ["gemma4-31b", ":4"]


def test_a_benchmark_leaves_the_annotation_to_who_wrote_it(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a person writes between its look and its write: the API server refuses a write on an old look."""
    kubectl, at = plane.kubectl, ("gsd", "gemma4-31b", "-n", NAMESPACE)
    person = hold.Hold(2, time.time() + 3600).text()
    looks: list[str] = []

    async def read(cluster: Cluster, namespace: str, name: str) -> Any:
        found = await Reader(cluster).resource(namespace, name)
        looks.append(found["metadata"]["resourceVersion"])
        if len(looks) == 3:
            kubectl("annotate", *at, f"{hold.ANNOTATION}={person}", "--overwrite")
        return found

    async def play() -> None:
        cluster, _ = await Cluster.connect_as_user(str(plane.kubeconfig_for("holder", [ADMINISTRATORS])))
        note = target.note_of(cluster, NAMESPACE, "gemma4-31b")
        try:
            await note.write(1, 60.0)
            await note.write(4, 60.0)
            with pytest.raises(steering.Taken):
                await note.write(0, 60.0)
            await note.remove()
        finally:
            await cluster.close()

    monkeypatch.setattr(target, "_read", read)
    asyncio.run(play())
    assert len(looks) == 5, "the third look was old, the fourth saw the person's, the fifth before it is removed"
    assert kubectl.json("get", *at)["metadata"]["annotations"][hold.ANNOTATION] == person
    kubectl("annotate", *at, f"{hold.ANNOTATION}-")
