"""The operator as manifests/install puts it into a cluster: before the definition is there, and with its rights."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmaspec.api.spec import Benchmark
from gemmaspec.core import benchmark, names
from testbed import ControlPlane
from testbed.api import Api
from testbed.controlplane import kubectl_program
from testbed.deadline import wait_for
from tests.integration.fake_engine import BAD, FakeEngines
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import CHILDREN, NAME, Scene, speculative
from tests.integration.stage import ROOT, Stage

pytestmark = pytest.mark.control_plane

INSTALL = ROOT / "manifests" / "install"
SYSTEM, ACCOUNT = "gemmaspec-system", "gemmaspec-operator"
DEFINITION = "CustomResourceDefinition"
SUSPENDED = {
    "suspend": True,
    "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.org/c:1"}]}},
}


@pytest.fixture(scope="module")
def installed() -> list[dict[str, Any]]:
    """The objects of the installation."""
    command = [str(kubectl_program()), "kustomize", str(INSTALL)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [one for one in yaml.safe_load_all(text) if one]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A cluster that has never heard of us."""
    with ControlPlane(controllers=True) as plane:
        yield plane


@pytest.fixture(scope="module")
def operator(
    plane: ControlPlane, operator_sources: Path, installed: list[dict[str, Any]], key_options: dict[str, str]
) -> Iterator[OperatorProcess]:
    """The operator under the account and the rights of the installation, which lacks the definition."""
    without = [one for one in installed if one["kind"] != DEFINITION]
    plane.kubectl.apply(yaml.safe_dump_all(without))
    kubeconfig = plane.kubeconfig_for_service_account(SYSTEM, ACCOUNT)
    user = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
    options = key_options | {"GEMMASPEC_IMAGE": "example.org/operator:1"}
    operator = OperatorProcess(plane, operator_sources, user, kubeconfig, options)
    yield operator
    operator.kill()


@pytest.fixture(scope="module")
def stage(plane: ControlPlane, operator: OperatorProcess, crd_file: Path) -> Iterator[Stage]:
    """The cluster with the definition: the operator was started before it."""
    operator.launch()
    operator.wait_for_log("is not installed; waiting for it")
    stage = Stage(plane, crd_file)
    yield stage
    stage.close()


@pytest.fixture
def scene(stage: Stage, operator: OperatorProcess, fake_engines: FakeEngines) -> Iterator[Scene]:
    """A namespace of that cluster."""
    found = stage.scene(lambda _: operator, fake_engines)
    yield found
    found.clear()
    found.kubelet.close()


def test_operators_pod_meets_the_strictest_security_standard(plane: ControlPlane, operator: OperatorProcess) -> None:
    namespace = plane.kubectl.json("get", "namespace", SYSTEM)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    api = Api(plane.kubeconfig)
    path = f"/api/v1/namespaces/{SYSTEM}/pods"
    wait_for(lambda: api.read(path)["items"], "the operator's pod, admitted", 20)


def test_definition_that_comes_after_the_operator_is_served(scene: Scene) -> None:
    scene.apply()
    scene.wait_converged(40)
    assert scene.operator.ended is None, "it was not restarted for that"


def test_rights_suffice_and_none_is_idle(scene: Scene, installed: list[dict[str, Any]]) -> None:
    live_through_everything(scene)
    events = scene.plane.audit.events(user=scene.operator.user)
    assert events
    refused = [(event.verb, event.uri, event.code) for event in events if event.code in (401, 403)]
    assert refused == []
    # Watches are told in the audit log when they end.
    scene.operator.stop()
    scene.until(
        lambda: any(event.verb == "watch" for event in scene.plane.audit.events(user=scene.operator.user)),
        "watches",
        10,
    )
    events = scene.plane.audit.events(user=scene.operator.user)
    used = {(event.verb, event.group, slash(event.resource, event.subresource)) for event in events if event.resource}
    granted = rights(installed)
    assert used - granted == set()
    assert granted - used == set(), "rights that nothing used"


def slash(resource: str, subresource: str) -> str:
    return f"{resource}/{subresource}" if subresource else resource


def rights(installed: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Verb, group and resource of all that the operator's role grants."""
    (role,) = [one for one in installed if (one["kind"], one["metadata"]["name"]) == ("ClusterRole", ACCOUNT)]
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def live_through_everything(scene: Scene) -> None:
    """Creation, drift, children that lost their label, a rollback of K, leftovers, names that are taken."""
    scene.apply()
    scene.wait_converged(40)
    for plural, name in list(scene.children()):
        for label, value in (("gemmaspec.io/deploy", NAME), ("app.kubernetes.io/managed-by", "gemmaspec")):
            scene.merge(plural, name, {"metadata": {"labels": {label: None}}})
            scene.until(lambda: labels(scene, plural, name).get(label) == value, f"the label of {plural}", 10)  # noqa: B023
    scene.until(lambda: scene.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    scene.kubelet.serve(BAD)
    scene.until(lambda: scene.status()["k"]["effective"] == 0, "K lowered", 40)
    scene.until(lambda: len(scene.deployments()) == 1 and scene.converged(), "the new revision alone", 30)
    for plural in CHILDREN:
        leave(scene, plural)
        scene.until(lambda: scene.read(plural, "leftover") is None, f"the leftover of {plural} pruned", 20)  # noqa: B023
    benchmarked(scene)
    scene.send("POST", scene.path("services"), {"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}]}})
    scene.apply("taken")
    scene.until(lambda: stalled(scene, "taken"), "NameTaken", 10)


def benchmarked(scene: Scene) -> None:
    """A Job that is left over, and a benchmark whose name somebody holds."""
    child = next(iter(scene.children().values()))
    kept = {key: child["metadata"][key] for key in ("labels", "ownerReferences")}
    kept["labels"].pop("gemmaspec.io/revision", None)
    scene.send("POST", scene.path("jobs"), {"metadata": {"name": "leftover", **kept}, "spec": SUSPENDED})
    scene.until(lambda: scene.read("jobs", "leftover") is None, "the leftover Job pruned", 20)
    name = names.benchmark_object("measured", benchmark.mark(Benchmark(request="first")))
    scene.send("POST", scene.path("jobs"), {"metadata": {"name": name}, "spec": SUSPENDED})
    live = speculative(4, mode="Adaptive", actuator="Live", kMax=4)
    engine = {"image": "example.org/vllm:1", "allowTag": True, "vllm": "0.32.0"}
    scene.apply("measured", engine=engine, speculative=live, benchmark={"request": "first"})
    scene.until(lambda: stalled(scene, "measured"), "the Job's name taken", 60)


def labels(scene: Scene, plural: str, name: str) -> dict[str, str]:
    return dict(scene.read(plural, name)["metadata"]["labels"])


def leave(scene: Scene, plural: str) -> None:
    """A child as an earlier release may have made it, under a name that is no longer planned."""
    body = next(child for (kind, _), child in scene.children().items() if kind == plural)
    kept = {key: body["metadata"][key] for key in ("labels", "ownerReferences")}
    kept["labels"].pop("gemmaspec.io/revision", None)
    copy = {key: value for key, value in body.items() if key not in ("status", "metadata")}
    if plural == "services":
        copy["spec"] = {"ports": [{"port": 80}]}
    scene.send("POST", scene.path(plural), copy | {"metadata": {"name": "leftover", **kept}})


def stalled(scene: Scene, name: str) -> bool:
    conditions = scene.resource(name).get("status", {}).get("conditions", ())
    return any(entry["type"] == "Stalled" and entry["reason"] == "NameTaken" for entry in conditions)


def test_definition_removed_and_installed_again_is_served(scene: Scene, crd_file: Path) -> None:
    """Deleting the definition deletes every resource; the operator may end, and its pod would start again."""
    scene.operator.start()
    scene.apply()
    scene.wait_converged(40)
    scene.plane.kubectl("delete", "-f", str(crd_file), "--timeout=30s")
    scene.plane.kubectl("apply", "--server-side", "-f", str(crd_file))
    api = Api(scene.plane.kubeconfig)
    scene.until(lambda: api.ready("/apis/gemmaspec.io/v1alpha1/gemmaspecdeploys"), "the definition", 30)

    def works() -> bool:
        if scene.operator.ended is not None:
            scene.operator.kill()
            scene.operator.launch()  # as the kubelet would
        return scene.read("gemmaspecdeploys") is not None and scene.converged()

    scene.apply()
    scene.until(works, "the operator at work again", 60)
