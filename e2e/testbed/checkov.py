"""checkov, a scanner of manifests and Dockerfiles, in an environment of its own: its libraries are many and old."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.cache import built
from testbed.progress import clear_line, step

VERSION = "3.3.30"
_SECONDS = 600.0


def checkov(folder: Path, frameworks: Sequence[str]) -> set[tuple[str, str]]:
    """(check, what it says) of every check that fails for files of a folder. Raises RuntimeError."""
    program = built("checkov", VERSION, _install) / "bin" / "checkov"
    flags = ["--compact", "--quiet", "--skip-download", "--output=json", "--framework", *frameworks]
    done = subprocess.run(
        [str(program), "-d", str(folder), *flags], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"checkov: {done.returncode}: {clear_line(done.stderr)}")
    told = json.loads(done.stdout)
    reports = told if isinstance(told, list) else [told]
    if not reports or any("summary" not in report for report in reports):
        raise RuntimeError(f"checkov scanned nothing in {folder}")
    return {
        (failed["check_id"], failed["check_name"])
        for report in reports
        for failed in report["results"]["failed_checks"]
    }


def _install(home: Path) -> None:
    with step(f"installing checkov {VERSION} from PyPI (about 200 MB)"):
        _uv("venv", "--quiet", "--relocatable", str(home))
        _uv("pip", "install", "--quiet", f"--python={home / 'bin' / 'python'}", f"checkov=={VERSION}")


def _uv(*arguments: str) -> None:
    command = [sys.executable, "-m", "uv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"uv {arguments[0]}: {clear_line(done.stderr)}")
