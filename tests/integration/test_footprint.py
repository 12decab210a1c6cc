"""The operator's memory with a hundred resources: GEMMASPEC_RESOURCES=1000 gives another number of them.

Measured on x86_64, Python 3.11: 96 MiB at most, 73 MiB with none (`pytest -s -m campaign` on this file).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.scene import Scene

RESOURCES = int(os.environ.get("GEMMASPEC_RESOURCES", "100"))
LIMIT_MIB = 120.0

pytestmark = [pytest.mark.control_plane, pytest.mark.campaign, pytest.mark.timeout(900)]


def test_memory_with_a_hundred_resources(scene: Scene, record_property: Any) -> None:
    scene.kubelet.close()  # pods stay pending: what is measured is the operator
    scene.operator.start()
    empty = memory_mib(scene)
    for number in range(RESOURCES):
        scene.apply(f"one-of-many-{number}")
    scene.until(lambda: served(scene) == RESOURCES, "a status of each", 600)
    full = memory_mib(scene)
    record_property("mebibytes", {"empty": empty, "full": full})
    print(f"{RESOURCES} resources: {full:.0f} MiB at most, {empty:.0f} MiB with none")
    if RESOURCES <= 100:
        assert full < LIMIT_MIB


def served(scene: Scene) -> int:
    """Resources whose status and children are there."""
    told = sum(1 for one in scene.all("gemmaspecdeploys") if one.get("status", {}).get("conditions"))
    return min(told, len(scene.all("deployments")), len(scene.all("pods")))


def memory_mib(scene: Scene) -> float:
    """The most that the operator's process has held so far (VmHWM)."""
    found = re.search(
        r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{scene.operator.process_id}/status").read_text(), re.MULTILINE
    )
    assert found
    return int(found[1]) / 1024
