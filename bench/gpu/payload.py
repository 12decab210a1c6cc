"""Packs vLLM for a GPU machine without network: ``python bench/gpu/payload.py [--vllm 0.32.0]``.

The machine is expected to have Python 3.12 with torch 2.11 (CUDA 13). Writes ``.gpu-payload/0.26.0/part-0`` … (git
ignores them), each small enough to travel on its own; ``bench/gpu/unpack.sh`` puts them together there. Attention
runs on Triton (Gemma 4 demands it), so that FlashAttention's and others' compiled code stays at home.

0.32.0 was built for torch 2.13, but its extensions keep to libtorch's stable ABI, and torch 2.11 has every symbol that
they want; so no second torch travels.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from uv import find_uv_bin

HERE: Final = Path(__file__).parent
OUT: Final = HERE.parents[1] / ".gpu-payload"
VERSIONS: Final = ("0.26.0", "0.32.0")
PART: Final = 48 * 2**20
"""Bytes of one part: a call may carry 64 MiB, the repository included."""
LEFT_OUT: Final = (
    "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so",
    "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so",
    "vllm/vllm-rs",
    "vllm/third_party/deep_gemm",
    "vllm/third_party/fmha_sm100",
    "vllm/third_party/tml_fa4",
)
PLACEHOLDER: Final = "vllm/vllm_flash_attn/_vllm_fa2_C.py"
"""vLLM imports this extension when it looks for attention backends; nothing of it is called."""


def install(folder: Path, version: str, wheel: Path | None) -> None:
    """All packages for the GPU machine's Python, from the package index (``wheel``: vLLM's, if it is here already)."""
    lines = (HERE / f"packages-{version}.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    if wheel is not None:
        wanted = [line for line in wanted if not line.startswith("vllm==")]
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    command = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", f"--target={folder}"]
    command += ["--python-version=3.12", "--python-platform=x86_64-manylinux_2_39", *wanted]
    subprocess.run(command, check=True, timeout=1800)


def trim(folder: Path) -> None:
    """Leaves out what this bench never runs."""
    for name in LEFT_OUT:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (folder / PLACEHOLDER).write_text("# Stands for an extension that is left out: attention runs on Triton.\n")
    for junk in folder.rglob("__pycache__"):
        shutil.rmtree(junk)


def pack(folder: Path, out: Path, threads: int) -> list[Path]:
    """One xz archive of the folder, cut into parts."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    archive = out / "site.tar.xz"
    with archive.open("wb") as target:
        tar = subprocess.Popen(["tar", "-C", str(folder), "-cf", "-", "."], stdout=subprocess.PIPE)
        subprocess.run(["xz", "-6", f"-T{threads}"], stdin=tar.stdout, stdout=target, check=True, timeout=3600)
        if tar.wait(60):
            raise RuntimeError("tar failed")
    parts = []
    with archive.open("rb") as source:
        while chunk := source.read(PART):
            parts.append(out / f"part-{len(parts)}")
            parts[-1].write_bytes(chunk)
    archive.unlink()
    (out / "parts").write_text(f"{len(parts)}\n")
    return parts


def main() -> None:
    """Builds the payload and says which parts go with which call."""
    parser = argparse.ArgumentParser(description="Pack vLLM for a GPU machine without network")
    parser.add_argument("--vllm", choices=VERSIONS, default=VERSIONS[0], help="version")
    parser.add_argument("--vllm-wheel", type=Path, help="downloaded already")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-payload-") as scratch:
        install(Path(scratch), arguments.vllm, arguments.vllm_wheel)
        trim(Path(scratch))
        parts = pack(Path(scratch), OUT / arguments.vllm, arguments.threads)
    for part in parts:
        print(f"{part.relative_to(HERE.parents[1])}: {part.stat().st_size / 2**20:.1f} MiB")
    print("one call per part, carrying it; the first ones only need to run: bash bench/gpu/unpack.sh", file=sys.stderr)


if __name__ == "__main__":
    main()
