"""``python -m tests.fuzz``: thousands of mutations against a running operator; writes bench/results/fuzz.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "operator")]

from testbed import ControlPlane  # noqa: E402
from testbed.pki import ADMINISTRATORS  # noqa: E402
from tests.fuzz.campaign import play  # noqa: E402
from tests.fuzz.oracle import Verdict  # noqa: E402
from tests.integration.fake_engine import FakeEngines  # noqa: E402
from tests.integration.operator_process import OperatorProcess  # noqa: E402
from tests.integration.stage import Stage, copied_sources, definition  # noqa: E402


def main() -> int:
    """Run the campaign; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=2 * (os.cpu_count() or 2))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no more mutations after this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(controllers=True) as plane:
        sources = copied_sources(Path(folder))
        stage, engines = Stage(plane, definition(sources)), FakeEngines()

        def operator(namespace: str) -> OperatorProcess:
            kubeconfig = plane.kubeconfig_for("operator", [ADMINISTRATORS])
            return OperatorProcess(plane, sources, "operator", kubeconfig, {"GEMMASPEC_NAMESPACES": namespace})

        scene = stage.scene(operator, engines)
        scene.operator.start()
        verdicts = list(play(scene, engines.port, options.mutations, options.at_once, options.seed, options.minutes))
        ended, log = scene.operator.ended, scene.operator.whole_log()
        scene.operator.kill()
        scene.kubelet.close()
        engines.close()
        stage.close()
    crashes = int(ended is not None) + log.count("Traceback (most recent call last)")
    if crashes:
        print(log[-6000:])
    text = render(verdicts, crashes, options, time.monotonic() - began)
    print(text)
    if not options.dry:
        (ROOT / "bench/results/fuzz.md").write_text(text)
    return int(bool(crashes or any(verdict.wrong for verdict in verdicts)))


def _command() -> str:
    given = " ".join(sys.argv[1:])
    return f'make fuzz ARGS="{given}"' if given else "make fuzz"


def render(verdicts: list[Verdict], crashes: int, options: argparse.Namespace, seconds: float) -> str:
    """The result as a page."""
    how = Counter(verdict.how for verdict in verdicts)
    kinds = Counter(verdict.mutation.kind for verdict in verdicts)
    fields = {verdict.mutation.field for verdict in verdicts}
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    lines = [
        "# Fuzzed specs",
        "",
        f"`{_command()}`: {len(verdicts)} of {options.mutations} mutations, of",
        f"{len(fields)} fields in {seconds / 60:.0f} minutes, each applied to a running operator with a real API",
        "server and reverted.",
        "",
        f"{crashes} crashes or traces, {len(wrong)} wrong.",
        "",
        "| what became of it | mutations |",
        "|---|---|",
        *(f"| {name} | {number} |" for name, number in how.most_common()),
        "",
        "Refused: by the API server, with the field's name. Stalled: accepted, and told in the condition; nothing that",
        "runs was touched. Acted: children differ, or what the status says of the spec. Decides: nothing differs now,",
        "but what decisions are made with (tests/fuzz/test_deciding.py shows for each such field a decision that it",
        "moves). Same: the stored spec asks for what it did before.",
        "After each the spec was reverted, and the children were byte for byte those of before.",
        "",
        "| kind of mutation | mutations |",
        "|---|---|",
        *(f"| {name} | {number} |" for name, number in kinds.most_common()),
    ]
    lines += ["", *(f"- {verdict.mutation} ({verdict.how}): {verdict.wrong[:400]}" for verdict in wrong)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
