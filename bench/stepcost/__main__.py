"""``python -m bench.stepcost``: a step of vLLM's own scheduler with and without the agent, in one run.

Writes ``bench/results/stepcost.json`` and ``stepcost.md``. What counts is the ratio and the agent's own account:
absolute times are those of the machine it ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
OUT: Final = ROOT / "bench" / "results"
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "operator")]

from testbed.engine import ensure_engine  # noqa: E402
from tinypair import manifest  # noqa: E402


def table(found: dict[str, Any], command: str) -> list[str]:
    """The report's lines."""
    lines = ["# What the agent adds to a step", ""]
    lines += [f"`{command}`: scheduler of vLLM {found['vllm']}, asynchronous, simulated model runner, K = 4 held or"]
    lines += [
        "`adaptive` over 0, 1, 2, 4, kinds in turns of 100 steps, caches chilled between steps. Microseconds of the"
    ]
    lines += [
        "thread's processor time. Scheduler: what it does between two steps, the agent's part included. Held: the"
    ]
    lines += ["agent's part between two steps; all: with what runs while the device computes.", ""]
    head = ["batch", "K", "scheduler, median", "99 %", "over plain, median", "99 %"]
    head += ["agent held, median", "99 %", "agent all, median", "99 %"]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    plain = {row["batch"]: row for row in found["rows"] if row["kind"] == "plain"}
    for row in found["rows"]:
        base, agent = plain[row["batch"]], row.get("agent", {})
        cells = [str(row["batch"]), row["kind"], f"{row['p50']:.0f}", f"{row['p99']:.0f}"]
        cells += [f"× {row[name] / base[name]:.2f}" for name in ("p50", "p99")]
        cells += [f"{agent[name]:.0f}" if agent else "–" for name in ("heldP50Us", "heldP99Us", "p50Us", "p99Us")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(prog="bench.stepcost", description="The agent's time in a scheduler's step")
    parser.add_argument("--steps", type=int, default=3000, help="of each kind and batch (default 3000)")
    parser.add_argument("--no-write", action="store_true", help="leave bench/results alone")
    arguments = parser.parse_args()
    path = ":".join(str(ROOT / part) for part in ("e2e", "operator", "."))
    environment = {**os.environ, "PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(ensure_engine() / "bin" / "python3"), "-W", "ignore", "-m", "bench.stepcost.drive"]
    command += [str(manifest.FOLDER), str(arguments.steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=1800, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    lines = table(found, f"python -m bench.stepcost --steps {arguments.steps}")
    print("\n".join(lines))
    if not arguments.no_write:
        (OUT / "stepcost.json").write_text(json.dumps(found, indent=1) + "\n")
        (OUT / "stepcost.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
