"""Argo CD and Flux as far as they judge, compare and sync objects: their own packages, in programs of ours."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.golang import GITOPS, programs

_SECONDS = 360.0
Body = Mapping[str, Any]


class GitopsError(RuntimeError):
    """One of the programs failed; the message is what it said."""


def argo_health(script: Path, objects: Sequence[Body]) -> list[dict[str, str]]:
    """Status and message of each object, with the Lua script as the health check of GemmaSpecDeploy."""
    found = _run("argocd", ["health", str(script)], objects)
    return list(found)


def argo_difference(kubeconfig: Path, wanted: Body) -> dict[str, Any]:
    """What a server-side diff of an object against the cluster finds: modified, live, predicted."""
    return dict(_run("argocd", ["diff"], wanted, kubeconfig))


def argo_sync(kubeconfig: Path, script: Path, namespace: str, objects: Sequence[Body]) -> list[dict[str, str]]:
    """Sync a namespace to these objects, in waves and with prune; returns object, status and message of each step.

    Raises GitopsError where the sync fails or takes more than five minutes.
    """
    found = _run("argocd", ["sync", str(script), namespace], objects, kubeconfig)
    return list(found)


def flux_verdicts(check: Path, objects: Sequence[Body]) -> list[dict[str, str]]:
    """Per object what Flux makes of a health check (an entry of healthCheckExprs as JSON), and what kstatus says."""
    found = _run("flux", [str(check)], objects)
    return list(found)


def _run(program: str, arguments: list[str], given: Any, kubeconfig: Path | None = None) -> Any:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    done = subprocess.run(
        [str(programs(GITOPS) / program), *arguments],
        input=json.dumps(given),
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise GitopsError(f"{program} {arguments[0]}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)
