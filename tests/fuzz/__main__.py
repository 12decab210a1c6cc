"""``python -m tests.fuzz``: thousands of mutations against a running operator; writes bench/results/fuzz.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "operator")]

from testbed import ControlPlane  # noqa: E402
from testbed.pki import ADMINISTRATORS  # noqa: E402
from tests.fuzz.campaign import Part, mark, play  # noqa: E402
from tests.integration.fake_engine import FakeEngines  # noqa: E402
from tests.integration.operator_process import OperatorProcess  # noqa: E402
from tests.integration.stage import Stage, copied_sources, definition  # noqa: E402
from tests.ledger import Ledger, digest  # noqa: E402

TELL_EVERY = 50


def main() -> int:
    """Run the campaign, or the next part of it; 1 where something was wrong, or is left to play."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=4 * (os.cpu_count() or 2))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no more mutations after this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--go-on", type=Path, metavar="FILE", help="keep verdicts here, and play what is not in it yet")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = digest([ROOT / "operator", ROOT / "tests/fuzz", ROOT / "tests/integration"])
        about = {"mutations": options.mutations, "seed": options.seed, "sources": sources}
        ledger = Ledger(options.go_on or Path(folder) / "verdicts", about)
        began = time.monotonic()
        log, ended = campaign(Path(folder), ledger, options)
        traces = log.count("Traceback (most recent call last)")
        if ended is not None or traces:
            print(log[-6000:])
        crashes = int(ended is not None)
        ledger.add({"part": {"crashes": crashes, "traces": traces, "seconds": time.monotonic() - began}})
    text, good = render(ledger.entries, options)
    print(text)
    if not options.dry:
        (ROOT / "bench/results/fuzz.md").write_text(text)
    return int(not good)


def campaign(folder: Path, ledger: Ledger, options: argparse.Namespace) -> tuple[str, int | None]:
    """Play what is left; what the operator wrote, and its exit status where it ended by itself."""
    with ControlPlane(controllers=True) as plane:
        sources = copied_sources(folder)
        stage, engines = Stage(plane, definition(sources)), FakeEngines()

        def operator(namespace: str) -> OperatorProcess:
            kubeconfig = plane.kubeconfig_for("operator", [ADMINISTRATORS])
            return OperatorProcess(plane, sources, "operator", kubeconfig, {"GEMMASPEC_NAMESPACES": namespace})

        scene = stage.scene(operator, engines)
        scene.operator.start()
        played = frozenset(mark(entry["base"], entry["identity"]) for entry in ledger.entries if "base" in entry)
        part = Part(options.mutations, options.at_once, options.seed, options.minutes, played)
        began, number = time.monotonic(), 0
        for number, (base, verdict) in enumerate(play(scene, engines.port, part), start=1):
            ledger.add({"base": base, **verdict.entry})
            if number % TELL_EVERY == 0:
                print(f"{number} after {time.monotonic() - began:.0f} s", flush=True)
            if verdict.wrong:
                print(f"WRONG {base}: {verdict.text} ({verdict.how}): {verdict.wrong}", flush=True)
        ended, log = scene.operator.ended, scene.operator.whole_log()
        scene.operator.kill()
        scene.kubelet.close()
        engines.close()
        stage.close()
    return log, ended


def _command() -> str:
    given = " ".join(sys.argv[1:])
    return f'make fuzz ARGS="{given}"' if given else "make fuzz"


def render(entries: list[dict[str, Any]], options: argparse.Namespace) -> tuple[str, bool]:
    """The result as a page, and whether all was played and is right."""
    parts = [entry["part"] for entry in entries if "part" in entry]
    verdicts = [entry for entry in entries if "base" in entry]
    wrong = [verdict for verdict in verdicts if verdict["wrong"]]
    crashes, traces = (sum(part[name] for part in parts) for name in ("crashes", "traces"))
    minutes = sum(part["seconds"] for part in parts) / 60
    fields = len({verdict["field"] for verdict in verdicts})
    together = f" in {len(parts)} parts" if len(parts) > 1 else ""
    lines = [
        "# Fuzzed specs",
        "",
        f"`{_command()}`: {len(verdicts)} of {options.mutations} mutations, of",
        f"{fields} fields{together} in {minutes:.0f} minutes, each applied to a",
        "running operator with a real API server and reverted.",
        "",
        f"{crashes} crashes, {traces} traces in the operator's log, {len(wrong)} wrong.",
        "",
        *_table("what became of it", Counter(verdict["how"] for verdict in verdicts)),
        "",
        "Refused: by the API server, with the field's name. Stalled: accepted, and told in the condition; nothing that",
        "runs was touched. Acted: children differ, or what the status says of the spec. Decides: nothing differs now,",
        "but what decisions are made with (tests/fuzz/test_deciding.py shows for each such field a decision that it",
        "moves). Same: the stored spec asks for what it did before. Wrong is also what was accepted and is none of",
        "these: nothing is ignored in silence.",
        "After each the spec was reverted, and the children were byte for byte those of before.",
        "",
        *_table("kind of mutation", Counter(verdict["kind"] for verdict in verdicts)),
        "",
        *(f"- {verdict['text']} ({verdict['how']}): {verdict['wrong'][:400]}" for verdict in wrong),
    ]
    good = not (crashes or traces or wrong) and len(verdicts) == options.mutations
    return "\n".join(lines).rstrip() + "\n", good


def _table(title: str, counts: Counter[str]) -> list[str]:
    return [
        f"| {title} | mutations |",
        "|---|---|",
        *(f"| {name} | {number} |" for name, number in counts.most_common()),
    ]


if __name__ == "__main__":
    sys.exit(main())
