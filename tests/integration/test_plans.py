"""`gemmaspec plan` of every recipe and sample: quick, valid for kubeconform, taken by a real API server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmaspec.core.recipe import Recipe
from gemmaspec.recipes import load
from testbed import ControlPlane, KubectlError
from testbed.api import Api
from testbed.deadline import wait_for
from testbed.schemas import kubeconform, write_schemas

# A first run builds Kubernetes and kubeconform.
pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
PLANNED = sorted(file for file in (ROOT / "tests/golden/plan").glob("*.yaml") if ".rendered" not in file.name)
GROUPS = ("api/v1", "apis/apps/v1", "apis/policy/v1", "apis/gemmaspec.io/v1alpha1")
KINDS = ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"]
# Of one core, and for the whole command with Python's own start: what the clock on the wall shows where nobody else
# computes. A busy machine is given more of the latter.
PLAN_SECONDS = 1.0
BUSY_SECONDS = 20.0


@dataclass(frozen=True)
class Planned:
    """What one call of the command printed of ``count`` resources, and what it took. Times in seconds."""

    name: str
    count: int
    text: str
    processor: float
    wall: float


def manifest_of(recipe: Recipe) -> str:
    """A resource that names the recipe and adds what only the user can: an image by digest, a patch by hash."""
    engine: dict[str, Any] = {"image": f"registry.example/vllm@sha256:{'0' * 64}"}
    if recipe.patch_required:
        source = {"configMap": {"name": "patches", "key": "module.py"}}
        engine["patches"] = [{"module": recipe.patch_required, "sha256": "0" * 64, "source": source}]
    body = {
        "apiVersion": "gemmaspec.io/v1alpha1",
        "kind": "GemmaSpecDeploy",
        "metadata": {"name": recipe.name},
        "spec": {"recipe": recipe.name, "engine": engine},
    }
    return yaml.safe_dump(body)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The samples, one for each recipe that has a file of its own; and one file with every recipe and variant, and
    with the resources whose plans are kept as golden files, which use every field.
    """
    every = tmp_path_factory.mktemp("manifests") / "every.yaml"
    texts = [manifest_of(recipe) for recipe in load().values()] + [file.read_text() for file in PLANNED]
    every.write_text(re.sub("namespace: [a-z]+", "namespace: default", "---\n".join(texts)))
    return [*SAMPLES, every]


def run_plan(sources: Path, file: Path, out: Path) -> Planned:
    """The command as a process of its own; raises AssertionError with its words when it fails."""
    command = [sys.executable, "-m", "gemmaspec.cli.main", "plan", "-f", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    began = time.monotonic()
    with out.open("w") as stdout:
        process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{file.name}: {out.read_text()[-2000:]}"
    wall = time.monotonic() - began
    count = file.read_text().count("kind: GemmaSpecDeploy\n")
    return Planned(file.stem, count, out.read_text(), usage.ru_utime + usage.ru_stime, wall)


@pytest.fixture(scope="module")
def plans(manifests: list[Path], operator_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Planned]:
    """Every plan, printed by the command."""
    out = tmp_path_factory.mktemp("plans")
    run_plan(operator_sources, manifests[0], out / "first.yaml")  # compiles the copied sources
    return [quickest(operator_sources, file, out / file.name) for file in manifests]


def quickest(sources: Path, file: Path, out: Path) -> Planned:
    """Up to three calls, until one is in time: other programs on the machine cost this one processor time too."""
    found = run_plan(sources, file, out)
    for _ in range(2):
        if found.count == 1 and found.processor >= PLAN_SECONDS:
            found = min(found, run_plan(sources, file, out), key=lambda planned: planned.processor)
    return found


@pytest.fixture(scope="module")
def schemas(control_plane: ControlPlane, crd_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Schemas of what the API server serves, the resource included."""
    control_plane.kubectl("apply", "--server-side", "-f", str(crd_file))
    folder = tmp_path_factory.mktemp("schemas")
    api = Api(control_plane.kubeconfig)
    wait_for(lambda: api.ready(f"/openapi/v3/{GROUPS[-1]}"), "the published definition", 30)
    assert write_schemas(api, folder, GROUPS) > len(GROUPS)
    return folder


def everything(plans: list[Planned]) -> str:
    return "".join(planned.text for planned in plans)


def faults(manifests: str, schemas: Path) -> list[str]:
    """What kubeconform finds wrong; a document of comments alone is none."""
    told = [record for record in kubeconform(manifests, schemas) if record["kind"]]
    assert told
    return [f"{r['kind']} {r['name']}: {r['msg']}" for r in told if r["status"] != "statusValid"]


def total(plans: list[Planned]) -> int:
    return sum(planned.count for planned in plans)


def test_plan_prints_within_a_second(plans: list[Planned], record_property: Any) -> None:
    """One resource a call; and all the variants in one call cost little more than their shared start."""
    *single, every = plans
    slowest = max(single, key=lambda planned: planned.processor)
    each = (every.processor - slowest.processor) / (every.count - 1)
    told = f"{slowest.name}: {slowest.processor:.2f} s of a core, {slowest.wall:.2f} s; {each:.3f} s each further one"
    record_property("slowest", told)
    print(told)
    assert not {p.name: p.processor for p in single if p.processor >= PLAN_SECONDS or p.wall >= BUSY_SECONDS}
    assert each < PLAN_SECONDS / 5


def test_plan_holds_all_objects_and_says_the_command(plans: list[Planned]) -> None:
    assert [planned.count for planned in plans] == [1] * len(SAMPLES) + [len(load()) + len(PLANNED)]
    for planned in plans:
        bodies = list(yaml.load_all(planned.text, Loader=yaml.CSafeLoader))
        assert sorted(body["kind"] for body in bodies) == sorted(KINDS * planned.count)
        commands = [line for line in planned.text.splitlines() if line.startswith("# ")]
        assert len(commands) == planned.count
        assert all("python3 -m vllm.entrypoints.openai.api_server --model " in line for line in commands)


def test_kubeconform_passes_plans_and_samples(plans: list[Planned], schemas: Path, manifests: list[Path]) -> None:
    text = everything(plans)
    assert faults(text, schemas) == []
    assert len([record for record in kubeconform(text, schemas) if record["kind"]]) == len(KINDS) * total(plans)
    assert faults("\n---\n".join(file.read_text() for file in manifests), schemas) == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("preStop:", "preStopp:", "additional properties 'preStopp' not allowed"),
        ("maxUnavailable: 1", "maxUnavailable: [1]", "maxUnavailable"),
        ("kind: Service\n", "kind: Servise\n", "could not find schema"),
        ("replicas: 1", "replicas: one", "got string, want integer"),
    ],
)
def test_kubeconform_would_say_what_is_wrong(
    plans: list[Planned], schemas: Path, right: str, wrong: str, said: str
) -> None:
    assert right in plans[0].text
    found = faults(plans[0].text.replace(right, wrong), schemas)
    assert len(found) == 1
    assert said in found[0]


def test_api_server_takes_plans_and_samples(
    plans: list[Planned], control_plane: ControlPlane, schemas: Path, manifests: list[Path]
) -> None:
    check = ("--dry-run=server", "--validate=strict")
    said = control_plane.kubectl.apply(everything(plans), *check)
    assert said.count("(server dry run)") == len(KINDS) * total(plans)
    said = control_plane.kubectl.apply("\n---\n".join(file.read_text() for file in manifests), *check)
    assert said.count("created (server dry run)") == total(plans)
    with pytest.raises(KubectlError, match=r'unknown field "spec.template.spec.containers\[0\].lifecycle.preStopp"'):
        control_plane.kubectl.apply(plans[0].text.replace("preStop:", "preStopp:"), *check)
