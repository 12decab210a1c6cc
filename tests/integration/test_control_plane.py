"""The control plane of the testbed: what later integration tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed import ControlPlane, KubectlError
from testbed.deadline import wait_for

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(900)]  # a first run builds Kubernetes


def test_rbac_is_real(control_plane: ControlPlane) -> None:
    mortal = control_plane.kubectl_as(control_plane.kubeconfig_for("mortal", ["readers"]))
    with pytest.raises(KubectlError, match="forbidden"):
        mortal("get", "configmaps")
    control_plane.kubectl("create", "role", "readers", "--verb=list", "--resource=configmaps")
    control_plane.kubectl("create", "rolebinding", "readers", "--role=readers", "--group=readers")
    assert "kube-root-ca.crt" in mortal("get", "configmaps")


def test_audit_log_names_who_changed_what(control_plane: ControlPlane) -> None:
    start = control_plane.audit.mark()
    control_plane.kubectl("create", "configmap", "witness", "--from-literal=k=4")
    control_plane.kubectl("get", "configmap", "witness")
    (event,) = control_plane.audit.mutations(start, user="admin")
    assert (event.verb, event.resource, event.name, event.code) == ("create", "configmaps", "witness", 201)
    assert event.body["data"] == {"k": "4"}
    reads = control_plane.audit.events(start, user="admin", verbs={"get"}, resource="configmaps")
    assert [read.name for read in reads] == ["witness"]


def test_owner_references_are_garbage_collected(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "configmap", "owner")
    uid = control_plane.kubectl.json("get", "configmap", "owner")["metadata"]["uid"]
    owner = f"{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}"
    control_plane.kubectl.apply(
        f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: owned, ownerReferences: [{owner}]}}}}"
    )
    control_plane.kubectl("delete", "configmap", "owner")
    wait_for(
        lambda: not control_plane.kubectl("get", "configmap", "owned", "--ignore-not-found"),
        "the end of the owned ConfigMap",
        seconds=30,
    )


def test_state_outlives_the_api_server() -> None:
    with ControlPlane() as plane:
        plane.kubectl("create", "namespace", "kept")
        plane.stop_apiserver()
        with pytest.raises(KubectlError):
            plane.kubectl("get", "namespace", "kept")
        plane.start_apiserver()
        assert "kept" in plane.kubectl("get", "namespaces")


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    code = (
        "import time; from testbed import ControlPlane; plane = ControlPlane(); plane.start();"
        "print(plane.folder, flush=True); time.sleep(600)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    assert folder.is_dir()
    assert _processes_naming(folder)
    owner.send_signal(signal.SIGKILL)
    owner.communicate(timeout=10)
    begun = time.monotonic()
    wait_for(lambda: not folder.exists() and not _processes_naming(folder), "the end of all", seconds=10)
    assert time.monotonic() - begun < 5


def _processes_naming(folder: Path) -> list[int]:
    """Ids of the processes whose command line holds a path in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(entry.name))
    return found
