"""What a pod's troubles become in words; the table over whole states is in test_status.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmaspec.core.health import health
from gemmaspec.core.observation import Ended
from tests.core.test_status import BOOTING, FAILED, POD

PULL = 'failed to pull and unpack image "x:1": failed to resolve reference "x:1": not found'


def test_backing_off_from_a_pull_says_the_same_as_the_pull() -> None:
    """A condition is compared: two messages in turn would be a write each time the kubelet tries."""
    waiting = [("ErrImagePull", PULL), ("ImagePullBackOff", f'Back-off pulling image "x:1": ErrImagePull: {PULL}')]
    said = {health([replace(BOOTING, running=False, waiting=entry)], 1, 3) for entry in waiting}
    (verdict,) = said
    assert (verdict.status, verdict.reason, verdict.message) == ("False", "ImagePullFailed", PULL)


def test_the_worst_pod_speaks() -> None:
    assert health([POD, replace(FAILED, name="z")], 2, 3).reason == "EngineFailed"
    assert health([POD, replace(FAILED, name="z", terminating=True)], 1, 3).status == "True"
    assert health([POD, BOOTING], 2, 3).reason == "Starting"


def test_a_launcher_that_waits_for_memory_says_so() -> None:
    """Else a rollout on one box looks like a boot that takes long."""
    waits = {BOOTING.uid: "WaitingForMemory"}
    verdict = health([BOOTING], 1, 3, waits=waits)
    assert (verdict.status, verdict.reason) == ("Unknown", "WaitingForMemory")
    assert health([replace(BOOTING, ready=True)], 1, 3, waits=waits).reason == "Serving", "what it waited for is there"
    assert health([BOOTING], 1, 3, waits={BOOTING.uid: "BackOff"}).reason == "Starting"
    assert health([replace(FAILED, uid=BOOTING.uid)], 1, 3, waits=waits).status == "False", "a failure is worse"


def test_a_ready_engine_has_no_old_troubles() -> None:
    healed = replace(POD, restarts=2, ended=Ended("EngineFailed", "once", 1))
    assert health([healed], 1, 3).status == "True"


@pytest.mark.parametrize(("restarts", "parked"), [(1, False), (3, False), (4, True), (9, True)])
def test_parked_after_the_restarts_that_are_allowed(restarts: int, parked: bool) -> None:
    verdict = health([replace(FAILED, restarts=restarts)], 1, 3)
    assert verdict.parked is parked
    assert "ValueError: no such model (exit code 1)" in verdict.message


def test_an_engine_killed_without_a_word() -> None:
    verdict = health([replace(FAILED, ended=Ended("OOMKilled", "", 137))], 1, 3)
    assert (verdict.reason, verdict.message) == ("OOMKilled", "OOMKilled; restart 2 of 3")


def test_messages_are_bounded_and_one_line() -> None:
    long = replace(BOOTING, running=False, waiting=("CreateContainerError", "a\n b" * 999))
    message = health([long], 1, 3).message
    assert len(message) <= 512
    assert "\n" not in message
