"""A control plane with the definition installed and a fake node: what scenes play on."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from testbed import ControlPlane
from testbed.api import Api
from testbed.deadline import wait_for
from tests.integration.fake_engine import GOOD, FakeEngines
from tests.integration.fake_kubelet import FakeKubelet, FakeNode
from tests.integration.operator_process import OperatorProcess
from tests.integration.scene import LEAST_SECONDS, Scene

SERVED = "/apis/gemmaspec.io/v1alpha1/gemmaspecdeploys"
ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count(1)


def copied_sources(folder: Path) -> Path:
    """A copy of the operator's sources: what runs is one state of them, whoever edits meanwhile."""
    copy = folder / "sources"
    shutil.copytree(ROOT / "operator", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def definition(sources: Path) -> Path:
    """The definition that belongs to the copied sources (another test compares it with crds/)."""
    file = sources / "crd.yaml"
    command = [sys.executable, "-m", "gemmaspec.api.crd", str(file)]
    subprocess.run(command, env={"PYTHONPATH": str(sources)}, check=True, timeout=60)
    return file


class Stage:
    """A control plane with the definition installed and a fake node: what scenes play on."""

    def __init__(self, plane: ControlPlane, crd_file: Path) -> None:
        self.plane = plane
        self.api = Api(plane.kubeconfig)
        self._node = FakeNode(self.api)
        plane.kubectl("apply", "--server-side", "-f", str(crd_file))
        wait_for(lambda: self.api.ready(SERVED), "the served definition", 30)
        self._node.start()

    def close(self) -> None:
        """The node stops."""
        self._node.close()

    def scene(self, operator: Callable[[str], OperatorProcess], engines: FakeEngines) -> Scene:
        """A scene in a new namespace, with the operator that is given for it."""
        namespace = f"scene-{next(_numbers)}"
        self.api.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}}, seconds=LEAST_SECONDS)
        kubelet = FakeKubelet(self.api, namespace, engines, GOOD)
        kubelet.start()
        return Scene(self.plane, self.api, namespace, operator(namespace), kubelet, engines)
