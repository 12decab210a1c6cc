"""Engines of this bench: real vLLM servers on one GPU, with or without the agent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "operator"
sys.path.insert(0, str(SOURCE))

from gemmaspec_engine.agent import plugin  # noqa: E402
from gemmaspec_engine.agent.grid import schedule_for  # noqa: E402

GRID = tuple(int(k) for k in os.environ.get("BENCH_GRID", "0,1,2,4,8").split(","))
SEQUENCES = 16
BATCHES = tuple(int(size) for size in os.environ.get("BENCH_BATCHES", "1,2,4,8,16").split(","))
TOKEN = "bench"
START_SECONDS = 420.0
# Published acceptance, P(position reached and accepted), by model and number of drafts; 31B beyond 4 extrapolated.
PUBLISHED = {
    "26b": [0.734, 0.523, 0.371, 0.258, 0.193, 0.152, 0.110, 0.089],
    "31b": [0.787, 0.589, 0.456, 0.346, 0.263, 0.200, 0.152, 0.115],
}


def conditional(rates: list[float]) -> list[float]:
    """P(accepted | predecessor accepted) from P(accepted)."""
    return [round(p / q, 4) for p, q in zip(rates, [1.0, *rates[:-1]], strict=True)]


@dataclass
class Served:
    """One running server."""

    name: str
    model: str
    port: int
    control: int
    rates: Path
    process: subprocess.Popen[bytes]
    log: Path

    def ready(self) -> bool:
        """Does it answer? Raises RuntimeError when it has ended."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace").splitlines()[-25:]
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}\n" + "\n".join(tail))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def agent(self, method: str, path: str, body: object = None) -> Any:
        """A call of the agent's port."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.control}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def put(self, **settings: Any) -> None:
        """PUT /k."""
        self.agent("PUT", "/k", settings)

    def decoded(self) -> dict[int, tuple[int, int]]:
        """By K that a step verified: requests in steps without prefill, and the tokens that they got."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        requests, tokens = (
            {
                int(k): int(float(n))
                for k, n in re.findall(rf'^gemmaspec_agent_{name}_total{{k="(\d+)"}} (\S+)', text, re.M)
            }
            for name in ("decode_requests", "decode_tokens")
        )
        return {k: (requests[k], tokens[k]) for k in requests}

    def accept(self, rates: list[float]) -> None:
        """Synthetic acceptance from now on: conditional rates per position."""
        scratch = self.rates.with_suffix(".new")
        scratch.write_text(json.dumps(rates))
        scratch.replace(self.rates)

    @property
    def costs(self) -> Path:
        """Where the live engine writes what the agent took in each step; see `synthetic_dice`."""
        return self.rates.with_suffix(".costs")

    def stop(self) -> None:
        """Ends the server and what it started."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def arguments(model: str, kind: str, models: Path, port: int, share: float) -> list[str]:
    """vLLM's command line. ``kind``: live, plain0 (no speculation), plainK (fixed K, no agent) or verify (vLLM's own
    adaptive verification at the largest K).

    Below a share of 0.5 of the GPU two start at the same time, and their KV caches have a size of their own: what
    vLLM measures as free would be the other one's doing.
    """
    sizes = sorted({batch * (k + 1) for batch in BATCHES for k in GRID})
    line = ["--model", str(models / model), "--served-model-name", "m", "--load-format", "dummy"]
    line += ["--dtype", "bfloat16", "--max-model-len", "8192", "--max-num-seqs", str(SEQUENCES)]
    line += ["--max-num-batched-tokens", "4096", "--no-enable-prefix-caching", "--seed", "0"]
    line += ["--gpu-memory-utilization", f"{share:.2f}", "--host", "127.0.0.1", "--port", str(port)]
    line += ["--attention-backend", "TRITON_ATTN", "--uvicorn-log-level", "warning"]
    line += ["--compilation-config", json.dumps({"cudagraph_capture_sizes": sizes})]
    if share < 0.5:
        line += ["--kv-cache-memory-bytes", str(8 * 2**30)]
    if kind != "plain0":
        k = int(kind.removeprefix("plain")) if kind.startswith("plain") else max(GRID)
        speculative: dict[str, Any] = {"method": "mtp", "model": str(models / f"{model}-assistant")}
        speculative |= {"num_speculative_tokens": k, "rejection_sample_method": "synthetic"}
        speculative["synthetic_acceptance_rates"] = PUBLISHED[model][:k]
        if kind == "live":
            speculative["num_speculative_tokens_per_batch_size"] = schedule_for(GRID, SEQUENCES)
            line += ["--scheduler-cls", "gemmaspec_engine.agent.scheduler.LiveScheduler"]
        elif kind == "verify":
            speculative["enable_adaptive_verification"] = True
        line += ["--speculative-config", json.dumps(speculative)]
    return line


def serve(model: str, kind: str, gpu: int, number: int, home: Path, share: float) -> Served:
    """Starts a server; `Served.ready` says when it answers."""
    port, control = 8100 + 10 * gpu + number, 9100 + 10 * gpu + number
    name = f"{model}-{kind}-gpu{gpu}"
    rates, log = home / f"{name}.rates", home / "results" / f"{name}.log"
    entry = home / "plugins" / "gemmaspec_engine.dist-info"
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "METADATA").write_text(plugin.METADATA)
    (entry / "entry_points.txt").write_text(plugin.ENTRY_POINTS)
    rates.unlink(missing_ok=True)
    paths = [home / "site", SOURCE, HERE / "plugin", *([entry.parent] if kind == "live" else [])]
    agent = {"port": control, "host": "127.0.0.1", "tokenSha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(map(str, paths)),
        "CUDA_VISIBLE_DEVICES": str(gpu),
        "GEMMASPEC_AGENT": json.dumps(agent),
        "GPU_BENCH_RATES": str(rates),
        "GPU_BENCH_COSTS": str(rates.with_suffix(".costs")) if kind == "live" else "",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_MOE_ROUTING_SIMULATION_STRATEGY": "uniform_random",
        "VLLM_CACHE_ROOT": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += arguments(model, kind, home / "models", port, share)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, cwd=home, start_new_session=True
        )
    return Served(name, model, port, control, rates, process, log)


def await_all(engines: list[Served], seconds: float = START_SECONDS) -> None:
    """Until every server answers. Raises RuntimeError when one ends or takes too long."""
    end = time.monotonic() + seconds
    waiting = list(engines)
    while waiting:
        waiting = [engine for engine in waiting if not engine.ready()]
        if waiting and time.monotonic() > end:
            raise RuntimeError(f"not ready within {seconds:.0f} s: {', '.join(engine.name for engine in waiting)}")
        time.sleep(0.5)
