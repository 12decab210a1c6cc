"""The operator is killed after each of its writes of a rollout, and replaced by another version of itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fake_kubelet import READY, STARTING, Report
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import Scene, rollout

pytestmark = pytest.mark.control_plane

ROOT = Path(__file__).resolve().parents[2]
# Imported by Python itself before the operator: its process ends right after the n-th write was answered.
DYING = """\
import os
from gemmaspec.adapters import cluster
left = int(os.environ["TEST_WRITES_TO_LIVE"])
write = cluster.Cluster._write
async def dying(*arguments, **named):
    global left
    answer = await write(*arguments, **named)
    left -= 1
    if left == 0:
        os._exit(9)
    return answer
cluster.Cluster._write = dying
"""
LIMITS = {"timeoutSeconds": 600, "progressDeadlineSeconds": 5}


def broken(pod: Mapping[str, Any]) -> Report:
    return STARTING if "/models/broken" in pod["spec"]["containers"][0]["args"] else READY


def asked(target: str) -> dict[str, Any]:
    limits = LIMITS if target == "/models/broken" else {}
    return {"model": {"target": target}, "replicas": 2, "rollout": rollout(limits)}


def finished(scene: Scene, target: str) -> bool:
    """Whether all is done, the removal of records included: an operator may die after that, too."""
    if len(scene.deployments()) != 1 or sum(plural == "configmaps" for plural, _ in scene.children()) != 1:
        return False
    if target == "/models/broken":
        return scene.is_condition("Stalled", "True", "RolledBack")
    return scene.converged() and scene.status()["rollout"]["phase"] == "Promoted"


def end(scene: Scene) -> dict[str, Any]:
    """Where a rollout has led to, less what differs between two equal runs."""
    status = scene.status()
    kept = ("revision", "lastGoodRevision", "rejectedRevision", "replicas", "readyReplicas")
    found: dict[str, Any] = {key: status.get(key) for key in kept}
    found["conditions"] = [(c["type"], c["status"], c["reason"]) for c in status["conditions"]]
    found["deployments"] = scene.deployments()
    found["pods"] = sorted(pod["metadata"]["labels"]["gemmaspec.io/revision"] for pod in scene.all("pods"))
    return found


@pytest.mark.campaign
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("target", ["/models/other", "/models/broken"])
def test_killed_after_every_write_of_a_rollout(
    scene: Scene, operator_sources: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DYING)
    plain = dict(scene.operator._environment)
    scene.kubelet.script = broken
    ends, after = [], 0
    while True:
        scene.operator._environment = plain
        scene.operator.restart()
        scene.apply(**asked("/models/target"))
        scene.until(lambda: finished(scene, "/models/target"), "the good revision", 60)
        scene.quiet(1.0)
        scene.operator.kill()
        scene.kubelet.overlap = 0
        scene.operator._environment = plain | {
            "PYTHONPATH": f"{tmp_path}:{operator_sources}",
            "TEST_WRITES_TO_LIVE": str(after),
        }
        scene.apply(**asked(target))
        scene.operator.launch()
        died = False

        def done() -> bool:
            nonlocal died
            if scene.operator.ended is not None:
                assert scene.operator.ended == 9
                died = True
                scene.operator._environment = plain
                scene.operator.kill()
                scene.operator.launch()
            return finished(scene, target)

        scene.until(done, f"the end after write {after}", 90)
        scene.quiet(1.0)
        assert scene.kubelet.overlap <= 2
        ends.append(end(scene))
        assert ends[-1] == ends[0], f"killed after write {after}"
        if after and not died:
            break  # it had no so many writes to make
        after += 1
    print(f"{target}: {after - 1} writes, killed after each")
    assert after > 8


def another_version(operator: OperatorProcess, sources: Path, copy: Path, file: str, line: str) -> None:
    """From its next start on the operator is one whose ``file`` has one line more."""
    shutil.copytree(sources, copy)
    changed = copy / file
    changed.write_text(changed.read_text() + line)
    operator._environment = {**operator._environment, "PYTHONPATH": str(copy)}


def test_another_version_of_the_operator_restarts_no_engine(
    scene: Scene, operator_sources: Path, tmp_path: Path
) -> None:
    """It writes nothing at all; one that brings other engine files rolls them as any other revision."""
    scene.operator.start()
    scene.apply(replicas=2)
    scene.wait_converged()
    scene.until(lambda: scene.is_condition("SpeculationHealthy", "True"), "proved acceptance", 30)
    scene.until(lambda: {"acceptance", "throughput"} <= scene.status().keys(), "figures", 60)
    scene.quiet()
    before = scene.status()
    pods = {pod["metadata"]["uid"] for pod in scene.all("pods")}
    scene.operator.kill()
    mark = scene.plane.audit.mark()
    another_version(scene.operator, operator_sources, tmp_path / "b", "gemmaspec/core/plan.py", "\nNEWER = True\n")
    scene.operator.start()
    scene.never(lambda: scene.writes(mark), "a write", 4)
    scene.operator.kill()
    another_version(scene.operator, operator_sources, tmp_path / "c", "gemmaspec_engine/launch.py", "\n# newer\n")
    scene.kubelet.overlap = 0
    scene.operator.start()
    scene.until(lambda: scene.status()["lastGoodRevision"] != before["revision"], "another good revision", 90)
    scene.wait_converged(90)
    assert scene.kubelet.overlap <= 2
    assert not pods & {pod["metadata"]["uid"] for pod in scene.all("pods")}
    assert [entry["reason"] for entry in scene.status()["history"]] == ["RevisionPromoted"]
