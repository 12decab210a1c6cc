"""The chart as rendered: its own tests, and what Helm, kube-score and kustomize say of it, in every shape."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmaspec.core.observation import Observation, Resource
from gemmaspec.core.owner import Owner
from gemmaspec.core.plan import benchmark_job
from gemmaspec.core.reconcile import Settings, reconcile
from gemmaspec.core.resolve import resolve
from gemmaspec.recipes import load
from gemmaspec.runtime import options
from manifests import assemble
from testbed.controlplane import kubectl_program
from testbed.helm import Helm, HelmError, helm3, kube_score, settings, unittest
from tests.integration.stage import ROOT

# A first run builds Helm 4, Helm 3, helm-unittest and kube-score.
pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(1800)]

CHART = ROOT / "charts" / "gemmaspec"
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "as it comes": {},
    "namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "closed": {"networkPolicy.enabled": True, "crds.keep": False, "image.pullPolicy": "Always"},
    "bare": {
        "crds.enabled": False,
        "rbac.create": False,
        "serviceAccount.create": False,
        "metrics.service": False,
        "key.generate": False,
    },
    "every value": {
        "nameOverride": "speculation",
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccount.annotations": {"a": "b"},
        "operator.hostPathPrefixes": ["/var/lib/models"],
        "podLabels": {"team": "x"},
        "podAnnotations": {"note": "y"},
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "networkPolicy.enabled": True,
        "networkPolicy.metricsFrom": [{"namespaceSelector": {}}],
        "networkPolicy.engines.namespaces": ["llm"],
        "networkPolicy.engines.clientsFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    },
}
FILES = {"gemmaspec_engine/launch.py": ""}
# A throttled operator answers late, and it uses little.
NO_CPU_LIMIT = "--ignore-container-cpu-limit"
# The one exception beside it: off by default, as a chart does not know where the API server listens.
OPEN = "pod-networkpolicy"


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


def test_the_charts_own_tests_pass() -> None:
    assert re.search(r"^Tests: +[1-9]\d* passed, \d+ total$", unittest(CHART), re.MULTILINE)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_lints(helm: Helm, shape: str) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *settings(SHAPES[shape]))


@pytest.mark.parametrize("shape", SHAPES)
def test_helm_3_renders_the_same(helm: Helm, shape: str, tmp_path: Path) -> None:
    assert by_name(helm3(tmp_path).objects(CHART, SHAPES[shape])) == by_name(helm.objects(CHART, SHAPES[shape]))


@pytest.mark.parametrize("shape", SHAPES)
def test_kube_score_finds_nothing_critical(helm: Helm, shape: str) -> None:
    critical = {
        one["check"] for one in kube_score(helm.template(CHART, SHAPES[shape]), NO_CPU_LIMIT) if one["grade"] == 1
    }
    assert critical == (set() if "networkPolicy.enabled" in SHAPES[shape] else {OPEN})


def test_wrong_values_are_refused_by_name(helm: Helm) -> None:
    for values, said in (({"image.digest": "latest"}, "digest"), ({"watchNamespace": "a"}, "watchNamespace")):
        with pytest.raises(HelmError, match=said):
            helm.template(CHART, values)


def test_it_installs_what_kustomize_installs(helm: Helm) -> None:
    """Two ways of one installation: the same rules, definition and pod, but for the chart's names and labels."""
    both = [helm.objects(CHART), kustomized(ROOT / "manifests" / "install")]
    ours, theirs = ({(one["kind"], one["metadata"]["name"]): one for one in objects} for objects in both)
    roles = [[key for key in found if key[0] == "ClusterRole"] for found in (ours, theirs)]
    assert sorted(roles[0]) == sorted(roles[1])
    assert {name for _, name in roles[0]} == {"gemmaspec-operator", "gemmaspec-view", "gemmaspec-edit"}
    for key in roles[0]:
        assert ours[key]["rules"] == theirs[key]["rules"]
    definition = ("CustomResourceDefinition", "gemmaspecdeploys.gemmaspec.io")
    assert ours[definition]["spec"] == theirs[definition]["spec"]
    name = ("Deployment", "gemmaspec-operator")
    chart, manifest = (found[name]["spec"]["template"]["spec"] for found in (ours, theirs))
    for key in ("livenessProbe", "readinessProbe", "securityContext", "ports", "volumeMounts"):
        assert chart["containers"][0][key] == manifest["containers"][0][key], key
    assert chart["volumes"] == manifest["volumes"]
    assert chart["securityContext"].items() >= manifest["securityContext"].items()


def test_every_option_of_the_operator_is_given_by_the_chart(helm: Helm) -> None:
    known = set(re.findall(r"\bGEMMASPEC_[A-Z_]+\b", Path(options.__file__).read_text(encoding="utf-8")))
    (deployment,) = [one for one in helm.objects(CHART) if one["kind"] == "Deployment"]
    given = {entry["name"]: entry["value"] for entry in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert set(given) == known - {"GEMMASPEC_"}
    read = options.from_environment({name: value for name, value in given.items() if name != "GEMMASPEC_KEY_FILE"})
    assert read.image, "benchmarks run in the operator's own image"
    assert replace(read, image="") == options.Options(), "the chart's defaults are the operator's"


def test_network_policies_mean_the_pods_that_there_are(helm: Helm) -> None:
    """Selectors and ports of the policies against the pods that they are about: a name that is off closes all."""
    values = {"networkPolicy.enabled": True, "networkPolicy.engines.namespaces": ["llm"]}
    objects = {(one["kind"], one["metadata"]["name"]): one for one in helm.objects(CHART, values)}
    operator = objects["Deployment", "gemmaspec-operator"]["spec"]["template"]
    own = objects["NetworkPolicy", "gemmaspec-operator"]["spec"]
    engines = objects["NetworkPolicy", "gemmaspec-engines"]["spec"]
    pod, job = made("Deployment"), made("Job")
    assert selects(own["podSelector"], operator)
    assert {port["port"] for rule in own["ingress"] for port in rule["ports"]} == ports(operator)
    assert selects(engines["podSelector"], pod)
    assert selects(own["egress"][-1]["to"][0]["podSelector"], pod)
    assert selects(own["egress"][-1]["to"][0]["podSelector"], job), "it serves what it measured"
    assert not selects(engines["podSelector"], job)
    scrape, measure, clients = engines["ingress"]
    assert selects(scrape["from"][0]["podSelector"], operator)
    assert selects(measure["from"][0]["podSelector"], job)
    for rule in (scrape, measure):
        assert {port["port"] for port in rule["ports"]} == ports(pod) == {"http", "agent"}
    assert [port["port"] for port in clients["ports"]] == ["http"]


def made(kind: str) -> dict[str, Any]:
    """The template of the pods that the operator makes by a Deployment, an engine with an agent, or by a Job."""
    spec = {"recipe": "tiny-cpu", "speculative": {"control": {"actuator": "Live"}}, "benchmark": {"request": "once"}}
    owner = Owner("llm", "tiny", "u")
    if kind == "Job":
        resolved = resolve(spec, load())
        return dict(benchmark_job(owner, resolved, "tiny-benchmark", "operator:1", {})["spec"]["template"])
    settings = Settings(load(), FILES, key=b"0123456789", live_files=FILES)
    resource = Resource(owner, 1, False, spec, {})
    bodies = [getattr(action, "body", {}) for action in reconcile(Observation(resource, 0.0), settings).actions]
    (deployment,) = [body for body in bodies if body.get("kind") == kind]
    return dict(deployment["spec"]["template"])


def selects(selector: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    """Whether a selector of labels alone means the pods of a template."""
    assert set(selector) == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= template["metadata"]["labels"].items())


def ports(template: Mapping[str, Any]) -> set[str]:
    return {port["name"] for one in template["spec"]["containers"] for port in one.get("ports", ())}


def test_the_single_file_is_the_kustomization() -> None:
    single = [one for one in yaml.safe_load_all(assemble.SINGLE.read_text(encoding="utf-8")) if one]
    assert by_name(single) == by_name(kustomized(ROOT / "manifests" / "install"))


def test_the_operator_of_one_namespace_has_no_right_beyond() -> None:
    objects = kustomized(ROOT / "manifests" / "namespaced")
    assert [one["metadata"]["namespace"] for one in objects if one["kind"].endswith("RoleBinding")] == ["llm"]
    (deployment,) = [one for one in objects if one["kind"] == "Deployment"]
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "GEMMASPEC_NAMESPACES", "value": "llm"} in env
    assert {"name": "GEMMASPEC_KEY_FILE", "value": "/etc/gemmaspec/key/key"} in env, "what was there stays"


def kustomized(folder: Path) -> list[dict[str, Any]]:
    command = [str(kubectl_program()), "kustomize", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [one for one in yaml.safe_load_all(text) if one]


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects}
