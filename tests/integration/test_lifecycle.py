"""The life of a resource on a real API server: made, kept, changed, repaired, deleted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from testbed.deadline import wait_for
from tests.integration.fake_kubelet import STARTING, always_ready
from tests.integration.scene import CHILDREN, NAME, Scene, speculative

pytestmark = pytest.mark.control_plane


def test_deployment_exists_within_a_second_of_apply(running: Scene) -> None:
    began = running.apply()
    running.until(lambda: running.deployments(), "the Deployment", 5)
    assert time.monotonic() - began < 1.0
    status = running.wait_converged()
    children = running.children()
    assert sorted(plural for plural, _ in children) == [
        "configmaps",
        "deployments",
        "poddisruptionbudgets",
        "serviceaccounts",
        "services",
    ]
    uid = running.resource()["metadata"]["uid"]
    for child in children.values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("GemmaSpecDeploy", NAME, uid, True)
    assert status["replicas"] == status["readyReplicas"] == 1
    assert status["endpoint"].startswith(f"http://{NAME}.{running.namespace}.svc:")
    assert running.resource()["metadata"].get("finalizers") is None
    assert running.resource()["metadata"].get("annotations") is None


STEADY_SECONDS = float(os.environ.get("GEMMASPEC_STEADY_SECONDS", "15"))


@pytest.mark.timeout(STEADY_SECONDS + 240)
def test_converged_resource_under_steady_traffic_causes_no_write(running: Scene) -> None:
    """GEMMASPEC_STEADY_SECONDS=600 gives the long version."""
    running.apply(replicas=2)
    running.wait_converged()
    running.until(lambda: running.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    running.until(lambda: "throughput" in running.status(), "figures", 30)
    if STEADY_SECONDS > 40:  # the figures of the first moments are replaced once, a minute later
        running.until(lambda: running.status()["acceptance"]["windowSeconds"] > 2, "lasting figures", 90)
    running.quiet()
    mark = running.plane.audit.mark()
    before = running.resource()
    scrapes = sum(engine.scrapes for engine in running.engines())
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: running.writes(mark), "a write", STEADY_SECONDS, every=0.5)
    written = [(event.verb, event.uri) for event in running.writes(mark)]
    assert not written, difference(before["status"], running.status())
    assert running.resource()["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert sum(engine.scrapes for engine in running.engines()) >= scrapes + STEADY_SECONDS, "traffic was not watched"


@pytest.mark.parametrize("plural", CHILDREN)
def test_deleted_child_is_made_again(running: Scene, plural: str) -> None:
    running.apply()
    running.wait_converged()
    ((_, name), before) = next(item for item in running.children().items() if item[0][0] == plural)
    began = time.monotonic()
    running.send("DELETE", running.path(plural, name), {"propagationPolicy": "Background"})
    running.until(lambda: is_another(running.read(plural, name), before), "another child", 5)
    assert time.monotonic() - began < 2.0
    running.wait_converged()


def is_another(now: Mapping[str, Any] | None, before: Mapping[str, Any]) -> bool:
    return now is not None and now["metadata"]["uid"] != before["metadata"]["uid"]


# What people do to children: plural, how (kubectl's words after the name of the object, or a merge patch).
EDITS: dict[str, tuple[str, Any]] = {
    "scale up": ("deployments", ["scale", "--replicas=3"]),
    "scale to zero": ("deployments", ["scale", "--replicas=0"]),
    "set image": ("deployments", ["set", "image", "engine=example.org/other:2"]),
    "add variable": ("deployments", ["set", "env", "ADDED=1"]),
    "change variable": ("deployments", ["set", "env", "VLLM_NO_USAGE_STATS=0"]),
    "remove variable": ("deployments", ["set", "env", "PYTHONPATH-"]),
    "set resources": ("deployments", ["set", "resources", "--limits=memory=1Gi"]),
    "restart": ("deployments", ["rollout", "restart"]),
    "host network": ("deployments", {"spec": {"template": {"spec": {"hostNetwork": True}}}}),
    "dns policy": ("deployments", {"spec": {"template": {"spec": {"dnsPolicy": "Default"}}}}),
    "node selector": ("deployments", {"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}),
    "paused": ("deployments", {"spec": {"paused": True}}),
    "strategy": ("deployments", {"spec": {"strategy": {"type": "RollingUpdate"}}}),
    "service port": ("services", "port"),
    "second port": ("services", "second port"),
    "service selector": ("services", {"spec": {"selector": {"gemmaspec.io/deploy": "other", "more": "x"}}}),
    "session affinity": ("services", {"spec": {"sessionAffinity": "ClientIP"}}),
    "budget": ("poddisruptionbudgets", {"spec": {"maxUnavailable": 3}}),
    "token": ("serviceaccounts", {"automountServiceAccountToken": True}),
    "sidecar": ("deployments", "sidecar"),
    "volume": ("deployments", "volume"),
    "arguments": ("deployments", "arguments"),
    "our label on a Service": ("services", {"metadata": {"labels": {"gemmaspec.io/deploy": None}}}),
    "our label on a ConfigMap": ("configmaps", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}),
    "our labels on a Deployment": (
        "deployments",
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": None, "gemmaspec.io/deploy": None}}},
    ),
    "our label changed": ("deployments", {"metadata": {"labels": {"gemmaspec.io/deploy": "other"}}}),
    "our annotation": ("deployments", {"metadata": {"annotations": {"gemmaspec.io/k": "7"}}}),
}


def test_edited_children_are_repaired(running: Scene) -> None:
    """All edits in turn on one resource: each is undone within two seconds, foreign additions included."""
    running.apply()
    running.wait_converged()
    late: dict[str, float] = {}
    for edit, (plural, how) in EDITS.items():
        name = running.current() if plural in ("deployments", "configmaps") else NAME
        before = essence(running.read(plural, name))
        do_edit(running, plural, name, how)
        left = difference(before, essence(running.read(plural, name)))
        end = time.monotonic() + 20.0
        began = time.monotonic()
        while left and time.monotonic() < end:
            left = difference(before, essence(running.read(plural, name)))
        assert not left, f"{edit} was not repaired: {left}\n{running.story()}"
        if time.monotonic() - began > 2.0:
            late[edit] = time.monotonic() - began
    assert not late
    running.quiet()
    assert running.is_condition("Stalled", "False")


def test_the_port_moves_and_comes_back(running: Scene) -> None:
    """What POST set is not server-side apply's to remove: the old port must not stay beside the new one."""
    running.apply()
    running.wait_converged()
    for port in (9123, None):
        running.apply(service={"port": port} if port else None)
        wanted = port or 8000
        running.until(
            lambda wanted=wanted: (
                [entry["port"] for entry in running.read("services", NAME)["spec"]["ports"]] == [wanted]
            ),
            f"port {wanted}",
            60,
        )
        assert running.is_condition("Stalled", "False")


def do_edit(scene: Scene, plural: str, name: str, how: Any) -> None:
    if isinstance(how, list):
        at = 2 if how[0] in ("set", "rollout") else 1
        scene.kubectl(*how[:at], f"{plural}/{name}", *how[at:])
        return
    if isinstance(how, dict):
        scene.merge(plural, name, how)
        return
    path = scene.path(plural, name) + "?fieldManager=editor"

    def put() -> bool:  # as `kubectl edit` does: the Deployment's controller may write in between
        return scene.try_send("PUT", path, EDITORS[how](scene.read(plural, name))) != 409

    scene.until(put, "an edit", 5)


def edit_port(service: dict[str, Any]) -> dict[str, Any]:
    service["spec"]["ports"][0]["port"] += 1
    return service


def edit_second_port(service: dict[str, Any]) -> dict[str, Any]:
    service["spec"]["ports"].append({"name": "more", "port": 9999, "targetPort": 9999})
    return service


def edit_sidecar(deployment: dict[str, Any]) -> dict[str, Any]:
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"].insert(0, {"name": "sidecar", "image": "example.org/sidecar:1"})
    pod["initContainers"] = [*pod.get("initContainers", []), {"name": "first", "image": "example.org/first:1"}]
    return deployment


def edit_volume(deployment: dict[str, Any]) -> dict[str, Any]:
    pod = deployment["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "root", "hostPath": {"path": "/"}})
    pod["containers"][0]["volumeMounts"].append({"name": "root", "mountPath": "/host"})
    return deployment


def edit_arguments(deployment: dict[str, Any]) -> dict[str, Any]:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["args"] = [*container["args"], "--middleware=evil"]
    container["securityContext"] = {"privileged": True}
    return deployment


EDITORS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "port": edit_port,
    "second port": edit_second_port,
    "sidecar": edit_sidecar,
    "volume": edit_volume,
    "arguments": edit_arguments,
}


def essence(body: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of an object is ours to keep: all but status and bookkeeping."""
    if body is None:
        return {}
    kept = {key: value for key, value in body.items() if key not in ("status", "metadata", "secrets")}
    metadata = body["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k.startswith("gemmaspec.io/")}
    kept["metadata"] = {"labels": metadata.get("labels"), "annotations": annotations, "uid": metadata["uid"]}
    return kept


def difference(before: Any, after: Any, path: str = "") -> str:
    """Where two values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = [difference(before.get(k), after.get(k), f"{path}.{k}") for k in sorted({*before, *after})]
        return "; ".join(one for one in found if one)
    return "" if before == after else f"{path}: {after!r} for {before!r}"


def test_deletion_ends_with_the_operator_down(scene: Scene) -> None:
    scene.operator.start()
    scene.apply()
    scene.wait_converged()
    scene.operator.kill()
    began = time.monotonic()
    scene.kubectl("delete", "gsd", NAME, "--wait=true", "--timeout=10s")
    assert time.monotonic() - began < 3
    # The collector learns of new kinds every 30 seconds.
    scene.until(lambda: not scene.children() and not scene.all("pods"), "garbage collection", 45)


def test_restarted_operator_writes_nothing_on_a_converged_resource(scene: Scene) -> None:
    scene.operator.start()
    scene.apply(replicas=2)
    scene.wait_converged()
    scene.until(lambda: scene.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    scene.until(lambda: "throughput" in scene.status(), "figures", 30)
    scene.quiet()
    scene.operator.kill()
    mark = scene.plane.audit.mark()
    scene.operator.start()
    scene.never(lambda: scene.writes(mark), "a write", 4)


FOREIGN: dict[str, dict[str, Any]] = {
    "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}}},
    "ServiceAccount": {"apiVersion": "v1"},
    "PodDisruptionBudget": {"apiVersion": "policy/v1", "spec": {"maxUnavailable": 5}},
    "ConfigMap": {"apiVersion": "v1", "data": {"theirs": "yes"}},
    "Deployment": {
        "apiVersion": "apps/v1",
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "theirs"}},
            "template": {
                "metadata": {"labels": {"app": "theirs"}},
                "spec": {"containers": [{"name": "theirs", "image": "example.org/theirs:1"}]},
            },
        },
    },
}
PLURALS = {
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
}


def test_foreign_objects_of_our_names_are_left_alone(running: Scene) -> None:
    """One after the other: untouched, reported with the owner's name, and no hindrance once they are gone."""
    running.apply()
    revision_name = f"{NAME}-{running.wait_converged()['revision']}"
    running.kubectl("create", "configmap", "owner")
    owner_uid = running.read("configmaps", "owner")["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner_uid, "controller": True}
    for kind, body in FOREIGN.items():
        running.send("DELETE", running.path("gemmaspecdeploys", NAME), {"propagationPolicy": "Background"})
        running.until(lambda: not running.children(), "garbage collection", 45)
        plural = PLURALS[kind]
        name = revision_name if kind in ("ConfigMap", "Deployment") else NAME
        references = [owner] if kind in ("Service", "Deployment") else []
        metadata = {"name": name, "namespace": running.namespace, "ownerReferences": references}
        theirs = running.send("POST", running.path(plural), {**body, "kind": kind, "metadata": metadata})
        running.apply()
        running.until(lambda: running.is_condition("Stalled", "True", "NameTaken"), "Stalled", 5)
        message = running.condition("Stalled")["message"]
        assert f"{kind} {name}" in message
        assert ("ConfigMap owner" if references else "no controller") in message
        assert "Rename" in message
        assert running.is_condition("Ready", "False")
        running.quiet(1.0)
        assert essence(running.read(plural, name)) == essence(theirs)
        running.send("DELETE", running.path(plural, name))
        if kind != "Deployment":  # the last one is found to be gone without a hint
            running.merge("gemmaspecdeploys", NAME, {"metadata": {"annotations": {"look": "again"}}})
        running.wait_converged(25)


def test_deleted_and_made_again_at_once(running: Scene) -> None:
    running.apply()
    running.wait_converged()
    before = {child["metadata"]["uid"] for child in running.children().values()}
    running.send("DELETE", running.path("gemmaspecdeploys", NAME), {"propagationPolicy": "Background"})
    running.apply()
    uid = running.resource()["metadata"]["uid"]

    def all_new() -> bool:
        children = running.children().values()
        return len(children) == len(before) and all(
            child["metadata"]["ownerReferences"][0]["uid"] == uid and child["metadata"]["uid"] not in before
            for child in children
        )

    running.until(all_new, "the new resource's own children", 45)
    running.wait_converged()
    assert running.resource()["metadata"]["uid"] == uid


def test_foreground_deletion_is_not_hindered(running: Scene) -> None:
    """Deleting with --cascade=foreground: the operator does not make again what the collector removes."""
    running.apply()
    running.wait_converged()
    mark = running.plane.audit.mark()
    running.kubectl("delete", "gsd", NAME, "--cascade=foreground", "--wait=true", "--timeout=20s")
    running.until(lambda: not running.children() and not running.all("pods"), "garbage collection", 45)
    assert not [event for event in running.writes(mark) if event.verb == "create"]


def test_editing_into_what_cannot_be_leaves_the_engines_alone(running: Scene) -> None:
    running.apply()
    good = running.wait_converged()
    deployments = {name: essence(body) for name, body in running.children().items()}
    bad: dict[str, dict[str, Any]] = {
        "UnknownRecipe": {"recipe": "no-such-recipe"},
        "HostPathNotAllowed": {"cache": {"weights": {"hostPath": {"path": "/etc"}}}},
    }
    for reason, change in bad.items():
        running.apply(**change)
        running.until(lambda: running.is_condition("Stalled", "True", reason), reason, 5)  # noqa: B023
        status = running.status()
        assert status["observedGeneration"] == running.resource()["metadata"]["generation"]
        assert running.condition("Ready") | {"status": "True", "reason": "ServingEarlierSpec"} == running.condition(
            "Ready"
        )
        assert running.is_condition("Reconciling", "False")
        assert status["revision"] == good["revision"]
        running.quiet(1.0)
        assert {name: essence(body) for name, body in running.children().items()} == deployments
    message = running.condition("Stalled")["message"]
    assert "spec.cache.weights.hostPath.path" in message
    assert "'/etc'" in message
    running.apply(replicas=2)
    assert running.wait_converged()["readyReplicas"] == 2


def test_first_spec_that_cannot_be_says_so(running: Scene) -> None:
    running.apply(recipe="no-such-recipe")
    running.until(lambda: running.is_condition("Stalled", "True", "UnknownRecipe"), "Stalled", 5)
    assert running.is_condition("Ready", "False", "UnknownRecipe")
    assert "tiny-cpu" in running.condition("Stalled")["message"]
    assert not running.children()
    running.apply()
    running.wait_converged()


def test_a_running_resource_reports_every_step_as_kstatus_reads_it(scene: Scene) -> None:
    """InProgress while engines start and after each new spec, Current when they serve."""
    scene.operator.start()
    scene.kubelet.script = lambda _: STARTING
    scene.apply()
    scene.until(lambda: scene.status().get("observedGeneration") == 1, "a status", 5)
    assert verdict(scene.resource()) == "InProgress"
    assert scene.is_condition("Ready", "False", "Starting")
    scene.kubelet.script = always_ready
    scene.wait_converged()
    assert verdict(scene.resource()) == "Current"
    scene.operator.kill()
    scene.apply(model={"target": "/models/other"})
    assert verdict(scene.resource()) == "InProgress"
    scene.operator.start()
    scene.wait_converged()
    assert scene.status()["observedGeneration"] == 2


def verdict(resource: Mapping[str, Any]) -> str:
    """kstatus' verdict (sigs.k8s.io/cli-utils, the generic rules for custom resources)."""
    status = resource.get("status", {})
    if status.get("observedGeneration") != resource["metadata"]["generation"]:
        return "InProgress"
    conditions = {entry["type"]: entry["status"] for entry in status["conditions"]}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return "Current" if conditions.get("Ready") == "True" else "InProgress"


def test_scaling_keeps_the_revision(running: Scene) -> None:
    running.apply(replicas=2)
    status = running.wait_converged()
    assert status["replicas"] == 2
    running.kubectl("scale", "gsd", NAME, "--replicas=0")
    running.until(lambda: not running.all("pods"), "no pods")
    empty = running.wait_converged()
    assert running.is_condition("Ready", "True", "ScaledToZero")
    assert (empty["replicas"], empty["revision"]) == (0, status["revision"])
    running.kubectl("scale", "gsd", NAME, "--replicas=3")
    running.until(lambda: running.status().get("readyReplicas") == 3, "three engines")
    assert running.wait_converged()["revision"] == status["revision"]
    assert list(running.deployments().values()) == [3]


def test_new_revision_of_one_engine_waits_for_the_old_one_to_go(running: Scene) -> None:
    running.apply()
    old = running.wait_converged()["revision"]
    running.kubelet.termination_seconds = 3.0
    running.kubelet.overlap = 0
    running.apply(model={"target": "/models/other"})
    running.until(lambda: running.status().get("revision") not in (None, old), "a new revision", 5)
    new = running.status()["revision"]
    running.until(lambda: running.deployments().get(f"{NAME}-{new}") == 1, "the new engine asked for", 15)
    assert running.kubelet.overlap == 1
    running.wait_converged()
    running.until(lambda: list(running.deployments()) == [f"{NAME}-{new}"], "pruning", 5)
    assert [name for plural, name in running.children() if plural == "configmaps"] == [f"{NAME}-{new}"]
    assert running.kubelet.overlap == 1


def test_new_revision_of_three_engines_replaces_one_at_a_time(running: Scene) -> None:
    running.apply(replicas=3)
    running.wait_converged()
    running.kubelet.termination_seconds = 0.5
    running.kubelet.overlap = 0
    least = [3]
    running.apply(replicas=3, model={"target": "/models/other"})

    def replaced() -> bool:
        pods = running.all("pods")
        serving = [pod for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
        least[0] = min(least[0], len(serving))
        return running.converged() and len(running.deployments()) == 1

    running.until(replaced, "three new engines", 40)
    assert running.kubelet.overlap == 3
    assert least[0] >= 2


def is_ready(pod: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def test_going_back_to_an_earlier_spec_restores_its_revision(running: Scene) -> None:
    running.apply()
    first = running.wait_converged()["revision"]
    running.apply(speculative=speculative(k=2))
    second = running.wait_converged()["revision"]
    running.apply()
    assert running.wait_converged()["revision"] == first != second


def test_fields_taken_out_of_the_spec_leave_the_service(running: Scene) -> None:
    service = running.spec()["service"]
    running.apply(service=service | {"labels": {"team": "a"}, "annotations": {"note": "x"}, "type": "NodePort"})
    running.wait_converged()
    metadata = running.read("services")["metadata"]
    assert (metadata["labels"]["team"], metadata["annotations"]["note"]) == ("a", "x")
    running.merge("services", NAME, {"metadata": {"annotations": {"theirs": "kept"}}})
    running.apply(service=service)
    running.until(lambda: running.read("services")["spec"]["type"] == "ClusterIP", "another type", 5)
    running.until(lambda: "note" not in running.read("services")["metadata"]["annotations"], "no annotation", 5)
    metadata = running.read("services")["metadata"]
    assert "team" not in metadata["labels"]
    assert metadata["annotations"] == {"theirs": "kept"}


def test_pods_are_never_left_to_two_deployments(running: Scene) -> None:
    """Quick changes of the spec while pods are slow to leave: never more engines than boxes."""
    running.apply()
    running.wait_converged()
    running.kubelet.termination_seconds = 1.0
    running.kubelet.overlap = 0
    for k in (1, 2, 3, 1, 2):
        running.apply(speculative=speculative(k=k))
        time.sleep(0.3)  # a user's pace, not a wait for anything
    status = running.wait_converged(40)
    assert status["k"]["desired"] == 2
    assert running.kubelet.overlap == 1
    running.until(lambda: len(running.deployments()) == 1, "pruning", 10)


def test_operator_outlives_an_absent_api_server_or_is_started_again(scene: Scene) -> None:
    """kopf ends the process on some faults; the kubelet starts it again, and it goes on where it was."""
    scene.operator.start()
    scene.apply()
    scene.wait_converged()
    scene.plane.stop_apiserver()
    scene.plane.start_apiserver()
    mark = scene.plane.audit.mark()

    def goes_on() -> bool:
        if scene.operator.ended is not None:
            scene.operator.kill()
            scene.operator.launch()
        return scene.converged() and scene.status()["k"]["desired"] == 2

    scene.apply(speculative=speculative(k=2))
    scene.until(goes_on, "the new K", 60)
    assert scene.kubelet.overlap == 1
    scene.until(lambda: len(scene.deployments()) == 1, "pruning", 10)
    made = [event.name for event in scene.writes(mark) if event.verb == "create" and event.resource == "deployments"]
    assert len(made) == 1


# What the schema can't see and the API server refuses in a child: change of the spec, words that must be told.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "limits below requests": (
        {
            "engine": {
                "image": "example.org/vllm:1",
                "allowTag": True,
                "resources": {"requests": {"memory": "8Gi"}, "limits": {"memory": "4Gi"}},
            }
        },
        "memory",
    ),
}


def test_what_the_api_server_refuses_stalls_and_touches_no_engine(running: Scene) -> None:
    running.apply()
    good = running.wait_converged()
    (pod,) = running.all("pods")
    for what, (change, words) in REFUSED.items():
        running.apply(**change)
        running.until(lambda: running.is_condition("Stalled", "True", "ApiRejected"), what, 10)
        assert words in running.condition("Stalled")["message"]
        running.until(lambda: running.is_condition("Ready", "True", "ServingEarlierSpec"), f"{what}: still serving")
        assert running.status()["observedGeneration"] == running.resource()["metadata"]["generation"]
        assert [one["metadata"]["uid"] for one in running.all("pods")] == [pod["metadata"]["uid"]]
        running.apply()
        assert running.wait_converged()["revision"] == good["revision"]
    assert [one["metadata"]["uid"] for one in running.all("pods")] == [pod["metadata"]["uid"]]
    running.until(lambda: len(running.children()) == 5, "pruning of what was half made", 10)
