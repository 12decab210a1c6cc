"""What is drift and what is not: values, defaults of the API server, fields that others added."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec.core.drift import differs, ports_patch, reset_patch, unplanned_paths
from tests.core.test_plan import planned, read

PLANNED = planned(read("full-gb10")).deployment

VALUE = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text("ab1m", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUE)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert not differs(value, value)
    assert not differs(value, copy.deepcopy(value))


@given(
    st.dictionaries(st.text("abc", min_size=1), VALUE, max_size=3), st.dictionaries(st.text("xyz", min_size=1), VALUE)
)
def test_more_keys_are_no_drift(value: dict[str, Any], more: dict[str, Any]) -> None:
    assert not differs(value, value | more)
    assert not differs({"deep": [value]}, {"deep": [value | more]})


@given(
    st.dictionaries(st.text("abc", min_size=1), VALUE.filter(lambda v: v not in ("", [], {})), min_size=1), st.data()
)
def test_a_planned_key_that_is_gone_is_drift(value: dict[str, Any], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(value)))
    assert differs(value, {key: inner for key, inner in value.items() if key != gone})


@given(st.lists(VALUE, max_size=3), st.lists(VALUE, min_size=1, max_size=2))
def test_a_longer_or_shorter_list_is_drift(values: list[Any], more: list[Any]) -> None:
    assert differs(values, values + more)
    assert differs(values + more, values)


@pytest.mark.parametrize(
    ("ours", "theirs", "drift"),
    [
        ({"labels": {"a": ""}}, {"labels": {}}, True),
        ({"labels": {"a": ""}}, {"labels": {"a": "", "b": "c"}}, False),
        ({"nodeSelector": {"a": ""}}, {}, True),
        ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}, False),
        ({"requests": {"cpu": "1000m"}}, {"requests": {"cpu": "1"}}, False),
        ({"requests": {"cpu": "0.5"}}, {"requests": {"cpu": "500m"}}, False),
        ({"requests": {"memory": "2048Mi"}}, {"requests": {"memory": "2Gi"}}, False),
        ({"requests": {"memory": "2048Mi"}}, {"requests": {"memory": "3Gi"}}, True),
        ({"emptyDir": {"sizeLimit": "1024Mi"}}, {"emptyDir": {"sizeLimit": "1Gi"}}, False),
        ({"limits": {"nvidia.com/gpu": "1"}}, {"limits": {"nvidia.com/gpu": "2"}}, True),
        ({"args": ["--seed", "1"]}, {"args": ["--seed", "1.0"]}, True),
        ({"name": "A", "value": "1k"}, {"name": "A", "value": "1000"}, True),
        ({"name": "A", "value": ""}, {"name": "A"}, False),
        ({"name": "A", "value": ""}, {"name": "A", "value": "x"}, True),
        ({"emptyDir": {}}, {"emptyDir": {}}, False),
        ({"replicas": 0}, {}, True),
        ({"automountServiceAccountToken": False}, {}, True),
        ({"labels": {"a": "1"}}, {"labels": {"a": "1", "b": "2"}}, False),
        ({"labels": {"a": "1"}}, {}, True),
    ],
)
def test_by_hand(ours: Any, theirs: Any, drift: bool) -> None:
    assert differs(ours, theirs) is drift


def test_an_owner_beside_us_is_no_drift() -> None:
    reference = PLANNED["metadata"]["ownerReferences"][0]
    stored = {**reference, "blockOwnerDeletion": False}
    other = {"kind": "X", "name": "x", "uid": "other"}
    assert not differs({"ownerReferences": [reference]}, {"ownerReferences": [other, stored]})
    assert differs({"ownerReferences": [reference]}, {"ownerReferences": [other]})
    assert differs({"ownerReferences": [reference]}, {"ownerReferences": []})


def defaulted(deployment: dict[str, Any]) -> dict[str, Any]:
    """What the API server makes of a Deployment: defaults in many places, and a status."""
    stored = copy.deepcopy(deployment)
    stored["metadata"] |= {"uid": "u", "resourceVersion": "1", "generation": 1}
    stored["status"] = {"replicas": 0}
    spec = stored["spec"]["template"]["spec"]
    spec |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
    for container in (*spec["initContainers"], *spec["containers"]):
        container["terminationMessagePath"] = "/dev/termination-log"
        container["env"] = [{k: v for k, v in entry.items() if v != ""} for entry in container["env"]]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                container[probe]["httpGet"] = {**container[probe]["httpGet"], "scheme": "HTTP"}
                container[probe]["successThreshold"] = 1
    for volume in spec["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["defaultMode"] = 420
    return stored


def test_defaults_of_the_api_server_are_no_drift() -> None:
    assert not differs(PLANNED, defaulted(PLANNED))


@pytest.mark.parametrize("name", ["replicas", "template", "strategy", "selector", "revisionHistoryLimit"])
def test_every_edited_field_is_drift(name: str) -> None:
    stored = defaulted(PLANNED)
    stored["spec"][name] = {} if isinstance(stored["spec"][name], dict) else stored["spec"][name] + 1
    assert differs(PLANNED, stored)


ENGINE = 'k:{"name":"engine"}'
POD = ("f:spec", "f:template", "f:spec")


def fields(*path: str, leaf: Any = None) -> dict[str, Any]:
    """managedFields notation of one path."""
    node: dict[str, Any] = {} if leaf is None else leaf
    for step in reversed(path):
        node = {step: node}
    return node


def entry(manager: str, owned: dict[str, Any], **more: str) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "apiVersion": "apps/v1", "fieldsV1": owned, **more}


def test_a_variable_set_by_hand_is_found_and_taken_back() -> None:
    added = fields(
        *POD, "f:containers", ENGINE, "f:env", 'k:{"name":"FOO"}', leaf={".": {}, "f:name": {}, "f:value": {}}
    )
    paths = unplanned_paths([entry("kubectl-set", added)])
    assert (*POD, "f:containers", ENGINE, "f:env", 'k:{"name":"FOO"}') in paths
    patch = reset_patch(PLANNED, paths)
    assert patch == {"spec": {**PLANNED["spec"], "$patch": "replace"}}


def test_a_field_added_inside_an_item_of_ours_is_found() -> None:
    """Server-side apply by somebody else co-owns the item and adds a field to it."""
    both = {".": {}, "f:name": {}}
    theirs = fields(*POD, "f:containers", ENGINE, leaf={**both, "f:tty": {}})
    ours = fields(*POD, "f:containers", ENGINE, leaf={**both, "f:image": {}})
    paths = unplanned_paths([entry("other", theirs), entry("gemmaspec", ours)])
    assert paths == ((*POD, "f:containers", ENGINE, "f:tty"),)
    assert reset_patch(PLANNED, paths) is not None


def test_planned_fields_that_others_own_are_left_to_the_comparison() -> None:
    taken = fields(*POD, "f:containers", ENGINE, "f:image")
    paths = unplanned_paths([entry("kubectl-edit", taken)])
    assert paths
    assert reset_patch(PLANNED, paths) is None


def test_status_scale_and_defaults_of_ours_are_no_drift() -> None:
    entries = [
        entry("kube-controller-manager", {"f:status": {"f:replicas": {}}}, subresource="status"),
        entry("kubectl", {"f:spec": {"f:replicas": {}}}, subresource="scale"),
        entry(
            "kube-controller-manager", {"f:metadata": {"f:annotations": {"f:deployment.kubernetes.io/revision": {}}}}
        ),
        entry("gemmaspec", fields(*POD, "f:dnsPolicy")),
        entry("other", fields(*POD, "f:dnsPolicy")),
    ]
    assert unplanned_paths(entries) == ()


def test_a_restart_by_kubectl_is_taken_back() -> None:
    stamp = fields("f:spec", "f:template", "f:metadata", "f:annotations", "f:kubectl.kubernetes.io/restartedAt")
    assert reset_patch(PLANNED, unplanned_paths([entry("kubectl-rollout", stamp)])) is not None


def test_a_label_of_ours_that_left_the_plan_goes_and_those_of_others_stay() -> None:
    owned = {"f:metadata": {"f:labels": {".": {}, "f:team": {}, "f:gemmaspec.io/deploy": {}}}}
    others = {"f:metadata": {"f:labels": {"f:theirs": {}}, "f:annotations": {"f:theirs": {}}}}
    paths = unplanned_paths([entry("gemmaspec", owned), entry("other", others)])
    assert reset_patch(PLANNED, paths) == {"metadata": {"labels": {"team": None}}}


def test_objects_without_managed_fields() -> None:
    assert unplanned_paths(()) == ()
    assert unplanned_paths([{"manager": "x"}, {"manager": "y", "fieldsV1": {"f:spec": {}}}]) == (("f:spec",),)
    assert reset_patch(PLANNED, (("f:spec",),)) is None


def service(*ports: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Service", "spec": {"type": "ClusterIP", "ports": list(ports)}}


def test_a_moved_port_replaces_the_spec() -> None:
    """Applied, it would stand beside the old one under the same name."""
    ours, theirs = service({"name": "http", "port": 9000}), service({"name": "http", "port": 8000, "protocol": "TCP"})
    assert ports_patch(ours, theirs) == {"spec": {**ours["spec"], "$patch": "replace"}}


def test_a_port_of_the_same_number_is_left_to_the_comparison() -> None:
    ours, theirs = service({"name": "http", "port": 8000}), service({"name": "web", "port": 8000, "protocol": "TCP"})
    assert ports_patch(ours, theirs) is None
    assert ports_patch({"kind": "ConfigMap"}, {}) is None
