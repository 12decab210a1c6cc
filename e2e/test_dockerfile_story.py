"""The image that operator/Dockerfile builds, on a cluster: handed over as `docker save` would, and at work as a pod.

A campaign, as root, with Debian's buildah and mmdebstrap; the base is a stand-in, as in
tests/testbed/test_dockerfile_built.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.installation import last_words, wait_ready
from demo.resource import Resource
from stories import BOOT_SECONDS, tiny_manifest
from test_helm import CHART, RELEASE, values
from test_helm_story import OPERATOR, SYSTEM
from testbed import Cluster, KubectlError
from testbed.buildah import PYTHON, Buildah, own_architecture
from testbed.helm import Helm
from testbed.install import system_program
from testbed.node import CONTAINERD_SOCKET

MISSING = [name for name in ("buildah", "mmdebstrap") if system_program(name) is None]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.engine,
    pytest.mark.campaign,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=f"no {' and no '.join(MISSING)} here: apt-get install them"),
]

NAME = "gemmaspec.local/operator:from-dockerfile"
NAMESPACE = "llm"


@pytest.fixture
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image as a file that any containerd imports."""
    buildah = Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        image = buildah.operator(buildah.base(), own_architecture())
        file = buildah.folder / "operator.tar"
        buildah("push", image, f"docker-archive:{file}:{NAME}")
        yield file
    finally:
        buildah.close()


@pytest.fixture
def fresh(archive: Path) -> Iterator[Cluster]:
    """A cluster that has the image from there."""
    Cluster("dockerfile").down()
    cluster = Cluster.up("dockerfile")
    ctr = [system_program("ctr") or "ctr", "-a", CONTAINERD_SOCKET, "-n", "k8s.io"]
    for machine in cluster.nodes():
        machine.run([*ctr, "images", "import", str(archive)], timeout=300)
    yield cluster
    cluster.down()


def test_what_the_dockerfile_builds_serves_a_resource(fresh: Cluster, tmp_path: Path) -> None:
    kubectl, helm = fresh.kubectl, Helm(tmp_path / "helm", fresh.kubeconfig)
    own = [*values(NAME), "--set=key.existingSecret=", "--wait", "--timeout=180s"]
    helm("install", RELEASE, str(CHART), f"--namespace={SYSTEM}", "--create-namespace", *own)
    kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    kubectl("rollout", "restart", f"deployment/{OPERATOR.deployment}", "-n", SYSTEM)
    wait_ready(kubectl, OPERATOR)
    inside = ("exec", "-n", SYSTEM, f"deployment/{OPERATOR.deployment}", "--")
    assert kubectl(*inside, "id", "-u").strip() == "65532"
    assert kubectl(*inside, "python3", "--version").lower().replace(" ", "").startswith(PYTHON)
    with pytest.raises(KubectlError, match="Read-only file system"):
        kubectl(*inside, "touch", "/usr/local/lib/it")
    kubectl("create", "namespace", NAMESPACE)
    resource = Resource(kubectl, "tiny", NAMESPACE)
    resource.apply(tiny_manifest(fresh))
    resource.wait_settled(BOOT_SECONDS)
    (pod,) = kubectl.json("get", "pods", "-n", SYSTEM, "-l", OPERATOR.selector)["items"]
    (status,) = pod["status"]["containerStatuses"]
    assert (status["image"], status["restartCount"]) == (NAME, 0), last_words(kubectl, OPERATOR)
