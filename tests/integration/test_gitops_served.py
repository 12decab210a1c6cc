"""Argo CD's own comparing and syncing of resources on a real API server, beside a running operator.

A campaign, since the first run builds Argo CD's packages for minutes: `pytest -m campaign` on this file.
"""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.installation import established
from testbed import ControlPlane
from testbed.deadline import wait_for
from testbed.gitops import GitopsError, argo_difference, argo_sync
from testbed.golang import GO_NEXT, sources
from testbed.kubectl import KubectlError
from tests.integration.fake_engine import BAD
from tests.integration.scene import NAME, Scene
from tests.integration.stage import ROOT

pytestmark = [pytest.mark.control_plane, pytest.mark.campaign, pytest.mark.timeout(3600)]

GITOPS = ROOT / "manifests" / "gitops"
LUA = GITOPS / "argocd" / "health.lua"
FULL = Path(__file__).with_name("full_spec.yaml")
WAVE = "argocd.argoproj.io/sync-wave"
# Definitions of the samples' kinds: module, version, checksum, file, name.
DEFINITIONS = {
    "argocd/application.yaml": (
        "github.com/argoproj/argo-cd/v3",
        "v3.6.1",
        "h1:OmhqeKiR3C//awbFrhQqFdtRI+Qiv17j8vqm3UkMj/g=",
        "manifests/crds/application-crd.yaml",
        "applications.argoproj.io",
    ),
    "flux/engines.yaml": (
        "github.com/fluxcd/kustomize-controller",
        "v1.10.1",
        "h1:IjTnrkIy0ULJoTNC2ZKuMb32vkqj7dJ6zt6UqbTFxKA=",
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
        "kustomizations.kustomize.toolkit.fluxcd.io",
    ),
}


def resource(scene: Scene, **over: Any) -> dict[str, Any]:
    """The resource as a repository holds it."""
    return {
        "apiVersion": "gemmaspec.io/v1alpha1",
        "kind": "GemmaSpecDeploy",
        "metadata": {"name": NAME, "namespace": scene.namespace},
        "spec": scene.spec(**over),
    }


def marker(scene: Scene, wave: int) -> dict[str, Any]:
    """A ConfigMap that comes in a wave."""
    metadata = {"name": "after", "namespace": scene.namespace, "annotations": {WAVE: str(wave)}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def synced(scene: Scene, *objects: dict[str, Any]) -> list[dict[str, str]]:
    return argo_sync(scene.plane.kubeconfig, LUA, scene.namespace, objects)


def difference(scene: Scene, wanted: dict[str, Any]) -> dict[str, Any]:
    return argo_difference(scene.plane.kubeconfig, wanted)


def test_nothing_to_fight_about(scene: Scene) -> None:
    """Defaults of the API server, the status, and K moved by the operator are no difference; another spec is one."""
    wanted = resource(scene)
    scene.operator.start()
    synced(scene, wanted)
    annotated = copy.deepcopy(wanted)
    annotated["metadata"]["annotations"] = {"e2e/synced": scene.namespace}
    scene.wait_converged(60)
    assert "replicas" not in wanted["spec"]
    assert scene.resource()["spec"]["replicas"] == 1, "the API server has defaulted something"
    assert not difference(scene, annotated)["modified"]
    scene.until(lambda: scene.is_condition("SpeculationHealthy", "True"), "proved acceptance", 60)
    scene.kubelet.serve(BAD)
    scene.until(lambda: scene.status()["k"]["effective"] == 0, "K lowered", 60)
    assert not difference(scene, annotated)["modified"], "K is the operator's, and stands in the status"
    annotated["spec"]["replicas"] = 2
    assert difference(scene, annotated)["modified"]


def test_no_field_differs_from_itself(scene: Scene) -> None:
    """A resource that sets every field."""
    scene.kubelet.close()
    wanted = resource(scene) | {"spec": yaml.safe_load(FULL.read_text(encoding="utf-8"))}
    synced(scene, wanted)
    wanted["metadata"]["annotations"] = {"e2e/synced": scene.namespace}
    assert not difference(scene, wanted)["modified"]


def test_a_later_wave_waits_for_the_engine(scene: Scene) -> None:
    with ThreadPoolExecutor(1) as pool:
        sync = pool.submit(synced, scene, resource(scene), marker(scene, 1))
        scene.until(lambda: scene.read("gemmaspecdeploys"), "the first wave", 60)
        scene.never(lambda: scene.read("configmaps", "after"), "the second wave came before an engine", 5)
        scene.operator.start()
        steps = sync.result(300)
    assert scene.converged()
    assert scene.read("configmaps", "after")["metadata"]["creationTimestamp"] >= since_ready(scene)
    assert {step["status"] for step in steps} == {"Synced"}


def test_a_later_wave_waits_behind_a_resource_at_zero(scene: Scene) -> None:
    """Argo CD waits for Healthy, and Suspended is not that: docs/gitops.md warns of it."""
    scene.operator.start()
    with ThreadPoolExecutor(1) as pool:
        sync = pool.submit(synced, scene, resource(scene, replicas=0), marker(scene, 1))
        scene.until(lambda: scene.read("gemmaspecdeploys"), "the first wave", 60)
        scene.until(lambda: scene.status().get("observedGeneration") == 1, "the operator's word", 60)
        scene.never(lambda: scene.read("configmaps", "after"), "the second wave came behind a suspended one", 10)
        scene.merge("gemmaspecdeploys", NAME, {"spec": {"replicas": 1}})
        sync.result(300)
    assert scene.read("configmaps", "after")["metadata"]["creationTimestamp"] >= since_ready(scene)


def test_a_spec_that_cannot_be_ends_the_sync(scene: Scene) -> None:
    scene.operator.start()
    with pytest.raises(GitopsError, match=r"Failed: .* unsuccessfully"):
        synced(scene, resource(scene, recipe="no-such-recipe"), marker(scene, 1))
    assert scene.is_condition("Stalled", "True", "UnknownRecipe")
    assert not scene.read("configmaps", "after")


def since_ready(scene: Scene) -> str:
    return str(scene.condition("Ready")["lastTransitionTime"])


@pytest.mark.parametrize("operator_there", [True, False], ids=["beside the operator", "after the operator"])
def test_what_is_pruned_leaves_no_pod(scene: Scene, operator_there: bool) -> None:
    """Taken out of the repository; also where the operator went first, as at the end of a whole installation."""
    scene.operator.start()
    synced(scene, resource(scene), marker(scene, 0))
    scene.wait_converged(60)
    assert scene.all("pods")
    if not operator_there:
        scene.operator.kill()
    steps = synced(scene, marker(scene, 0))
    assert ("Pruned", "gemmaspec.io/GemmaSpecDeploy") in {
        (step["status"], "/".join(step["object"].split("/")[:2])) for step in steps
    }, steps
    scene.until(lambda: not scene.children() and not scene.all("pods"), "all of it gone", 120)
    assert scene.read("configmaps", "after"), "what stays in the repository stays"


@pytest.mark.parametrize("sample", DEFINITIONS)
def test_samples_are_in_order(control_plane: ControlPlane, sample: str) -> None:
    """Argo CD's Application and Flux' Kustomization, before the tools' own definitions."""
    kubectl = control_plane.kubectl
    module, version, checksum, file, name = DEFINITIONS[sample]
    kubectl("apply", "--server-side", "-f", str(sources(module, version, checksum, go=GO_NEXT) / file))
    wait_for(lambda: established(kubectl, name), f"{name} established", 60)
    body = yaml.safe_load((GITOPS / sample).read_text(encoding="utf-8"))
    namespace = body["metadata"].setdefault("namespace", "argocd")
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))
    wait_for(lambda: name in kubectl("api-resources", "--output=name").split(), f"{name} served", 60)
    strictly = ("--dry-run=server", "--validate=strict")
    kubectl.apply(json.dumps(body), *strictly)
    body["spec"]["none-such"] = True
    with pytest.raises(KubectlError, match="unknown field"):
        kubectl.apply(json.dumps(body), *strictly)
