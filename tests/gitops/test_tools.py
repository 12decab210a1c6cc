"""The same states before Argo CD's and Flux' own code: their health check, their expressions, their kstatus.

What they say is recorded in tests/golden/gitops-verdicts.json, which test_health.py's quick evaluation must agree with.
A campaign: the first run builds Argo CD's and Flux' packages for minutes. `pytest -m campaign tests/gitops`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.gitops import argo_health, flux_verdicts
from tests.core.test_status import KSTATUS, STATES
from tests.gitops.test_health import ARGO, GITOPS, UNSEEN, flux_check, stored

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(3600)]

LUA = GITOPS / "argocd" / "health.lua"


def test_the_tools_own_code_reads_what_kstatus_reads(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    bodies = [stored(name) for name in STATES]
    check = written(tmp_path)
    argo, flux = argo_health(LUA, bodies), flux_verdicts(check, bodies)
    found = {
        name: {"argo": health["status"], "flux": verdict["expressions"], "kstatus": verdict["kstatus"]}
        for name, health, verdict in zip(STATES, argo, flux, strict=True)
    }
    assert all(health["message"] for health in argo)
    golden("gitops-verdicts.json", json.dumps(found, indent=1) + "\n")
    wanted = {
        name: {
            "argo": "Suspended" if name == "scaled to zero" else ARGO[KSTATUS[name]],
            "flux": KSTATUS[name],
            "kstatus": KSTATUS[name],
        }
        for name in STATES
    }
    assert found == wanted


def test_an_unseen_generation_is_in_progress(tmp_path: Path) -> None:
    bodies = [
        {key: value for key, value in (stored("serving") | change).items() if value is not None} for change in UNSEEN
    ]
    assert {health["status"] for health in argo_health(LUA, bodies)} == {"Progressing"}
    told = [verdict["expressions"] for verdict in flux_verdicts(written(tmp_path), bodies)]
    # Without any status the expressions have nothing to read: unknown, which Flux waits for too. Plain kstatus, which
    # a tool without our expressions goes by, calls such an object Current.
    assert told == ["InProgress" if "status" in body else "Unknown" for body in bodies]


def test_an_object_that_is_being_deleted_is_on_its_way() -> None:
    body = stored("serving")
    body["metadata"] |= {"deletionTimestamp": "2026-11-22T12:00:00Z"}
    (health,) = argo_health(LUA, [body])
    assert health["status"] == "Progressing"


def test_a_broken_check_is_told(tmp_path: Path) -> None:
    """Or a check that fails everywhere would pass for one that says Progressing."""
    (tmp_path / "health.lua").write_text("return obj.none.such")
    with pytest.raises(RuntimeError, match="attempt to index"):
        argo_health(tmp_path / "health.lua", [stored("serving")])


def written(folder: Path) -> Path:
    file = folder / "check.json"
    check: dict[str, Any] = flux_check()
    file.write_text(json.dumps(check))
    return file
