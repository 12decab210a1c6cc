"""``python -m bench.scale``: a thousand resources at once, in turns with as many LeaderWorkerSets.

``--resources N``, ``--rounds R`` (each: ours, then theirs), ``--only NAME``. Raw figures go to
``bench/results/scale-N.json``, the page to ``scale-N.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "operator")]

from bench.scale import measure, report  # noqa: E402
from bench.scale.site import Site, site  # noqa: E402
from bench.scale.subjects import LeaderWorkerSets, Ours, Subject  # noqa: E402

RESULTS: Final = ROOT / "bench" / "results"


def main() -> int:
    """Run the benchmark."""
    options = _arguments()
    subjects: list[Subject] = [Ours(options.key, options.scrape), LeaderWorkerSets(options.bare)]
    subjects = [subject for subject in subjects if options.only in (None, subject.name)]
    result: dict[str, Any] = {
        "command": f"python -m bench.scale {' '.join(sys.argv[1:])}".strip(),
        "resources": options.resources,
        "bare": options.bare,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "rounds": [],
    }
    turns = [(number, subject) for number in range(options.rounds) for subject in subjects]
    with site(options.resources) as stage:
        for subject in subjects:
            subject.install(stage)
        for number, subject in turns:
            found = {"controller": subject.name}
            result["rounds"].append(found)
            _turn(stage, subject, options, found, last=number == options.rounds - 1)
            print(json.dumps(found, indent=1), flush=True)
            if not options.dry:
                _store(result)
            if (number, subject) != turns[-1]:  # else it goes with the stage
                _clear(stage, subject, found)
    print(report.page(result))
    return 1 if any(report.missing(found) for found in result["rounds"]) else 0


def _store(result: dict[str, Any]) -> None:
    """Write what is known so far: a run takes a while."""
    name = f"scale-{result['resources']}{'-bare' if result['bare'] else ''}"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(report.page(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--resources", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["gemmaspec", "lws"])
    parser.add_argument("--idle", type=float, default=60.0, help="seconds to look at a controller with nothing to do")
    parser.add_argument("--traffic", type=float, help="seconds of each of the two looks under traffic (as --idle)")
    parser.add_argument("--scrape", type=float, default=5.0, help="seconds between two scrapes that ours is asked for")
    parser.add_argument("--key", type=Path, help="key file of the operator: K is then moved in the running engine")
    parser.add_argument("--bare", action="store_true", help="LeaderWorkerSets of one plain container, not of our pods")
    parser.add_argument("--dry", action="store_true", help="write no result")
    parser.add_argument("--profile", help="a program and its options; the operator's pid is appended")
    return parser.parse_args()


def _turn(stage: Site, subject: Subject, options: argparse.Namespace, found: dict[str, Any], *, last: bool) -> None:
    """What matters most comes first: what does not come off is told in ``missing``, and the rest goes on."""
    subject.start(stage)
    if options.profile:
        stage.plane.supervised.start("profile", [*options.profile.split(), "--pid", str(stage.pid(subject.name))])
    _part(found, "converge", lambda: measure.converge(stage, subject, options.resources))
    if options.profile:
        stage.plane.supervised.stop("profile", signal.SIGINT)
    if isinstance(subject, Ours) and "converge" in found:
        found["converge"]["passes_each"] = subject.passes() / options.resources
    if not last:
        return
    _part(found, "idle", lambda: measure.idle(stage, subject, options.idle))
    usual, traffic = found.get("idle", {}).get("cpu_share", 0.0), options.traffic or options.idle
    if isinstance(subject, Ours):
        _part(found, "exposition", subject.exposition)
        _part(found, "change", lambda: measure.changes(stage, subject, options.resources, "idle", quiet=True))
    _part(found, "restart", lambda: measure.restart(stage, subject, usual, options.idle))
    if isinstance(subject, Ours):
        _part(found, "busy", lambda: measure.busy(stage, subject, traffic, options.resources))


def _part(found: dict[str, Any], name: str, look: Callable[[], dict[str, Any]]) -> None:
    try:
        found[name] = look()
    except (TimeoutError, OSError, RuntimeError) as failure:
        found.setdefault("missing", {})[name] = f"{type(failure).__name__}: {failure}"
    _tell({name: found.get(name, found.get("missing"))})


def _clear(stage: Site, subject: Subject, found: dict[str, Any]) -> None:
    print(f"{subject.name}: clearing", file=sys.stderr, flush=True)
    began = time.monotonic()
    measure.clear(stage, subject)
    stage.plane.supervised.stop(subject.name)
    found["clear_seconds"] = time.monotonic() - began


def _tell(found: dict[str, Any]) -> None:
    """What is known by now: a run of thousands takes half an hour."""
    print(json.dumps(found), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
