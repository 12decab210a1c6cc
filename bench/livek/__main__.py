"""``python -m bench.livek``: one real vLLM engine, traffic that turns from good to bad text and back, all policies.

The policies share one engine and one stream of traffic, in turns of a few seconds and in a new order each time, by PUT
/k, so that the machine's moods hit all alike; a phase lasts until each policy had its time. In each turn all policies
get the same requests. ``--overhead`` compares
tokens per second with plain vLLM at the same static K instead. Results: ``bench/results/livek.json``, ``livek.svg`` and
the table in ``livek.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "operator")]

from bench.livek import report  # noqa: E402
from gemmaspec_engine.agent.grid import schedule_for  # noqa: E402
from testbed.engine import ensure_engine  # noqa: E402
from tinypair import manifest, serving  # noqa: E402
from tinypair.languages import Kind  # noqa: E402
from traffic import Traffic  # noqa: E402

GRID: Final = (0, 1, 2, 4)
SEQUENCES: Final = 4
TOKEN: Final = "bench"
PHASES: Final[tuple[Kind, ...]] = ("code", "prose")
TURN_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 0.5
POLICIES: Final = ("adaptive", *(f"k{k}" for k in GRID))


class Engine:
    """A server and its agent's port."""

    def __init__(self, served: serving.Engine, port: int) -> None:
        self.served = served
        self._port = port

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A call of the agent's port."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def steps(self) -> dict[str, int]:
        """K → decode steps so far."""
        per_k = self.ask("GET", "/status")["steps"]["perK"]
        return {k: int(tally["steps"]) for k, tally in per_k.items()}

    def follow(self, policy: str) -> None:
        """From now on this policy decides."""
        if policy == "adaptive":
            self.ask("PUT", "/k", {"mode": "Adaptive", "k": max(GRID)})
        else:
            self.ask("PUT", "/k", {"mode": "Fixed", "k": int(policy[1:])})


@contextmanager
def engine(environment: Path, folder: Path, k: int | None = None) -> Iterator[Engine]:
    """With the agent, or with a fixed ``k`` and no agent."""
    port, name = serving.free_port(), "live" if k is None else f"plain{k}"
    agent = {"port": port, "host": "127.0.0.1", "tokenSha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
    speculative: dict[str, Any] = {"method": "mtp", "model": str(manifest.FOLDER / "assistant")}
    more: list[str] = []
    if k is None:
        speculative |= {"num_speculative_tokens": max(GRID)}
        speculative |= {"num_speculative_tokens_per_batch_size": schedule_for(GRID, SEQUENCES)}
        more += ["--scheduler-cls=gemmaspec_engine.agent.scheduler.LiveScheduler"]
    else:
        speculative |= {"num_speculative_tokens": k}
    more += [f"--speculative-config={json.dumps(speculative)}"]
    settings = {"PYTHONPATH": str(ROOT / "operator"), "GEMMASPEC_AGENT": json.dumps(agent)}
    with serving.serving(environment, 0, folder / f"{name}.log", settings=settings, more=more, seconds=300) as served:
        yield Engine(served, port)


def phase(served: serving.Engine, kind: Kind, seconds: float, seed: int) -> float:
    """Tokens per second of one phase."""
    traffic = Traffic(served.url + "/v1", streams=SEQUENCES, max_tokens=128, seed=seed)
    traffic.kind = kind
    with traffic.background():
        begun, total = time.monotonic(), traffic.meter.total
        while time.monotonic() < begun + seconds:
            time.sleep(0.05)
        rate = (traffic.meter.total - total) / (time.monotonic() - begun)
    failed = traffic.summary().failed
    if failed:
        raise RuntimeError(f"{failed} requests failed")
    return rate


def measure(live: Engine, rounds: int, seconds: float, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Both phases, round after round; in each phase all policies in turns until each had ``seconds``.

    The traffic goes on through the turns. The report is written anew after each phase.
    """
    dice = random.Random(1)
    rows: list[dict[str, Any]] = []
    turns = max(1, round(seconds / TURN_SECONDS))
    took = rounds * len(POLICIES) * len(PHASES) * turns * (TURN_SECONDS + SETTLE_SECONDS) / 60
    print(f"{took:.0f} minutes", file=sys.stderr, flush=True)
    for number in range(rounds):
        for kind in PHASES:
            traffic = Traffic(live.served.url + "/v1", streams=SEQUENCES, max_tokens=128, seed=number)
            traffic.kind = kind
            with traffic.background():
                for turn in range(turns):
                    for policy in dice.sample(POLICIES, len(POLICIES)):
                        traffic.begin_again(100 * number + turn)
                        live.follow(policy)
                        time.sleep(SETTLE_SECONDS)
                        row = block(live, traffic)
                        rows.append({"round": number, "turn": turn, "policy": policy, "phase": kind, **row})
            if traffic.summary().failed:
                raise RuntimeError(f"{traffic.summary().failed} requests failed")
            print(f"round {number + 1} {kind}", file=sys.stderr, flush=True)
            if len({row["phase"] for row in rows}) == len(PHASES):
                status = live.ask("GET", "/status")
                report.write(rows, {**facts, "loadAfter": os.getloadavg()[0]}, rounds, seconds, status)
    return rows


def block(live: Engine, traffic: Traffic) -> dict[str, Any]:
    """Tokens per second of the next turn, and per second of processor time of the engine; its steps by K."""
    before, begun, total, spent = live.steps(), time.monotonic(), traffic.meter.total, live.served.cpu_seconds()
    time.sleep(TURN_SECONDS)
    tokens, cpu, took = traffic.meter.total - total, live.served.cpu_seconds() - spent, time.monotonic() - begun
    steps = {k: after - before.get(k, 0) for k, after in live.steps().items()}
    return {"tok_s": round(tokens / took, 2), "tok_cpu_s": round(tokens / max(cpu, 0.01), 2), "steps": steps}


def overhead(environment: Path, folder: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """The live engine held at K = 4 and plain vLLM started with it, in turns."""
    rows = []
    with engine(environment, folder) as live, engine(environment, folder, 4) as plain:
        live.follow("k4")
        both = [("live", live), ("plain", plain)]
        for number in range(rounds):
            for name, one in both if number % 2 else both[::-1]:
                rate = phase(one.served, "code", seconds, seed=number)
                rows.append({"round": number, "engine": name, "tok_s": round(rate, 2)})
                print(f"round {number + 1} {name:5s} {rate:7.1f} tok/s", file=sys.stderr, flush=True)
        rows.append({"engine": "live", "agent": live.ask("GET", "/status")["overhead"]})
    return rows


def machine() -> dict[str, Any]:
    """What it ran on."""
    cores = sorted(os.sched_getaffinity(0))
    return {"cpu": platform.processor() or platform.machine(), "onCores": cores, "load": os.getloadavg()[0]}


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(prog="bench.livek", description="Adaptive K against every static K")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each policy in a phase")
    parser.add_argument("--overhead", action="store_true", help="live engine against plain vLLM at the same K")
    arguments = parser.parse_args()
    environment = ensure_engine()
    with tempfile.TemporaryDirectory() as scratch:
        folder, facts = Path(scratch), machine()
        if arguments.overhead:
            rows = overhead(environment, folder, arguments.rounds, arguments.seconds)
            report.write_overhead(rows, facts, arguments.seconds)
            return
        with engine(environment, folder) as live:
            for kind in PHASES:
                phase(live.served, kind, min(10.0, arguments.seconds), seed=999)
            rows = measure(live, arguments.rounds, arguments.seconds, facts)
    for name, pairs in report.shares(rows).items():
        print("{}: {:.1f} ± {:.1f} %".format(name, *(100 * figure for figure in report.share(pairs))))


if __name__ == "__main__":
    main()
