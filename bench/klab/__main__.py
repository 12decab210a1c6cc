"""`python -m bench.klab`: the K lab's one command.

Plays every policy over the public traces and over random ones of the validation seeds, measures the
detectors and the calls, prints the table, and writes JSON, plots and the table of docs/policy.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import detectors, speed
from .plots import draw
from .report import dump, jobs, markdown, play_all, promises, rewrite, show, summary

ROOT = Path(__file__).resolve().parents[2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.klab", description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", type=int, default=200, help="random traces (default 200)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per public trace (default 5)")
    parser.add_argument("--drafts", type=float, default=3e7, help="drafts of the false-alarm run (default 3e7)")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "klab", help="plots and the full JSON")
    parser.add_argument("--late", type=int, default=0, help="steps by which results are late (0)")
    parser.add_argument("--no-write", action="store_true", help="leave bench/results and docs/policy.md alone")
    return parser.parse_args()


def _detectors(drafts: int) -> tuple[dict[str, Any], list[detectors.MixDelay]]:
    _say(f"false alarms over {drafts:,} drafts of healthy traffic …")
    alarms = detectors.false_alarms(drafts)
    _say(f"{alarms.alarms} false alarms; delays …")
    rows, worst = detectors.mix_delays()
    found = {
        "falseAlarms": asdict(alarms),
        "faultDelays": detectors.fault_delays(),
        "mixDelays": detectors.as_rows(rows),
        "mixDelayWorst": worst,
        "mixFalseAlarms": detectors.mix_false_alarms(2_000_000),
    }
    return found, rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the lab."""
    args, began = _arguments(), time.monotonic()
    todo = jobs(args.held_out, args.seeds)
    _say(f"{len(todo)} traces, {args.workers} workers …")
    scores = play_all(todo, args.workers, args.late)
    public = [score for score in scores if not score.trace.startswith("random-")]
    held = [score for score in scores if score.trace.startswith("random-")]
    found, delays = _detectors(int(args.drafts))
    data: dict[str, Any] = {
        "command": f"python -m bench.klab --held-out {args.held_out} --seeds {args.seeds} --drafts {args.drafts:g}"
        + (f" --late {args.late}" if args.late else ""),
        "python": platform.python_version(),
        "public": [asdict(score) for score in public],
        "summary": {"public": summary(public), "random": summary(held) if held else {}},
        "detectors": found,
        "microseconds": speed.measure_all(),
    }
    show(public, held)
    dump(args.out / "klab.json", {**data, "random": [asdict(score) for score in held]})
    for path in draw(args.out, public, held, delays):
        _say(f"wrote {path}")
    if not args.no_write:
        dump(ROOT / "bench" / "results" / "klab.json", data)
        text = f"{markdown(public, held)}\n\n{promises(found, data['microseconds'])}"
        rewrite(ROOT / "docs" / "policy.md", text)
    _say(f"done in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
