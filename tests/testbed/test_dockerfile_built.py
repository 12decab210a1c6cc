"""operator/Dockerfile built by buildah for both architectures, what came out of it looked at, and arm64's imported.

A campaign, as root, with Debian's buildah, mmdebstrap and qemu-user-static: `pytest -m campaign` on this file.
The base is a stand-in made of Debian packages: no registry is asked, so that the pinned base itself is the one part
that this does not try.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.buildah import PYTHON, Buildah, debian
from testbed.images import bill_of_materials, operator_config

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(7200)]

SITE = f"usr/local/lib/{PYTHON}/site-packages"
MACHINES = {"amd64": 0x3E, "arm64": 0xB7}
"""Architecture -> e_machine of its ELF files."""
FOR_WINDOWS = {"colorama"}
"""Named by the lock file and so by the bill of materials, installed on Windows only."""


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    found = Buildah(tmp_path_factory.mktemp("buildah"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def images(buildah: Buildah) -> dict[str, str]:
    """The operator's image for each architecture."""
    base = buildah.base()
    return {architecture: buildah.operator(base, architecture) for architecture in MACHINES}


@pytest.mark.parametrize("architecture", MACHINES)
def test_it_is_what_the_archive_of_the_testbed_is(buildah: Buildah, images: dict[str, str], architecture: str) -> None:
    built = buildah.config(images[architecture])
    config, wanted = built["config"], operator_config()
    assert built["architecture"] == architecture
    assert (config["User"], config["WorkingDir"]) == (wanted.user, wanted.workdir)
    assert config["Entrypoint"] == list(wanted.entrypoint)
    assert {f"{name}={value}" for name, value in wanted.environment.items() if name != "PATH"} <= set(config["Env"])
    _, root = buildah.mounted(images[architecture])
    listed = json.loads((root / "usr/share/gemmaspec/sbom.cdx.json").read_text())["components"]
    assert listed == json.loads(bill_of_materials())["components"]
    installed = {path.name.split("-")[0].lower().replace("_", "-") for path in (root / SITE).glob("*.dist-info")}
    assert installed == {one["name"].replace(".", "-") for one in listed} - FOR_WINDOWS | {"gemmaspec"}
    assert (root / SITE / "gemmaspec/runtime/__pycache__").is_dir(), "compiled: nothing can be written at run time"


@pytest.mark.parametrize("architecture", MACHINES)
def test_libraries_are_of_its_architecture(buildah: Buildah, images: dict[str, str], architecture: str) -> None:
    _, root = buildah.mounted(images[architecture])
    libraries = list((root / SITE).rglob("*.so"))
    assert libraries
    assert {machine(path) for path in libraries} == {MACHINES[architecture]}


def machine(path: Path) -> int:
    """e_machine of an ELF file of little-endian order."""
    return int.from_bytes(path.read_bytes()[18:20], "little")


def test_the_other_architecture_s_operator_can_be_imported(
    buildah: Buildah, images: dict[str, str], tmp_path: Path
) -> None:
    """Its handlers and the libraries named here, by an arm64 Python under qemu's user emulation; it is not started."""
    debian(tmp_path / "root.tar", "arm64")
    with tarfile.open(tmp_path / "root.tar") as archive:
        archive.extractall(tmp_path / "root", filter="tar", members=[one for one in archive if not one.isdev()])
    _, image = buildah.mounted(images["arm64"])
    code = "import platform, gemmaspec.runtime.handlers, uvloop, orjson, pydantic_core; print(platform.machine())"
    command = ["qemu-aarch64-static", "-L", str(tmp_path / "root"), str(tmp_path / "root/usr/bin" / PYTHON), "-c", code]
    environment = {
        "PYTHONPATH": str(image / SITE),
        "PYTHONHOME": str(tmp_path / "root/usr"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000, check=False)
    assert done.stdout.strip() == "aarch64", done.stderr
