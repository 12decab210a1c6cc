"""An engine in a namespace that enforces the strictest pod security standard: refused as root, serving as nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from openai import OpenAI

from demo.door import door
from demo.resource import Resource, pod_ready
from stories import BOOT_SECONDS, PORT, Site, tiny_manifest
from testbed.deadline import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1200)]

NAMESPACE, USER = "strict", 65532
ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}
CONTROL = {"actuator": "Live", "mode": "Fixed", "kMax": 4}


@pytest.fixture
def strict(site: Site) -> Iterator[Resource]:
    """A resource to be in such a namespace."""
    labelled = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": ENFORCED}}
    site.kubectl.apply(json.dumps(labelled))
    has_account = ("get", "sa", "default", "-n", NAMESPACE, "--ignore-not-found")
    wait_for(lambda: site.kubectl(*has_account), "its account", 60)
    resource = Resource(site.kubectl, "tiny", NAMESPACE)
    yield resource
    resource.delete()
    site.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", timeout=100)


def test_an_engine_serves_as_nobody(site: Site, strict: Resource) -> None:
    strict.apply(tiny_manifest(site.cluster, speculative={"control": CONTROL}))
    told = strict.wait_condition("Ready", "False", 120, "PodsRefused")
    assert "restricted" in told["message"]
    strict.kubectl("patch", "gsd", "tiny", "--type=merge", "-p", json.dumps({"spec": {"engine": {"runAsUser": USER}}}))
    strict.wait_settled(BOOT_SECONDS)
    pod = next(pod for pod in strict.pods() if pod_ready(pod))
    inside = ("exec", pod["metadata"]["name"], "-c", "engine", "--")
    assert strict.kubectl(*inside, "id", "-u").strip() == str(USER)
    assert strict.status()["k"]["actuator"] == "Live"
    strict.ask_for_k(2)
    strict.wait(lambda now: now["status"]["k"]["effective"] == 2, "K told to the agent", 120)
    with door(site.cluster, "tiny", PORT, NAMESPACE) as base_url:
        assert answer(base_url)


def answer(base_url: str) -> str:
    """A completion."""
    client = OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0, timeout=60)
    return client.completions.create(model="tiny", prompt="a", max_tokens=8).choices[0].text
