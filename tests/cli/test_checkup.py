"""What a checkup makes of what was seen; made-up clusters, pure functions."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from gemmaspec.api import crd
from gemmaspec.cli.checkup import Finding, Grade, Seen, Unseen, findings
from gemmaspec.cli.doctor import report
from gemmaspec.recipes import load

ROOT = Path(__file__).resolve().parents[2]
RECIPES = load()
WORLD = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))
SAMPLE = yaml.safe_load((ROOT / "manifests/samples/gemma4-26b.yaml").read_text(encoding="utf-8"))
READY = {"type": "Ready", "status": "True", "reason": "Serving", "message": "1 of 1 engines of this revision serve"}
FORBIDDEN = Unseen('nodes is forbidden: User "eve" cannot list resource "nodes"', forbidden=True)


def operator() -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "manifests/install/operator.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(document for document in documents if document["kind"] == "Deployment")
    return {**found, "status": {"availableReplicas": 1}}


def node(name: str, gpus: str | None = "1", product: str | None = "NVIDIA-GB10") -> dict[str, Any]:
    labels = {"kubernetes.io/arch": "arm64"} | ({"nvidia.com/gpu.product": product} if product else {})
    offered = {"nvidia.com/gpu": gpus} if gpus else {}
    return {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": offered}}


def resource(*conditions: dict[str, str]) -> dict[str, Any]:
    return {
        **SAMPLE,
        "metadata": {"name": "gemma4-26b", "namespace": "llm"},
        "status": {"conditions": list(conditions)},
    }


WELL = Seen(
    server="https://192.0.2.1:6443",
    version="v1.36.3",
    served=True,
    definition=crd.definition(),
    operators=[operator()],
    key=True,
    metrics="# HELP gemmaspec_resource_info x\ngemmaspec_resource_info 1\n",
    monitors=2,
    nodes=[node("spark-1"), node("spark-2")],
    runtime_classes=["nvidia"],
    resources=[resource(READY)],
)
BARE = replace(
    WELL,
    served=False,
    definition=None,
    operators=[],
    key=None,
    metrics=None,
    monitors=None,
    nodes=[node("spark-1", None, None)],
    runtime_classes=[],
    resources=[],
)


def one(seen: Seen, subject: str) -> Finding:
    (found,) = [entry for entry in findings(seen, RECIPES) if entry.subject == subject]
    return found


def shown(seen: Seen, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(report(findings(seen, RECIPES)))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def test_where_all_is_well(golden: Callable[[str, str], None]) -> None:
    assert {entry.grade for entry in findings(WELL, RECIPES)} == {Grade.OK}
    golden("cli-doctor-well.txt", shown(WELL, 120))


@pytest.mark.parametrize("width", [120, 72])
def test_a_bare_cluster(golden: Callable[[str, str], None], width: int) -> None:
    golden(f"cli-doctor-bare-{width}.txt", shown(BARE, width))


def test_what_is_not_in_order_says_what_to_do() -> None:
    for entry in findings(BARE, RECIPES):
        assert entry.remedy or entry.grade is Grade.OK, entry


def test_an_older_definition_is_told_with_what_it_lacks() -> None:
    older = copy.deepcopy(crd.definition())
    status = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    del status["k"]["properties"]["replicas"]
    found = one(replace(WELL, definition=older), "definition")
    assert found.grade is Grade.MISSING
    assert "status.k.replicas" in found.found


def test_a_newer_definition_is_worth_a_note() -> None:
    newer = copy.deepcopy(crd.definition())
    newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["more"] = {}
    assert one(replace(WELL, definition=newer), "definition").grade is Grade.NOTE


def test_a_definition_that_one_may_not_read_but_that_is_served() -> None:
    assert one(replace(WELL, definition=FORBIDDEN), "definition").grade is Grade.OK


@pytest.mark.parametrize(
    ("over", "subject"),
    [
        ({"nodes": FORBIDDEN}, "nodes"),
        ({"key": FORBIDDEN}, "key"),
        ({"metrics": FORBIDDEN}, "metrics"),
        ({"operators": FORBIDDEN}, "operator"),
        ({"runtime_classes": FORBIDDEN}, "runtime class"),
        ({"monitors": FORBIDDEN}, "monitoring"),
        ({"resources": FORBIDDEN}, "resources"),
    ],
)
def test_what_one_may_not_see_is_no_fault(over: dict[str, Any], subject: str) -> None:
    found = one(replace(WELL, **over), subject)
    assert found.grade is Grade.UNSEEN
    assert "ask for the right" in found.remedy


@pytest.mark.parametrize(
    ("over", "subject", "grade", "words"),
    [
        ({"operators": [{**operator(), "status": {}}]}, "operator", Grade.MISSING, "none is available"),
        ({"operators": [operator(), operator()]}, "operator", Grade.NOTE, "two that watch"),
        ({"key": False}, "key", Grade.NOTE, "gemmaspec-system/gemmaspec-operator-key is not there"),
        ({"metrics": ""}, "metrics", Grade.MISSING, "not with its metrics"),
        ({"metrics": Unseen("503: no route", forbidden=False)}, "metrics", Grade.MISSING, "no route"),
        ({"monitors": 0}, "monitoring", Grade.NOTE, "not told to scrape"),
        ({"nodes": [node("a", None)]}, "nodes", Grade.MISSING, "0 of 1 GB10 offer nvidia.com/gpu; not a"),
        ({"nodes": [node("a"), node("b", None)]}, "nodes", Grade.NOTE, "1 of 2 GB10 offer nvidia.com/gpu; not b"),
        ({"nodes": [node("a", "1", None)]}, "nodes", Grade.MISSING, "none of 1 is a GB10 by its labels"),
        ({"runtime_classes": []}, "runtime class", Grade.MISSING, "nvidia is asked for and not there"),
        ({"resources": [resource()]}, "resource llm/gemma4-26b", Grade.MISSING, "no operator has looked at it"),
        (
            {"resources": [resource({**READY, "status": "False", "reason": "Starting"})]},
            "resource llm/gemma4-26b",
            Grade.NOTE,
            "Starting",
        ),
        (
            {"resources": [resource(READY, {**READY, "type": "Stalled", "reason": "RolledBack"})]},
            "resource llm/gemma4-26b",
            Grade.MISSING,
            "RolledBack",
        ),
    ],
)
def test_what_is_missing(over: dict[str, Any], subject: str, grade: Grade, words: str) -> None:
    found = one(replace(WELL, **over), subject)
    assert found.grade is grade
    assert words in found.found
    assert found.remedy
