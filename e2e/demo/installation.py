"""Puts the operator on a cluster the way a user would: the CRD, then the install manifests with an image of ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from testbed.deadline import wait_for
from testbed.kubectl import Kubectl, KubectlError

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CRD: Final = REPOSITORY / "crds" / "gemmaspec.io_gemmaspecdeploys.yaml"
MANIFESTS: Final = REPOSITORY / "manifests" / "install"
SAMPLE: Final = REPOSITORY / "manifests" / "samples" / "gemmaspec-tiny.yaml"
CRD_NAME: Final = "gemmaspecdeploys.gemmaspec.io"
_READY_SECONDS: Final = 120
# These may hold what is not ours: removing the operator leaves them where they were before it came.
_SHARED: Final = ("Namespace", "CustomResourceDefinition")


class InstallationError(RuntimeError):
    """The operator cannot be installed, or does not get ready; the message says why."""


@dataclass(frozen=True)
class Operator:
    """An installed operator: where its Deployment is, and as whom it acts."""

    namespace: str
    deployment: str
    service_account: str
    selector: str
    container: str

    @property
    def user(self) -> str:
        """The name under which the API server knows it."""
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"


def rendered(kubectl: Kubectl, image: str) -> list[dict[str, Any]]:
    """The install manifests with the operator's image; CRDs are left out."""
    text = kubectl("kustomize", str(MANIFESTS))
    objects = [found for found in yaml.safe_load_all(text) if found and found["kind"] != "CustomResourceDefinition"]
    for container in _operator_deployment(objects)["spec"]["template"]["spec"]["containers"]:
        container |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    return objects


def _operator_deployment(objects: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found = [entry for entry in objects if entry["kind"] == "Deployment"]
    if len(found) != 1:
        raise InstallationError(f"{MANIFESTS} holds {len(found)} Deployments; the operator's should be the only one")
    return found[0]


def described(objects: Iterable[dict[str, Any]]) -> Operator:
    """What the manifests say about the operator."""
    deployment = _operator_deployment(objects)
    pod = deployment["spec"]["template"]["spec"]
    labels = deployment["spec"]["selector"]["matchLabels"]
    return Operator(
        namespace=deployment["metadata"]["namespace"],
        deployment=deployment["metadata"]["name"],
        service_account=pod.get("serviceAccountName", "default"),
        selector=",".join(f"{name}={value}" for name, value in labels.items()),
        container=pod["containers"][0]["name"],
    )


def install_crd(kubectl: Kubectl) -> bool:
    """Apply the CRD and wait until it serves. Returns whether it was there before."""
    before = exists(kubectl, "crd", CRD_NAME)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    wait_for(lambda: established(kubectl, CRD_NAME), f"{CRD_NAME} established", 60)
    return before


def established(kubectl: Kubectl, name: str) -> bool:
    """Whether a definition is served. `kubectl wait` fails on one that is so new that it has no conditions at all."""
    conditions = kubectl.json("get", "crd", name).get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)


def install_operator(kubectl: Kubectl, image: str) -> Operator:
    """Apply the manifests and wait until the operator's pod is ready. Raises InstallationError."""
    objects = rendered(kubectl, image)
    kubectl.apply(_as_list(objects))
    operator = described(objects)
    wait_ready(kubectl, operator)
    return operator


def wait_ready(kubectl: Kubectl, operator: Operator) -> None:
    """Wait until the operator's Deployment is rolled out and ready. Raises InstallationError with its last words."""
    where = ("-n", operator.namespace, f"deployment/{operator.deployment}")
    try:
        kubectl("rollout", "status", *where, f"--timeout={_READY_SECONDS}s", timeout=_READY_SECONDS + 10)
    except (KubectlError, subprocess.TimeoutExpired) as error:
        said = last_words(kubectl, operator)
        raise InstallationError(f"the operator's pod is not ready after {_READY_SECONDS} s: {said}") from error


def last_words(kubectl: Kubectl, operator: Operator) -> str:
    """The last line of the operator's log, or why there is none."""
    try:
        said = kubectl("logs", "-n", operator.namespace, f"deployment/{operator.deployment}", "--tail=1", timeout=20)
    except (KubectlError, subprocess.TimeoutExpired) as error:
        said = str(error)
    return said.strip() or "its log is empty"


def remove_operator(kubectl: Kubectl, image: str, keep_crd: bool) -> None:
    """Remove what was installed. A CRD takes all its resources with it: keep it unless it came with the demo."""
    objects = [entry for entry in rendered(kubectl, image) if not keep_crd or entry["kind"] not in _SHARED]
    kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=_as_list(objects))
    if not keep_crd:
        kubectl("delete", "--ignore-not-found", "--timeout=60s", "-f", str(CRD), timeout=70)


def exists(kubectl: Kubectl, *what: str) -> bool:
    """Whether `kubectl get WHAT` finds it."""
    return bool(kubectl("get", *what, "--ignore-not-found", "-o", "name").strip())


def _as_list(objects: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
