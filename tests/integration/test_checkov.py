"""checkov over what a user installs: each exception has its reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manifests import assemble
from testbed.checkov import checkov
from testbed.helm import Helm
from testbed.images import DOCKERFILE
from tests.integration.stage import ROOT

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]

ALWAYS = {
    "CKV_K8S_11": "no CPU limit: a throttled operator answers late, and it uses little",
    "CKV_K8S_38": "the operator's pod needs its ServiceAccount's token: it is a client of the API",
}
BY_DEFAULT = {
    "CKV_K8S_43": "which digest is the user's to say, as long as no image is published; image.digest takes it",
    "CKV_K8S_15": "IfNotPresent: boxes with a slow uplink; with a digest nothing else could be pulled",
    "CKV2_K8S_6": "NetworkPolicy is off: a chart does not know where the API server listens",
}
OF_THE_DOCKERFILE = {
    "CKV_DOCKER_2": "Kubernetes probes; it does not read HEALTHCHECK",
    "CKV_DOCKER_7": "the base is an ARG with tag and digest, which checkov does not follow",
}
CLOSED = {"networkPolicy.enabled": True, "image.pullPolicy": "Always", "image.digest": "sha256:" + "0" * 64}


def test_chart_as_closed_as_it_gets(tmp_path: Path) -> None:
    text = Helm(tmp_path / "helm").template(ROOT / "charts" / "gemmaspec", CLOSED)
    (tmp_path / "scanned").mkdir()
    (tmp_path / "scanned" / "chart.yaml").write_text(text)
    assert ids(tmp_path / "scanned", "kubernetes") == set(ALWAYS)


def test_what_is_installed_by_default(tmp_path: Path) -> None:
    shutil.copy(assemble.SINGLE, tmp_path)
    assert ids(tmp_path, "kubernetes") == {*ALWAYS, *BY_DEFAULT}


def test_dockerfile(tmp_path: Path) -> None:
    shutil.copy(DOCKERFILE, tmp_path)
    assert ids(tmp_path, "dockerfile") == set(OF_THE_DOCKERFILE)


def ids(folder: Path, framework: str) -> set[str]:
    return {check for check, _ in checkov(folder, [framework])}
