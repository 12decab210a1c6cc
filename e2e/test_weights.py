"""What is pinned comes from outside, once: the pair from a hub, transformers from an index, a patch from a map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
from openai import OpenAI

from demo.door import door
from demo.resource import Resource, condition
from gemmaspec.core import names
from gemmaspec.core.caches import compile_key
from gemmaspec.core.resolve import resolve
from gemmaspec.recipes import load
from mirror import COMMIT, Mirror, wheel_of
from mirror.contents import ASSISTANT, TARGET, TOKEN
from stories import BOOT_SECONDS, NAMESPACE, OTHER_TRANSFORMERS, PATCHED, PORT, Site, config_map, patch_from, secret
from testbed.deadline import wait_for
from tinypair.languages import prompt

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

_CLAIMS: Final = ("weights", "compiled")
# The bundled module, run as it is, and a word of its own.
_HARMLESS: Final = """
import pathlib, sys
import vllm.model_executor.models as models
exec(compile((pathlib.Path(models.__file__).parent / "gemma4_mtp.py").read_text(), "gemma4_mtp.py", "exec"))
sys.stderr.write("the patch was here\\n")
"""
_SHA256: Final = hashlib.sha256(_HARMLESS.encode()).hexdigest()
_WEIGHTS: Final = [f"{ASSISTANT}/model.safetensors", f"{TARGET}/model.safetensors"]


@pytest.fixture(scope="module")
def downloaded(site: Site, mirror: Mirror) -> Iterator[Resource]:
    """An engine whose pair, transformers and patch came from outside, Ready; its caches outlive its pods."""
    mirror.add(wheel_of("transformers", OTHER_TRANSFORMERS))
    secret(site.kubectl, "hub-token", TOKEN)
    site.kubectl.apply(json.dumps(config_map("harmless", _HARMLESS)), "-n", NAMESPACE)
    site.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": _claims()}), "-n", NAMESPACE)
    resource = site.apply(
        "hub",
        model={"target": TARGET, "revision": COMMIT},
        speculative={"drafter": {"model": ASSISTANT, "revision": COMMIT}},
        engine={
            "transformers": {"version": OTHER_TRANSFORMERS, "mode": "Install"},
            **patch_from("harmless", _SHA256),
            "env": [{"name": "HF_ENDPOINT", "value": mirror.url}, *mirror.pip_environment],
        },
        cache={
            "weights": {"pvc": {"claimName": _CLAIMS[0]}},
            "compile": {"pvc": {"claimName": _CLAIMS[1]}},
            "download": {"tokenSecretRef": {"name": "hub-token", "key": "key"}},
        },
    )
    try:
        resource.wait_settled(BOOT_SECONDS)
        yield resource
    finally:
        resource.delete()
        for claim in _CLAIMS:
            site.kubectl("delete", "-n", NAMESPACE, f"pvc/{claim}", "--timeout=60s")
            site.kubectl("delete", f"pv/{NAMESPACE}-{claim}", "--timeout=60s")


def _claims() -> list[dict[str, Any]]:
    """Claims, and volumes made for them by hand: the cluster has no provisioner."""
    return [body for claim in _CLAIMS for body in _claim(claim)]


def _claim(name: str) -> list[dict[str, Any]]:
    volume, size, modes = f"{NAMESPACE}-{name}", {"storage": "1Gi"}, ["ReadWriteOnce"]
    place = {"path": f"/var/lib/{volume}-{uuid4()}", "type": "DirectoryOrCreate"}  # nothing of an earlier session
    held = {"accessModes": modes, "storageClassName": ""}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**held, "capacity": size, "hostPath": place, "claimRef": {"namespace": NAMESPACE, "name": name}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {**held, "resources": {"requests": size}, "volumeName": volume},
        },
    ]


def test_the_pair_is_downloaded_and_served(site: Site, downloaded: Resource, mirror: Mirror) -> None:
    assert sorted(name for name in mirror.served() if name in _WEIGHTS) == _WEIGHTS
    with door(site.cluster, downloaded.name, PORT, NAMESPACE) as base_url:
        client = OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0, timeout=60)
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": prompt("code", 3)}], max_tokens=16, temperature=0
        )
    assert answer.choices[0].message.content


def test_the_engine_runs_with_the_transformers_and_the_patch_that_were_pinned(downloaded: Resource) -> None:
    body = downloaded.read()
    assert body["status"]["engine"]["transformers"] == OTHER_TRANSFORMERS
    assert body["status"]["engine"]["patches"] == {PATCHED: _SHA256[:12]}
    assert OTHER_TRANSFORMERS in condition(body, "Preflight")["message"]
    log = downloaded.kubectl("logs", downloaded.pods()[-1]["metadata"]["name"], "-c", names.ENGINE_CONTAINER)
    assert "the patch was here" in log


def test_the_engine_is_offline_and_never_sees_the_token(downloaded: Resource) -> None:
    pod = downloaded.pods()[-1]["metadata"]["name"]
    told = downloaded.kubectl("exec", pod, "-c", names.ENGINE_CONTAINER, "--", "env").splitlines()
    assert "HF_HUB_OFFLINE=1" in told
    assert [line for line in told if line.startswith("HF_TOKEN") or TOKEN in line] == []


def test_the_engine_leaves_what_it_compiled_in_the_cache_of_its_image(downloaded: Resource) -> None:
    pod = downloaded.pods()[-1]["metadata"]["name"]
    key = compile_key(resolve(downloaded.read()["spec"], load()))
    look = 'echo "$VLLM_CACHE_ROOT"; grep " $1 " /proc/self/mountinfo; find "$VLLM_CACHE_ROOT" -type f'
    command = ("sh", "-c", look, "sh", names.COMPILE_DIR)
    root, mounted, *files = downloaded.kubectl("exec", pod, "-c", names.ENGINE_CONTAINER, "--", *command).splitlines()
    assert root == f"{names.COMPILE_DIR}/vllm"
    assert mounted.split()[3].endswith(f"/{key}"), "only what engines like it left"
    assert files, "vLLM wrote there"


@pytest.mark.campaign
def test_a_second_pod_finds_the_weights_in_the_cache(downloaded: Resource, mirror: Mirror) -> None:
    before = mirror.asked()
    first = downloaded.pods()[-1]["metadata"]
    downloaded.kubectl("delete", "pod", first["name"], "--wait=false")

    def brought() -> dict[str, Any] | None:
        """How the weights container of the pod that came after ended."""
        for pod in downloaded.pods():
            if pod["metadata"]["uid"] != first["uid"]:
                for entry in pod["status"].get("initContainerStatuses", ()):
                    if entry["name"] == names.WEIGHTS_CONTAINER and "terminated" in entry["state"]:
                        return dict(entry["state"]["terminated"])
        return None

    ended = wait_for(brought, "the next pod's weights", BOOT_SECONDS, fail=lambda: str(downloaded.pods()))
    assert ended["exitCode"] == 0
    assert json.loads(ended["message"])["reason"] == "Cached"
    assert mirror.asked() == before, "a hub that can't be reached keeps nobody from starting"
