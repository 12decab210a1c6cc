"""The plugin by krew's own programs: its manifest is valid, and what krew installs of it runs as kubectl's plugin.

The libraries come from the package index, as they do for users: not in `make test`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from testbed.controlplane import kubectl_program
from testbed.golang import KREW, programs

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
URL = "https://plugins.example.org/gemmaspec"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with archive and manifest."""
    out = tmp_path_factory.mktemp("krew")
    command = [sys.executable, str(ROOT / "manifests" / "krew.py"), "--url", URL, "--out", str(out)]
    subprocess.run([*command, "--homepage", "https://example.org"], check=True, timeout=300)
    return out


def test_the_manifest_is_valid_by_krews_own_rules(built: Path) -> None:
    program, manifest = programs(KREW) / "validate-krew-manifest", built / "gemmaspec.yaml"
    command = [str(program), "-manifest", str(manifest), "-skip-install"]
    assert run(command).returncode == 0, run(command).stderr
    wrong = built / "other.yaml"
    wrong.write_text(manifest.read_text())
    assert run([str(program), "-manifest", str(wrong), "-skip-install"]).returncode != 0, "it is named as its plugin"
    body = yaml.safe_load(manifest.read_text())
    assert body["spec"]["platforms"][0]["uri"].startswith(URL)


def test_what_krew_installs_runs_as_kubectls_plugin(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    krew = str(programs(KREW) / "krew")
    path = os.pathsep.join([str(tmp_path / "krew" / "bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    environment = {**os.environ, "KREW_ROOT": str(tmp_path / "krew"), "PATH": path}
    install = [krew, "install", f"--manifest={built / 'gemmaspec.yaml'}", f"--archive={archive}"]
    done = run(install, environment)
    assert done.returncode == 0, done.stderr
    installed = tmp_path / "krew" / "bin" / "kubectl-gemmaspec"
    assert installed.is_symlink()
    # Before the one of this checkout, which the same PATH has.
    told = run([str(kubectl_program()), "gemmaspec", "recipes", "-o", "json"], environment)
    assert told.returncode == 0, told.stderr
    assert "gemma4-31b" in told.stdout


def run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
