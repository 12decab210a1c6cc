"""What outlives a pod: weights from an image, compiled code by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gemmaspec.core.observation import Observation, Resource
from gemmaspec.core.plan import Owner, Plan, engine_identity, plan
from gemmaspec.core.reconcile import Settings, reconcile
from gemmaspec.core.resolve import resolve
from gemmaspec.recipes import load

IMAGE = "registry.example/vllm@sha256:" + "1" * 64
WEIGHTS = "registry.example/weights@sha256:" + "2" * 64
OWNER = Owner("llm", "gemma", "0")


def spec(cache: Mapping[str, Any], image: str = IMAGE, **engine: Any) -> dict[str, Any]:
    return {"recipe": "gemma4-26b-nvfp4-modern", "engine": {"image": image, **engine}, "cache": dict(cache)}


def planned(cache: Mapping[str, Any], **engine: Any) -> Plan:
    return planned_of(spec(cache, **engine))


def planned_of(body: Mapping[str, Any]) -> Plan:
    resolved = resolve(body, load())
    return plan(OWNER, resolved, resolved.k, {})


def pod_of(found: Plan) -> dict[str, Any]:
    return dict(found.deployment["spec"]["template"]["spec"])


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def variables(container: Mapping[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_weights_from_an_image_are_mounted_read_only_and_nothing_is_downloaded() -> None:
    pod = pod_of(planned({"weights": {"imageVolume": {"reference": WEIGHTS, "pullPolicy": "Never"}}}))
    assert named(pod["volumes"], "weights")["image"] == {"reference": WEIGHTS, "pullPolicy": "Never"}
    assert [container["name"] for container in pod["initContainers"]] == ["preflight"]
    for container in (*pod["initContainers"], *pod["containers"]):
        mount = named(container["volumeMounts"], "weights")
        assert mount == {"name": "weights", "mountPath": "/cache/huggingface", "readOnly": True}
        found = variables(container)
        assert (found["HF_HOME"], found["HF_HUB_OFFLINE"]) == ("/cache/huggingface", "1")
        assert not found["HF_MODULES_CACHE"].startswith("/cache/huggingface")


def test_every_pod_may_have_a_claim_of_its_own() -> None:
    def volume(asked: dict[str, Any]) -> dict[str, Any]:
        return named(pod_of(planned({"weights": {"perPod": asked}}))["volumes"], "weights")

    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "80Gi"}}}
    default = {"name": "weights", "ephemeral": {"volumeClaimTemplate": {"spec": wanted}}}
    assert volume({"size": "80Gi"}) == default
    local = volume({"size": "80Gi", "storageClassName": "local-path"})
    assert local["ephemeral"]["volumeClaimTemplate"]["spec"] == wanted | {"storageClassName": "local-path"}


def test_without_a_policy_the_kubelet_decides() -> None:
    pod = pod_of(planned({"weights": {"imageVolume": {"reference": WEIGHTS}}}))
    assert named(pod["volumes"], "weights")["image"] == {"reference": WEIGHTS}


def test_other_weights_are_another_engine() -> None:
    def identity(reference: str) -> str:
        return engine_identity(resolve(spec({"weights": {"imageVolume": {"reference": reference}}}), load()))

    assert identity(WEIGHTS) != identity(WEIGHTS.replace("2" * 64, "3" * 64))
    claim = engine_identity(resolve(spec({"weights": {"pvc": {"claimName": "a"}}}), load()))
    assert claim == engine_identity(resolve(spec({}), load()))


def test_a_compile_cache_that_is_asked_for_wins_over_a_recipes_directory() -> None:
    tiny = {"recipe": "tiny-cpu"}
    (engine,) = pod_of(planned_of(tiny))["containers"]
    assert variables(engine)["VLLM_CACHE_ROOT"] == "/opt/vllm/cache"
    (engine,) = pod_of(planned_of({**tiny, "cache": {"compile": {"pvc": {"claimName": "compiled"}}}}))["containers"]
    assert variables(engine)["VLLM_CACHE_ROOT"].startswith("/cache/compiled/")


@pytest.mark.parametrize(
    ("place", "volume"),
    [
        ({"pvc": {"claimName": "compiled"}}, {"persistentVolumeClaim": {"claimName": "compiled"}}),
        ({"hostPath": {"path": "/var/c"}}, {"hostPath": {"path": "/var/c", "type": "DirectoryOrCreate"}}),
    ],
)
def test_compiled_code_is_kept(place: dict[str, Any], volume: dict[str, Any]) -> None:
    pod = pod_of(planned({"compile": place}))
    assert named(pod["volumes"], "compile") == {"name": "compile"} | volume
    (engine,) = pod["containers"]
    mount = named(engine["volumeMounts"], "compile")
    found = variables(engine)
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert found[name].startswith(mount["mountPath"] + "/")
    downloading = named(pod["initContainers"], "weights")
    assert "compile" not in [entry["name"] for entry in downloading["volumeMounts"]]


def test_without_the_field_nothing_of_it_is_there() -> None:
    pod = pod_of(planned({}))
    assert "compile" not in [volume["name"] for volume in pod["volumes"]]
    assert variables(pod["containers"][0])["VLLM_CACHE_ROOT"] == "/cache/vllm"


def compile_folder(**engine: Any) -> str:
    pod = pod_of(planned({"compile": {"hostPath": {"path": "/var/c"}}}, **engine))
    return str(named(pod["containers"][0]["volumeMounts"], "compile")["subPath"])


def test_compiled_code_is_kept_by_image_and_by_what_replaces_parts_of_it() -> None:
    patch = {"module": "vllm.a", "sha256": "4" * 64, "source": {"configMap": {"name": "a", "key": "b"}}}
    folders = {
        compile_folder(),
        compile_folder(image=IMAGE.replace("1" * 64, "5" * 64)),
        compile_folder(patches=[patch]),
        compile_folder(patches=[patch | {"sha256": "6" * 64}]),
        compile_folder(transformers={"version": "5.8.0", "mode": "Install"}),
    }
    assert len(folders) == 5
    moved = patch | {"source": {"url": "https://example.org/a.py"}}
    assert compile_folder(patches=[patch]) == compile_folder(patches=[moved])
    assert compile_folder() == compile_folder(scheduling={"maxNumSeqs": 2})


def test_directories_of_the_node_are_the_administrators_to_allow() -> None:
    places = {"weights": {"hostPath": {"path": "/srv/w"}}, "compile": {"hostPath": {"path": "/srv/c"}}}
    observation = Observation(Resource(OWNER, 1, False, spec(places), {}), now=0.0)

    def stalled(*prefixes: str) -> str:
        decision = reconcile(observation, Settings(load(), {}, prefixes))
        conditions = {entry["type"]: entry for entry in (decision.status or {})["conditions"]}
        return str(conditions["Stalled"]["message"]) if conditions["Stalled"]["status"] == "True" else ""

    assert "spec.cache.weights.hostPath.path" in stalled()
    assert "spec.cache.compile.hostPath.path" in stalled()
    only_compile = stalled("/srv/w")
    assert "'/srv/c'" in only_compile
    assert "'/srv/w' is below" not in only_compile
    assert stalled("/srv") == ""
