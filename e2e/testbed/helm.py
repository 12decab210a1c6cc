"""Helm, as users install with it, and what checks charts: each built from the module proxy on first use."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed.golang import HELM, HELM3, HELM_UNITTEST, KUBE_SCORE, KUBERNETES_VERSION, GoModule, programs

_SECONDS = 300.0


class HelmError(RuntimeError):
    """A helm command failed; `output` is what it said."""

    def __init__(self, arguments: tuple[str, ...], output: str) -> None:
        super().__init__(f"helm {' '.join(arguments)}: {output.strip()}")
        self.output = output


class Helm:
    """Helm with files of its own in `home`, on the cluster of a kubeconfig, if any. Call it with arguments."""

    def __init__(self, home: Path, kubeconfig: Path | None = None, module: GoModule = HELM) -> None:
        self._program = programs(module) / "helm"
        folders = {name: str(home / name.lower()) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        self._environment = {**os.environ, **folders, "KUBECONFIG": str(kubeconfig or home / "no-cluster")}

    def __call__(self, *arguments: str, seconds: float = _SECONDS) -> str:
        """Run a command; returns what it wrote to stdout. Raises HelmError."""
        done = subprocess.run(
            [str(self._program), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise HelmError(arguments, done.stdout + done.stderr)
        return done.stdout

    def template(self, chart: Path, values: Mapping[str, Any] | None = None, release: str = "gemmaspec") -> str:
        """The chart rendered without a cluster, as YAML documents."""
        # A Helm 3 that was not stamped when it was built takes the absent cluster for Kubernetes 1.20.
        where = ("--namespace=gemmaspec-system", f"--kube-version={KUBERNETES_VERSION}")
        return self("template", release, str(chart), *where, *settings(values or {}))

    def objects(self, chart: Path, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The chart rendered without a cluster, as objects."""
        return [one for one in yaml.safe_load_all(self.template(chart, values)) if one]


def helm3(home: Path) -> Helm:
    """Helm 3."""
    return Helm(home, module=HELM3)


def settings(values: Mapping[str, Any]) -> list[str]:
    """Values as arguments; names are paths with dots."""
    return [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]


def unittest(chart: Path) -> str:
    """Run the chart's own tests (chart/tests) by helm-unittest; returns its report. Raises HelmError."""
    command = [str(programs(HELM_UNITTEST) / "helm-unittest"), "--strict", str(chart)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise HelmError(("unittest",), done.stdout + done.stderr)
    return done.stdout


def kube_score(manifests: str, *flags: str) -> list[dict[str, Any]]:
    """Findings of kube-score that are not fine: object, check, grade (1 critical, 5 warning), comments."""
    command = [str(programs(KUBE_SCORE) / "kube-score"), "score", "-", "--output-format=json", *flags]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if not done.stdout.startswith("["):
        raise RuntimeError(f"kube-score: {done.returncode}: {done.stderr}")
    return [
        {"object": scored["object_name"], "check": check["check"]["id"], "grade": check["grade"], "comments": check}
        for scored in json.loads(done.stdout)
        for check in scored["checks"] or ()
        if not check["skipped"] and check["grade"] < 10
    ]
