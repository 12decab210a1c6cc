"""The plugin for krew: an archive with the wheel and a starter, and the manifest that a plugin index lists.

``python manifests/krew.py --url https://…/releases/download --out dist``. krew installs archives of a release; the
project has none yet, so that address and homepage are the caller's to name.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
NAME: Final = "gemmaspec"
# The libraries are compiled for a machine and a Python each: who has either of these tools has them fetched to fit.
STARTER: Final = """\
#!/bin/sh
# Runs the wheel beside this file; uv or pipx fetch its libraries once, and keep them.
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
wheel="$here/{wheel}"
if command -v uv >/dev/null 2>&1; then
  exec uv tool run --quiet --from "$wheel" kubectl-gemmaspec "$@"
elif command -v pipx >/dev/null 2>&1; then
  exec pipx run --spec "$wheel" kubectl-gemmaspec "$@"
fi
echo "kubectl gemmaspec: neither uv nor pipx is installed, which fetch its libraries: install one of them" >&2
exit 1
"""


def version() -> str:
    """Version of the project."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def build(out: Path, url: str, homepage: str) -> tuple[Path, Path]:
    """Write archive and manifest into ``out``; returns both. url: where the archives of a release will be."""
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(out)], cwd=ROOT, check=True
    )
    (wheel,) = out.glob(f"{NAME}-{version()}-*.whl")
    archive = out / f"kubectl-{NAME}_v{version()}.tar.gz"
    archive.write_bytes(packed(wheel))
    manifest = out / f"{NAME}.yaml"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    body = described(f"{url.rstrip('/')}/v{version()}/{archive.name}", digest, homepage)
    manifest.write_text(yaml.safe_dump(body, sort_keys=False, width=120), encoding="utf-8")
    return archive, manifest


def packed(wheel: Path) -> bytes:
    """The archive; the same bytes for the same wheel."""
    files = {
        f"kubectl-{NAME}": (STARTER.format(wheel=wheel.name).encode(), 0o755),
        wheel.name: (wheel.read_bytes(), 0o644),
        "LICENSE": ((ROOT / "LICENSE").read_bytes(), 0o644),
    }
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def described(uri: str, digest: str, homepage: str) -> dict[str, Any]:
    """The manifest."""
    systems = {"key": "os", "operator": "In", "values": ["linux", "darwin"]}
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": NAME},
        "spec": {
            "version": f"v{version()}",
            "homepage": homepage,
            "shortDescription": "Watch Gemma 4 with speculative decoding",
            "description": (
                "Shows what GemmaSpecDeploy resources run and why: pods, K, acceptance of each draft position, speed, "
                "decisions; checks a cluster, explains conditions, and holds K for a while."
            ),
            "caveats": "Needs uv or pipx, which fetch the libraries at the first use.",
            "platforms": [
                {
                    "selector": {"matchExpressions": [systems]},
                    "uri": uri,
                    "sha256": digest,
                    "bin": f"kubectl-{NAME}",
                }
            ],
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="where the archives of releases are, without the version")
    parser.add_argument("--homepage", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    for made in build(given.out, given.url, given.homepage):
        print(made)
