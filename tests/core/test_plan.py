"""Whole objects of representative resources, and what makes a new revision and what does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmaspec.core.plan import Owner, Plan, engine_identity, plan
from gemmaspec.core.resolve import resolve
from gemmaspec.recipes import load

GOLDEN = Path(__file__).parents[1] / "golden" / "plan"
RESOURCES = sorted(file for file in GOLDEN.glob("*.yaml") if not file.name.endswith(".rendered.yaml"))
# The engine's own files change with every release; what is pinned here is how any files are delivered.
FILES = {"gemmaspec_engine/__init__.py": "", "gemmaspec_engine/launch.py": "print('launch')\n"}


class Readable(yaml.SafeDumper):
    """No anchors, and texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, _text)


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")))


def planned(resource: dict[str, Any], k: int | None = None, files: dict[str, str] | None = None) -> Plan:
    metadata = resource["metadata"]
    resolved = resolve(resource["spec"], load())
    owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
    return plan(owner, resolved, resolved.k if k is None else k, FILES if files is None else files)


@pytest.mark.parametrize("file", RESOURCES, ids=lambda file: file.stem)
def test_rendered_objects(file: Path, golden: Callable[[str, str], None]) -> None:
    found = planned(read(file.stem))
    objects = [*found.shared, found.config, found.deployment]
    header = f"# {file.name} as objects. Written by `pytest --update-golden`.\n"
    text = yaml.dump_all(objects, Dumper=Readable, sort_keys=False, width=120, allow_unicode=True)
    golden(f"plan/{file.stem}.rendered.yaml", header + text)


def test_every_input_has_objects_and_every_objects_an_input() -> None:
    rendered = {file.name.removesuffix(".rendered.yaml") for file in GOLDEN.glob("*.rendered.yaml")}
    assert rendered == {file.stem for file in RESOURCES}
    assert len(rendered) >= 6


def changed(resource: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(resource)
    *above, last = path.split(".")
    node = copied["spec"]
    for step in above:
        node = node.setdefault(step, {})
    node[last] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replicas", 5),
        ("service.type", "LoadBalancer"),
        ("service.labels", {"a": "b"}),
        ("service.annotations", {}),
        ("speculative.control.mode", "Fixed"),
        ("speculative.control.minDrafts", 50),
        ("speculative.control.recovery", {"holdSeconds": 5}),
        ("rollout.strategy", "AllAtOnce"),
        ("rollout.analysis", {"minDrafts": 50}),
    ],
)
def test_what_needs_no_restart_is_no_new_revision(path: str, value: Any) -> None:
    before, after = planned(read("full-gb10")), planned(changed(read("full-gb10"), path, value))
    assert after.revision == before.revision
    assert after.deployment == before.deployment
    assert after.config["data"] == before.config["data"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.maxModelLen", 4096),
        ("engine.image", "vllm/vllm-openai@sha256:" + "d" * 64),
        ("engine.vllm", "0.29.0"),
        ("engine.extraArgs", []),
        ("engine.env", []),
        ("engine.patches", []),
        ("engine.resources", {}),
        ("memory.utilization", 0.7),
        ("memory.reserveGiB", 1.0),
        ("nodes.selector", {"a": "b"}),
        ("rollout.drainSeconds", 1),
        ("rollout.maxRestarts", 1),
        ("service.port", 8000),
        ("service.apiKeySecretRef", {"name": "other", "key": "key"}),
        ("speculative.k", 5),
        ("cache.weights", {"pvc": {"claimName": "other"}}),
    ],
)
def test_what_needs_a_restart_is_a_new_revision(path: str, value: Any) -> None:
    assert planned(changed(read("full-gb10"), path, value)).revision != planned(read("full-gb10")).revision


def test_k_and_engine_files_are_part_of_the_revision() -> None:
    resource = read("full-gb10")
    revisions = {planned(resource, k=k).revision for k in range(7)}
    assert len(revisions) == 7
    assert planned(resource, files={**FILES, "gemmaspec_engine/launch.py": ""}).revision not in revisions
    assert planned(resource).revision == planned(resource, k=6).revision


def test_a_revision_depends_on_nothing_else() -> None:
    resource = read("full-gb10")
    again = copy.deepcopy(resource)
    again["spec"] = dict(reversed(list(again["spec"].items())))
    again["metadata"]["uid"] = "another"
    assert planned(again).revision == planned(resource).revision


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("speculative.k", 2, True),
        ("memory.utilization", 0.5, True),
        ("engine.scheduling.maxNumSeqs", 8, True),
        ("engine.image", "other@sha256:" + "0" * 64, False),
        ("model.target", "other/model", False),
        ("model.quantization", "fp8", False),
        ("speculative.drafter.model", "other/drafter", False),
        ("speculative.drafter.revision", "other", False),
        ("engine.patches", [], False),
        ("engine.transformers", {"version": "5.0"}, False),
    ],
)
def test_what_a_drafter_is_judged_for(path: str, value: Any, same: bool) -> None:
    """The identity that proof and fault speak of: all that makes drafts be accepted, and not K or memory."""
    before = engine_identity(resolve(read("full-gb10")["spec"], load()))
    after = engine_identity(resolve(changed(read("full-gb10"), path, value)["spec"], load()))
    assert (before == after) is same


def test_a_lowered_k_changes_the_speculation_and_nothing_else() -> None:
    resource = read("full-gb10")
    high, low = planned(resource, k=6), planned(resource, k=0)

    def arguments(found: Plan) -> list[str]:
        container = found.deployment["spec"]["template"]["spec"]["containers"][0]
        return list(container["args"])

    before, after = arguments(high), arguments(low)
    at = before.index("--speculative-config")
    assert json.loads(before[at + 1])["num_speculative_tokens"] == 6
    assert before[:at] + before[at + 2 :] == after


def test_the_pin_names_every_file_with_its_hash() -> None:
    data = planned(read("full-gb10")).config["data"]
    pin = json.loads(data["pin.json"])
    assert set(pin["files"]) == set(FILES)
    assert set(data) == {"gemmaspec_engine.__init__.py", "gemmaspec_engine.launch.py", "pin.json"}
    assert pin["vllm"] == "0.28.0"


def test_every_object_belongs_to_the_resource() -> None:
    for file in RESOURCES:
        found = planned(read(file.stem))
        for body in (*found.shared, found.config, found.deployment):
            (reference,) = body["metadata"]["ownerReferences"]
            assert reference["uid"] == read(file.stem)["metadata"]["uid"]
            assert reference["controller"] is True
            assert body["metadata"]["labels"]["gemmaspec.io/deploy"] == found.owner.name


@pytest.mark.parametrize(
    ("engine", "requested", "most"),
    [({}, "105927Mi", 0.85), ({"resources": {"requests": {"memory": "112Gi"}}}, "112Gi", None)],
)
def test_auto_asks_the_scheduler_for_all_that_it_may_take(
    engine: dict[str, Any], requested: str, most: float | None
) -> None:
    resource = read("minimal-gb10")
    resource["spec"] |= {"memory": {"utilizationMode": "Auto"}, "engine": resource["spec"]["engine"] | engine}
    found = planned(resource)
    for container in _containers(found):
        if container["name"] in ("preflight", "engine"):
            assert container["resources"]["requests"]["memory"] == requested
    assert json.loads(found.config["data"]["pin.json"])["memory"].get("maxUtilization") == most


def _containers(found: Plan) -> list[dict[str, Any]]:
    pod = found.deployment["spec"]["template"]["spec"]
    return [*pod["initContainers"], *pod["containers"]]


def test_selectors_select_the_pods() -> None:
    found = planned(read("full-gb10"))
    labels = found.deployment["spec"]["template"]["metadata"]["labels"]
    service = next(body for body in found.shared if body["kind"] == "Service")
    budget = next(body for body in found.shared if body["kind"] == "PodDisruptionBudget")
    for selector in (
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        found.deployment["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_volumes_and_mounts_fit() -> None:
    for file in RESOURCES:
        pod = planned(read(file.stem)).deployment["spec"]["template"]["spec"]
        volumes = [volume["name"] for volume in pod["volumes"]]
        assert len(volumes) == len(set(volumes))
        for container in (*pod["initContainers"], *pod["containers"]):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(paths) == len(set(paths))
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_the_first_container_waits_for_every_secret() -> None:
    """A Secret that is missing is told at once: the kubelet looks for it when it makes the container that names it."""
    pod = planned(read("full-gb10")).deployment["spec"]["template"]["spec"]
    named = [_secrets(container) for container in (*pod["initContainers"], *pod["containers"])]
    assert named[0] == set().union(*named) == {"hub", "api", "keys"}


def _secrets(container: dict[str, Any]) -> set[str]:
    sources = [variable.get("valueFrom", {}).get("secretKeyRef") for variable in container["env"]]
    return {source["name"] for source in sources if source}


def test_no_port_twice() -> None:
    for file in RESOURCES:
        pod = planned(read(file.stem)).deployment["spec"]["template"]["spec"]
        ports = [
            port["containerPort"] for c in (*pod["initContainers"], *pod["containers"]) for port in c.get("ports", ())
        ]
        assert len(ports) == len(set(ports))


def test_a_user_that_is_named_runs_all_of_the_pod_and_has_its_caches() -> None:
    resource = read("minimal-gb10")
    before = planned(resource).deployment["spec"]["template"]["spec"]
    resource["spec"].setdefault("engine", {})["runAsUser"] = 1234
    pod = planned(resource).deployment["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"]) == (True, 1234, 1234)
    assert (context["fsGroup"], context["fsGroupChangePolicy"]) == (1234, "OnRootMismatch")
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert {"name": "USER", "value": "engine"} in container["env"]
        assert container["securityContext"].keys() == {"allowPrivilegeEscalation", "capabilities"}, "nothing undoes it"
    assert before["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}, "revisions stay what they were"


def test_no_environment_variable_twice() -> None:
    for file in RESOURCES:
        for container in planned(read(file.stem)).deployment["spec"]["template"]["spec"]["containers"]:
            names = [variable["name"] for variable in container["env"]]
            assert len(names) == len(set(names))
