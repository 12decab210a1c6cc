"""The operator's Dockerfile, and the archive that the testbed writes from the same list of contents."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from dockerfile_parse import DockerfileParser

from testbed.images import (
    _LICENSE,
    _SBOM,
    DOCKERFILE,
    REPOSITORY,
    bill_of_materials,
    last_stage,
    operator_config,
    packaged,
)

LOCK = tomllib.loads((REPOSITORY / "uv.lock").read_text())
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_base_is_pinned_by_digest() -> None:
    (declared,) = [step for step in steps("ARG") if step.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", declared)
    assert steps("FROM") == ["--platform=$BUILDPLATFORM ${BASE} AS build", "${BASE}"]


def test_last_stage_holds_only_what_the_archive_understands() -> None:
    known = {"ENV", "USER", "WORKDIR", "ENTRYPOINT", "LABEL", "COPY"}
    assert {step["instruction"] for step in last_stage()} == known


def test_contents_are_the_same_in_both() -> None:
    copied = [step["value"].split()[-1] for step in last_stage() if step["instruction"] == "COPY"]
    site, sbom, licence = copied
    assert re.fullmatch(r"/usr/local/lib/python3\.\d+/site-packages", site)
    assert [sbom, licence] == [f"/{_SBOM}", f"/{_LICENSE}"]
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [str(path.relative_to(REPOSITORY)) for path in packaged()] == wheel


def test_it_starts_the_operator_as_nobody_and_keeps_nothing() -> None:
    config = operator_config()
    uid, gid = config.user.split(":")
    assert int(uid) > 10_000
    assert int(gid) > 10_000
    assert list(config.entrypoint) == ["/usr/local/bin/python3", "-m", "gemmaspec.runtime"]
    assert config.environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert config.environment["USER"], "kopf's start fails for a number without a name"
    assert config.workdir == config.environment["HOME"] == "/tmp", "the one place that can be written"


def test_what_the_build_reads_is_sent_to_it() -> None:
    """.dockerignore refuses everything but this."""
    let_in = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line.startswith("!")}
    read = {source for step in steps("COPY") if "--from" not in step for source in step.split()[:-1]}
    assert read == let_in


def test_bill_of_materials_names_every_locked_dependency() -> None:
    bill = json.loads(bill_of_materials())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", PROJECT["project"]["name"])
    listed = {(one["name"], one["version"]) for one in bill["components"]}
    assert listed == needed()
    assert all(one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}" for one in bill["components"])
    assert bill_of_materials() == bill_of_materials(), "an image of the same content has the same digest"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_dependency_has_a_wheel_for_both_machines(machine: str) -> None:
    """The image has no compiler, and is built for amd64 and arm64 from the same lock file."""
    (declared,) = [step for step in steps("ARG") if step.startswith("BASE=")]
    interpreter = "cp" + "".join(re.findall(r"python:(\d+)\.(\d+)", declared)[0])
    packages = {one["name"]: one for one in LOCK["package"]}
    lacking = []
    for name, _ in needed():
        wheels = [Path(urlsplit(one["url"]).path).name for one in packages[name].get("wheels", ())]
        if not any(fits(wheel, interpreter, machine) for wheel in wheels):
            lacking.append(name)
    assert lacking == []


def fits(wheel: str, interpreter: str, machine: str) -> bool:
    """Whether a wheel can be installed on Linux with glibc, by PEP 425's tags."""
    python, abi, platform = wheel.removesuffix(".whl").split("-")[-3:]
    pure = python.startswith("py3") or "py3" in python.split(".")
    if platform == "any":
        return pure
    right = python == interpreter or pure or (abi == "abi3" and int(python[3:]) <= int(interpreter[3:]))
    return right and any(tag.startswith("manylinux") and tag.endswith(machine) for tag in platform.split("."))


def needed() -> set[tuple[str, str]]:
    """Name and version of what the project depends on without its development groups, on Linux and elsewhere."""
    packages = {one["name"]: one for one in LOCK["package"]}
    waiting, found = [PROJECT["project"]["name"]], set()
    while waiting:
        for dependency in packages[waiting.pop()].get("dependencies", ()):
            name = dependency["name"]
            if name not in found:
                found.add(name)
                waiting.append(name)
    return {(name, packages[name]["version"]) for name in found}


def steps(instruction: str) -> list[str]:
    structure = DockerfileParser(path=str(DOCKERFILE)).structure
    return [step["value"] for step in structure if step["instruction"] == instruction]
