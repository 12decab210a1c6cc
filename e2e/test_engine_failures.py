"""The engine's own failures are read in the conditions, with the engine's words, not only in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

import pytest

from demo.resource import PLURAL, Resource, condition
from stories import BOOT_SECONDS, Site, secret, text_of
from testbed.deadline import wait_for
from testbed.kubectl import KubectlError

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

_FAIL_SECONDS = 300.0


_FAILING: Final[dict[str, dict[str, Any]]] = {
    "bad-argument": {"engine": {"extraArgs": ["--attention-backend=NO_SUCH"]}},
    "no-model": {"model": {"target": "/models/not-there"}, "rollout": {"maxRestarts": 0}},
    "crashes": {"memory": {"kvCacheBytes": 65536}, "rollout": {"maxRestarts": 0}},
    "small": {
        "engine": {"resources": {"requests": {"memory": "200Mi"}, "limits": {"memory": "400Mi"}}},
        "rollout": {"maxRestarts": 0},
    },
    "waits": {"service": {"apiKeySecretRef": {"name": "comes-later", "key": "key"}}},
}
"""What cannot work, by the resource's name."""


@pytest.fixture(scope="module")
def failing(site: Site) -> Iterator[Mapping[str, Resource]]:
    """All of them at once: each spends most of its time in imports and pauses."""
    yield {name: site.apply(name, **changes) for name, changes in _FAILING.items()}
    made = [site.resource(name) for name in _FAILING]
    for resource in made:
        resource.kubectl("delete", PLURAL, resource.name, "--wait=false")
    for resource in made:
        resource.delete()


def test_a_bad_argument_is_told_in_the_engines_words(failing: Mapping[str, Resource]) -> None:
    assert "NO_SUCH" in _parked(failing["bad-argument"])["message"]


def test_a_model_path_that_does_not_exist_is_told(failing: Mapping[str, Resource]) -> None:
    assert "/models/not-there" in _parked(failing["no-model"])["message"]


def test_a_crash_loop_ends_parked_with_the_engines_last_error(failing: Mapping[str, Resource]) -> None:
    """A cache that holds no request of full length shows only after the weights were loaded: every boot fails anew."""
    resource = failing["crashes"]
    first = resource.wait_condition("EngineHealthy", "False", _FAIL_SECONDS)
    assert "No available memory for the cache blocks" in first["message"]
    assert "No available memory for the cache blocks" in _parked(resource)["message"]
    assert _restarts(resource) >= 1
    assert condition(resource.read(), "Ready")["status"] == "False"


_ENGINE: Final = "grep -lE '[v]llm.entrypoints|[V]LLM::' /proc/[0-9]*/cmdline || true"


@pytest.mark.campaign
def test_boots_are_capped_with_growing_pauses_and_the_box_is_left_free(site: Site) -> None:
    """maxRestarts 2: three boots of an engine that fails after its weights were loaded, and never a fourth."""
    resource = site.apply("looped", memory={"kvCacheBytes": 65536}, rollout={"maxRestarts": 2})
    try:
        began, seen = time.monotonic(), list[tuple[float, bool]]()

        def ended() -> bool:
            seen.append((time.monotonic() - began, bool(_engines(resource))))
            return condition(resource.read(), "Stalled").get("status") == "True"

        wait_for(ended, "Stalled", 3 * _FAIL_SECONDS, every=1.0)
        starts = [at for (_, before), (at, now) in pairwise(seen) if now and not before]
        ends = [at for (_, before), (at, now) in pairwise(seen) if before and not now]
        pauses = [round(start - end) for end, start in zip(ends, starts[1:], strict=False)]
        print(f"boots at {[round(at) for at in starts]} s, pauses of {pauses} s; stalled after {seen[-1][0]:.0f} s")
        assert len(starts) == 3
        assert pauses[1] > pauses[0] >= 15
        restarts = _restarts(resource)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert not _engines(resource), "the box is left free"
            assert condition(resource.read(), "Stalled")["status"] == "True"
            time.sleep(2)
        assert _restarts(resource) == restarts, "parked, not restarted"
    finally:
        resource.delete()


def _engines(resource: Resource) -> list[str]:
    """Processes of vLLM in its pods: its server, and the core that holds the device."""
    found: list[str] = []
    for pod in resource.pods():
        with contextlib.suppress(KubectlError):  # its container is not there, or between two starts
            where = (pod["metadata"]["name"], "-c", "engine")
            found += resource.kubectl("exec", *where, "--", "sh", "-c", _ENGINE).split()
    return found


def test_an_engine_that_outgrows_its_memory_is_told(failing: Mapping[str, Resource]) -> None:
    found = failing["small"].wait(lambda body: _unhealthy(body), "told", _FAIL_SECONDS)
    said = " ".join(text_of(entry) for entry in found["status"]["conditions"])
    assert "memory" in said.lower() or "OOM" in said


def test_a_missing_secret_is_named_and_waited_for(site: Site, failing: Mapping[str, Resource]) -> None:
    resource = failing["waits"]
    found = resource.wait_condition("EngineHealthy", "False", BOOT_SECONDS)
    assert "comes-later" in found["message"]
    assert condition(resource.read(), "Stalled").get("status") == "False", "waiting is not stalling"
    secret(site.kubectl, "comes-later", "some-key")
    wait_for(lambda: _engine_started(resource), "the engine's container started", BOOT_SECONDS)


def _unhealthy(body: dict[str, Any]) -> bool:
    return any(condition(body, kind).get("status") == "False" for kind in ("EngineHealthy", "Preflight"))


def _parked(resource: Resource) -> dict[str, Any]:
    """The condition Stalled, once the operator has given the engine up."""
    return resource.wait_condition("Stalled", "True", _FAIL_SECONDS)


def _restarts(resource: Resource) -> int:
    states = [entry for pod in resource.pods() for entry in pod["status"].get("containerStatuses", ())]
    return max((int(entry["restartCount"]) for entry in states), default=0)


def _engine_started(resource: Resource) -> bool:
    states = [entry for pod in resource.pods() for entry in pod["status"].get("containerStatuses", ())]
    return any("running" in entry["state"] for entry in states)
