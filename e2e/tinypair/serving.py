"""Serving the pair by real vLLM on this machine, with the arguments and environment of the `tiny-cpu` recipe."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tinypair import manifest

SERVED_NAME: Final = "tiny"
ARGUMENTS: Final = (
    "--dtype=float32",  # half precision is emulated here, and rounds drafts away from the target's choice
    "--max-model-len=1024",
    "--max-num-seqs=4",
    "--max-num-batched-tokens=1024",
    "--enforce-eager",
    "--distributed-executor-backend=uni",  # with the switch below: no third process, a third less start-up
    f"--kv-cache-memory-bytes={128 * 2**20}",
)
ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # what makes vLLM's CPU platform accept the "uni" executor
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every core but one, whatever OMP_NUM_THREADS says
    "OMP_NUM_THREADS": "1",  # layers of 64 numbers: more threads only wait for each other
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
_STOP_SECONDS: Final = 30.0


class NotServingError(RuntimeError):
    """The engine ended, or did not answer in time; the message holds its last lines."""


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    url: str
    """Without a trailing slash or /v1."""
    start_seconds: float
    """From starting the program to the first 200 of /health."""
    process: int

    def get(self, path: str, seconds: float = 30.0) -> str:
        """The body of a GET. Raises OSError when the engine does not answer in time."""
        with urllib.request.urlopen(self.url + path, timeout=seconds) as answer:
            body: bytes = answer.read()
        return body.decode()

    def _processes(self) -> Iterator[Path]:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                if os.getsid(int(process.name)) == self.process:
                    yield process

    def memory(self) -> int:
        """Bytes that the engine's processes hold in memory, shared pages counted once (Linux: PSS)."""
        total = 0
        for process in self._processes():
            with suppress(OSError):
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total

    def cpu_seconds(self) -> float:
        """Processor time that the engine's processes have used: what a busy machine doesn't distort."""
        ticks = 0
        for process in self._processes():
            with suppress(OSError):
                # after the name, which may hold blanks: state is field 3, user and system time are 14 and 15
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def command(
    environment: Path, port: int, k: int, assistant: str, pair: Path = manifest.FOLDER, more: Sequence[str] = ()
) -> list[str]:
    """The command line that serves the pair with `k` draft tokens; 0 is without speculation."""
    start = [str(environment / "bin" / "python3"), "-m", "vllm.entrypoints.openai.api_server"]
    address = ["--host=127.0.0.1", f"--port={port}"]
    model = [f"--model={pair / 'target'}", f"--served-model-name={SERVED_NAME}"]
    drafts: list[str] = []
    if k:
        speculative = {"method": "mtp", "model": str(pair / assistant), "num_speculative_tokens": k}
        drafts = [f"--speculative-config={json.dumps(speculative)}"]
    return [*start, *address, *model, *ARGUMENTS, *drafts, *more]


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _await_health(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not _healthy(url):
        ended = process.poll() is not None
        if ended or time.monotonic() > end:
            how = f"ended with status {process.returncode}" if ended else f"not healthy within {seconds:g} s"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise NotServingError(f"the engine {how}\n{tail}")
        time.sleep(0.1)


def _start(line: Sequence[str], settings: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **ENVIRONMENT, **settings}
    return subprocess.Popen(line, env=environment, stdout=output, stderr=output, start_new_session=True)


@contextmanager
def serving(
    environment: Path,
    k: int,
    log: Path,
    *,
    assistant: str = "assistant",
    pair: Path = manifest.FOLDER,
    settings: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
    seconds: float = 180.0,
) -> Iterator[Engine]:
    """An engine for as long as the block runs; its output goes to `log`. Raises NotServingError."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    caches = {"VLLM_CACHE_ROOT": str(environment / "cache")}
    with log.open("wb") as output:
        begun = time.monotonic()
        process = _start(command(environment, port, k, assistant, pair, more), {**caches, **(settings or {})}, output)
        try:
            _await_health(process, url, log, seconds)
            yield Engine(url, time.monotonic() - begun, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
