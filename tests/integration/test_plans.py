"""`gemmaspec plan` of every recipe and sample: quick, valid for kubeconform, taken by a real API server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
RECIPES = sorted(load())
GROUPS = ("api/v1", "apis/apps/v1", "apis/policy/v1", "apis/gemmaspec.io/v1alpha1")
KINDS = ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"]
# Of one core, and for the whole command with Python's own start: what the clock on the wall shows where nobody else
# computes. A busy machine is given more of the latter.
PLAN_SECONDS = 1.0
BUSY_SECONDS = 20.0


@dataclass(frozen=True)
class Planned:
    """What one call of the command printed, and what it took. Times in seconds."""

    name: str
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
    """A file for each recipe, and the samples."""
    folder = tmp_path_factory.mktemp("manifests")
    files = [folder / f"{name}.yaml" for name in RECIPES]
    for file in files:
        file.write_text(manifest_of(load()[file.stem]))
    return [*files, *SAMPLES]


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
    return Planned(file.stem, out.read_text(), usage.ru_utime + usage.ru_stime, wall)


@pytest.fixture(scope="module")
def plans(manifests: list[Path], operator_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Planned]:
    """Every plan, printed by the command."""
    out = tmp_path_factory.mktemp("plans")
    run_plan(operator_sources, manifests[0], out / "first.yaml")  # compiles the copied sources
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run_plan, operator_sources, file, out / f"{i}.yaml") for i, file in enumerate(manifests)]
        return [job.result() for job in jobs]


@pytest.fixture(scope="module")
def schemas(control_plane: ControlPlane, crd_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Schemas of what the API server serves, the resource included."""
    control_plane.kubectl("apply", "--server-side", "-f", str(crd_file))
    folder = tmp_path_factory.mktemp("schemas")
    api = Api(control_plane.kubeconfig)
    wait_for(lambda: api.ready(f"/openapi/v3/{GROUPS[-1]}"), "the published definition", 30)
    assert write_schemas(api, folder, GROUPS) > len(GROUPS)
    yield folder


def everything(plans: list[Planned]) -> str:
    return "".join(planned.text for planned in plans)


def faults(manifests: str, schemas: Path) -> list[str]:
    return [
        f"{r['kind']} {r['name']}: {r['msg']}" for r in kubeconform(manifests, schemas) if r["status"] != "statusValid"
    ]


def test_plan_prints_within_a_second(plans: list[Planned], record_property: Any) -> None:
    slowest = max(plans, key=lambda planned: planned.processor)
    record_property("slowest", f"{slowest.name}: {slowest.processor:.2f} s of a core, {slowest.wall:.2f} s")
    print(f"slowest of {len(plans)}: {slowest.name}, {slowest.processor:.2f} s of a core, {slowest.wall:.2f} s")
    late = {p.name: p.processor for p in plans if p.processor >= PLAN_SECONDS or p.wall >= BUSY_SECONDS}
    assert not late


def test_plan_holds_all_objects_and_says_the_command(plans: list[Planned]) -> None:
    assert [planned.name for planned in plans] == [*RECIPES, *(file.stem for file in SAMPLES)]
    for planned in plans:
        first, _, _ = planned.text.partition("\n")
        assert first.startswith("# ")
        assert "python3 -m vllm.entrypoints.openai.api_server --model " in first
        assert sorted(body["kind"] for body in yaml.safe_load_all(planned.text)) == KINDS


def test_kubeconform_passes_plans_and_samples(plans: list[Planned], schemas: Path, manifests: list[Path]) -> None:
    text = everything(plans)
    assert faults(text, schemas) == []
    assert len([r for r in kubeconform(text, schemas) if r["kind"]]) == len(KINDS) * len(plans)
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
    assert said.count("(server dry run)") == len(KINDS) * len(plans)
    said = control_plane.kubectl.apply("\n---\n".join(file.read_text() for file in manifests), *check)
    assert said.count("created (server dry run)") == len(manifests)
    with pytest.raises(KubectlError, match='unknown field "spec.template.spec.containers\\[0\\].lifecycle.preStopp"'):
        control_plane.kubectl.apply(plans[0].text.replace("preStop:", "preStopp:"), *check)
