"""The resource's schema on a real API server: what it refuses, with which words, and what it stores."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed import ControlPlane, KubectlError
from testbed.kubectl import Kubectl

pytestmark = pytest.mark.control_plane

ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "crds" / "gemmaspec.io_gemmaspecdeploys.yaml"
WRONG = yaml.safe_load(Path(__file__).with_name("wrong_input.yaml").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in WRONG["cases"]}
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))


def merged(base: Any, over: Any) -> Any:
    """``over`` merged into ``base``; null removes a key."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return copy.deepcopy(over)
    result = {key: value for key, value in base.items() if over.get(key, value) is not None}
    for key, value in over.items():
        if value is not None:
            result[key] = merged(base.get(key), value)
    return result


def manifest(spec: Mapping[str, Any], name: str = "tried") -> str:
    metadata = {"name": name, "namespace": "default"}
    return json.dumps(
        {"apiVersion": "gemmaspec.io/v1alpha1", "kind": "GemmaSpecDeploy", "metadata": metadata, "spec": spec}
    )


@pytest.fixture
def kubectl(control_plane: ControlPlane, crd: None) -> Kubectl:
    return control_plane.kubectl


def test_definition_is_accepted_without_a_warning(control_plane: ControlPlane, crd: None) -> None:
    definition = control_plane.kubectl.json("get", "crd", "gemmaspecdeploys.gemmaspec.io")
    conditions = {entry["type"]: entry for entry in definition["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True"
    assert "NonStructuralSchema" not in conditions
    assert definition["spec"]["names"]["shortNames"] == ["gsd"]


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_refused_in_words_that_help(kubectl: Kubectl, name: str) -> None:
    case = CASES[name]
    text = manifest(merged(WRONG["good"], case.get("with", {})), case.get("resource", "tried"))
    with pytest.raises(KubectlError) as refused:
        kubectl.apply(text, "--dry-run=server")
    missing = [fragment for fragment in case["says"] if fragment not in refused.value.output]
    assert not missing, f"not said: {missing}\nsaid: {refused.value.output}"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_accepted(kubectl: Kubectl, sample: Path) -> None:
    documents = [one for one in yaml.safe_load_all(sample.read_text(encoding="utf-8")) if one]
    ours = [one for one in documents if one["kind"] == "GemmaSpecDeploy"]
    assert ours
    for one in ours:
        one["metadata"].pop("namespace", None)
        assert "created" in kubectl.apply(json.dumps(one), "--dry-run=server")


def test_every_field_at_once_is_stored_as_given(kubectl: Kubectl, stored: str) -> None:
    full = yaml.safe_load(Path(__file__).with_name("full_spec.yaml").read_text(encoding="utf-8"))
    kubectl.apply(manifest(full, stored))
    assert kubectl.json("get", "gsd", stored)["spec"] == full
    definition = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    unused = sorted(path for path in fields(schema) if not holds(full, path))
    assert unused == UNUSED_IN_FULL, "full_spec.yaml no longer holds every field of the schema"


def test_only_fields_without_a_recipe_have_defaults(kubectl: Kubectl, stored: str) -> None:
    kubectl.apply(manifest({"recipe": "tiny-cpu"}, stored))
    assert kubectl.json("get", "gsd", stored)["spec"] == {"recipe": "tiny-cpu", "replicas": 1}


def test_applying_again_changes_nothing(kubectl: Kubectl, stored: str, tmp_path: Path) -> None:
    """What GitOps sees: no difference between the file and the defaulted resource."""
    file = tmp_path / "resource.json"
    file.write_text(manifest(WRONG["good"], stored))
    kubectl("apply", "--server-side", "-f", str(file))
    before = kubectl.json("get", "gsd", stored)["metadata"]["resourceVersion"]
    assert kubectl("diff", "--server-side", "-f", str(file)) == ""
    kubectl("apply", "--server-side", "-f", str(file))
    assert kubectl.json("get", "gsd", stored)["metadata"]["resourceVersion"] == before


def test_columns_tell_what_matters(kubectl: Kubectl, stored: str) -> None:
    kubectl.apply(manifest(WRONG["good"], stored))
    status = {
        "target": "/models/target",
        "k": {"desired": 4, "effective": 2},
        "acceptance": {"mean": 0.61},
        "throughput": {"tokensPerSecond": 41.5},
        "conditions": [condition("Ready", "True", "Serving")],
    }
    kubectl("patch", "gsd", stored, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    head, row = (line.split() for line in kubectl("get", "gsd", stored).splitlines())
    assert head == ["NAME", "TARGET", "K", "K-EFF", "ACCEPTANCE", "TOK/S", "READY", "REASON", "AGE"]
    assert row[:-1] == [stored, "/models/target", "4", "2", "0.61", "41.5", "True", "Serving"]
    assert stored in kubectl("get", "gemmaspec")


def test_scale_subresource(kubectl: Kubectl, stored: str) -> None:
    kubectl.apply(manifest(WRONG["good"], stored))
    kubectl("scale", "gsd", stored, "--replicas=3")
    resource = kubectl.json("get", "gsd", stored)
    assert resource["spec"]["replicas"] == 3
    assert resource["metadata"]["generation"] == 2
    kubectl(
        "patch",
        "gsd",
        stored,
        "--subresource=status",
        "--type=merge",
        "-p",
        '{"status":{"selector":"a=b","replicas":2}}',
    )
    scale = json.loads(kubectl("get", "--raw", f"{PATH}/{stored}/scale"))
    assert (scale["spec"]["replicas"], scale["status"]) == (3, {"replicas": 2, "selector": "a=b"})


PATH = "/apis/gemmaspec.io/v1alpha1/namespaces/default/gemmaspecdeploys"
# Alternatives of fields that the full spec holds.
UNUSED_IN_FULL = [
    "cache.compile.pvc",
    "cache.compile.pvc.claimName",
    "cache.weights.hostPath",
    "cache.weights.hostPath.path",
    "cache.weights.imageVolume",
    "cache.weights.imageVolume.pullPolicy",
    "cache.weights.imageVolume.reference",
    "cache.weights.perPod",
    "cache.weights.perPod.size",
    "cache.weights.perPod.storageClassName",
    "engine.patches.source.url",
    "recipe",
]


@pytest.fixture
def stored(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a resource that is removed after the test."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:36].rstrip("-")
    yield name
    kubectl("delete", "gsd", name, "--ignore-not-found")


def condition(kind: str, status: str, reason: str) -> dict[str, str]:
    when = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": when}


def fields(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Dotted paths of the fields below a schema; those of a field are left out where it is free-form."""
    inner = schema.get("items", schema)
    for name, child in inner.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here
        yield from fields(child, here)


def holds(value: Any, path: str) -> bool:
    first, _, rest = path.partition(".")
    if isinstance(value, list):
        return any(holds(item, path) for item in value)
    if not isinstance(value, Mapping) or first not in value:
        return False
    return not rest or holds(value[first], rest)
