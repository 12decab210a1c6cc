"""What Argo CD and Flux make of every state that the status can be in: the files under manifests/gitops, evaluated.

The Lua runtime is lupa's and the CEL is cel-python's, which are quick; test_tools.py asks the tools' own code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import celpy
import lupa
import pytest
import yaml

from tests.core.test_status import KSTATUS, STATES, decide

# What the tools' own code said: test_tools.py writes it.
RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "gitops-verdicts.json").read_text())
GITOPS = Path(__file__).resolve().parents[2] / "manifests" / "gitops"
ARGO = {"Current": "Healthy", "InProgress": "Progressing", "Failed": "Degraded"}


def stored(name: str) -> dict[str, Any]:
    """The object as the API server would hand it out in that state."""
    observation = STATES[name]
    metadata = {"name": "tiny", "namespace": "ns", "generation": observation.resource.generation}
    kind = {"apiVersion": "gemmaspec.io/v1alpha1", "kind": "GemmaSpecDeploy"}
    return {**kind, "metadata": metadata, "spec": dict(observation.resource.spec), "status": decide(observation)[1]}


def argo(body: dict[str, Any]) -> dict[str, str]:
    """Argo CD's health of an object: the script sees it as the global `obj`."""
    runtime = lupa.LuaRuntime(unpack_returned_tuples=True)
    runtime.globals().obj = runtime.table_from(json.loads(json.dumps(body)), recursive=True)
    found = runtime.execute((GITOPS / "argocd" / "health.lua").read_text())
    return {"status": found.status, "message": found.message}


def flux_check() -> dict[str, str]:
    """The sample's health check of our kind."""
    (found,) = yaml.safe_load((GITOPS / "flux" / "engines.yaml").read_text())["spec"]["healthCheckExprs"]
    return dict(found)


def flux(body: dict[str, Any]) -> str:
    """Flux's verdict: in progress wins over failed, that over current (its RFC 9); none of them is in progress."""
    expressions = flux_check()
    environment = celpy.Environment()
    given = {key: celpy.json_to_cel(value) for key, value in body.items()}
    given.setdefault("status", celpy.json_to_cel({}))
    for verdict, key in (("InProgress", "inProgress"), ("Failed", "failed"), ("Current", "current")):
        program = environment.program(environment.compile(expressions[key]))
        if bool(program.evaluate(given)):
            return verdict
    return "InProgress"


@pytest.mark.parametrize("name", STATES)
def test_argo_cd_reads_what_kstatus_reads(name: str) -> None:
    found = argo(stored(name))
    assert found["status"] == ("Suspended" if name == "scaled to zero" else ARGO[KSTATUS[name]])
    assert found["message"]


@pytest.mark.parametrize("name", STATES)
def test_flux_reads_what_kstatus_reads(name: str) -> None:
    assert flux(stored(name)) == KSTATUS[name]


@pytest.mark.parametrize("name", sorted(RECORDED.keys() & STATES.keys()))
def test_the_tools_own_code_said_the_same(name: str) -> None:
    said = {"argo": argo(stored(name))["status"], "flux": flux(stored(name))}
    assert said == {key: RECORDED[name][key] for key in said}


UNSEEN: list[dict[str, Any]] = [
    {"status": None},
    {"status": {}},
    {"metadata": {"name": "tiny", "generation": 9}},
]


@pytest.mark.parametrize("change", UNSEEN)
def test_an_unseen_generation_is_in_progress(change: dict[str, Any]) -> None:
    body = {key: value for key, value in (stored("serving") | change).items() if value is not None}
    assert argo(body)["status"] == "Progressing"
    assert flux(body) == "InProgress"
