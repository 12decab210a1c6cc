"""Serves the pair with real vLLM at several K and measures it: ``python -m tinypair.check``.

For each K and kind of text: acceptance by draft position from the engine's own counters, tokens per second of one
stream and of four, and whether the greedy text equals that of K = 0. Ends with status 1 when a text differs or the
acceptance leaves the band that the demo and the policy's tests count on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from testbed.engine import ensure_engine
from tinypair import manifest
from tinypair.languages import LANGUAGES, Kind, prompt
from tinypair.serving import SERVED_NAME, Engine, serving

_PREFIX: Final = "vllm:spec_decode_num_"
_CALL_SECONDS: Final = 300.0
# Acceptance at position 0, lowest and highest, that each assistant has to show on each kind of text.
BANDS: Final[dict[str, dict[Kind, tuple[float, float]]]] = {
    "assistant": {"code": (0.90, 1.0), "prose": (0.05, 0.15)},
    "assistant-mixed": {"code": (0.80, 1.0), "prose": (0.40, 0.80)},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one kind of text got at one K."""

    k: int
    kind: Kind
    drafts: int
    accepted: list[float]
    """Share of drafts accepted up to each position (unconditional)."""
    one_stream: float
    """Median tokens per second of a call when it is alone."""
    four_streams: float
    """Tokens per second of four calls at a time, all together."""
    one_stream_cpu: float
    """Tokens per second of processor time, one call at a time: of use where the machine has other work too."""
    four_streams_cpu: float
    equal: int
    """Texts that equal those of K = 0."""
    texts: int


@dataclass(frozen=True)
class Answer:
    """One completion."""

    text: str
    tokens: int
    seconds: float


def ask(engine: Engine, text: str, tokens: int) -> Answer:
    """Greedy completion of exactly `tokens` tokens."""
    question = {"model": SERVED_NAME, "prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        engine.url + "/v1/completions", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    begun = time.monotonic()
    with urllib.request.urlopen(request, timeout=_CALL_SECONDS) as reply:
        answer: dict[str, Any] = json.load(reply)
    return Answer(answer["choices"][0]["text"], answer["usage"]["completion_tokens"], time.monotonic() - begun)


def counters(engine: Engine) -> dict[str, float]:
    """Drafts ("drafts") and accepted tokens by position ("0", "1", ...) since the engine started."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(engine.get("/metrics")):
        for sample in family.samples:
            if sample.name == f"{_PREFIX}drafts_total":
                found["drafts"] = sample.value
            elif sample.name == f"{_PREFIX}accepted_tokens_per_pos_total":
                found[sample.labels["position"]] = sample.value
    return found


def _timed(engine: Engine, prompts: Sequence[str], tokens: int, streams: int) -> tuple[list[Answer], float, float]:
    """The answers to all prompts, `streams` at a time; seconds passed; seconds of processor time."""
    begun, busy = time.monotonic(), engine.cpu_seconds()
    with ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(lambda text: ask(engine, text, tokens), prompts))
    return answers, time.monotonic() - begun, engine.cpu_seconds() - busy


def _measure(engine: Engine, k: int, kind: Kind, plain: dict[str, str], texts: int, tokens: int) -> Row:
    prompts = [prompt(kind, seed) for seed in range(texts)]
    ask(engine, prompt(kind, -1), 16)  # the first steps of an engine are slow
    before = counters(engine)
    alone, _, alone_cpu = _timed(engine, prompts, tokens, 1)
    after = counters(engine)
    together, seconds, together_cpu = _timed(engine, prompts, tokens, 4)
    drafts = after.get("drafts", 0.0) - before.get("drafts", 0.0)
    gained = [after.get(str(at), 0.0) - before.get(str(at), 0.0) for at in range(k)]
    for text, answer in zip(prompts, alone, strict=True):
        plain.setdefault(text, answer.text)
    return Row(
        k=k,
        kind=kind,
        drafts=int(drafts),
        accepted=[round(gain / drafts, 3) for gain in gained] if drafts else [],
        one_stream=round(statistics.median(answer.tokens / answer.seconds for answer in alone), 1),
        four_streams=round(sum(answer.tokens for answer in together) / seconds, 1),
        one_stream_cpu=round(sum(answer.tokens for answer in alone) / alone_cpu, 1),
        four_streams_cpu=round(sum(answer.tokens for answer in together) / together_cpu, 1),
        equal=sum(plain[text] == answer.text for text, answer in zip(prompts, alone, strict=True)),
        texts=texts,
    )


def check(assistant: str, ks: Sequence[int], pair: Path, texts: int, tokens: int) -> dict[str, Any]:
    """Rows for all `ks` (0 has to be the first, since texts are compared with it), start-up and memory."""
    environment = ensure_engine()
    rows: list[Row] = []
    engines: list[dict[str, float]] = []
    plain: dict[str, str] = {}
    for k in ks:
        log = Path(tempfile.gettempdir(), f"tinypair-{assistant}-{k}.log")
        with serving(environment, k, log, assistant=assistant, pair=pair) as engine:
            start_cpu = engine.cpu_seconds()
            for kind in LANGUAGES:
                rows.append(_measure(engine, k, kind, plain, texts, tokens))
                print(rows[-1], file=sys.stderr, flush=True)
            engines.append(
                {
                    "k": k,
                    "start_seconds": round(engine.start_seconds, 1),
                    "start_cpu_seconds": round(start_cpu, 1),
                    "memory_mib": round(engine.memory() / 2**20),
                }
            )
    return {"assistant": assistant, "rows": [dataclasses.asdict(row) for row in rows], "engines": engines}


def faults(report: dict[str, Any]) -> list[str]:
    """What of a report the demo and the tests cannot live with."""
    bands = BANDS[report["assistant"]]
    found = []
    for row in report["rows"]:
        name = f"{report['assistant']} K={row['k']} {row['kind']}"
        if row["equal"] != row["texts"]:
            found.append(f"{name}: {row['texts'] - row['equal']} texts differ from those of K=0")
        low, high = bands[row["kind"]]
        if row["k"] and not low <= row["accepted"][0] <= high:
            found.append(f"{name}: acceptance {row['accepted'][0]} at position 0, wanted {low} to {high}")
    return found


def table(report: dict[str, Any]) -> Table:
    """The report for people."""
    shown = Table("K", "text", "acceptance by position", "tok/s 1 / 4 streams", "per CPU second", "equal to K=0")
    shown.title = report["assistant"]
    for row in report["rows"]:
        accepted = " ".join(f"{share:.2f}" for share in row["accepted"])
        equal = f"{row['equal']} of {row['texts']}"
        speed = f"{row['one_stream']:.0f} / {row['four_streams']:.0f}"
        cpu_speed = f"{row['one_stream_cpu']:.0f} / {row['four_streams_cpu']:.0f}"
        shown.add_row(str(row["k"]), row["kind"], accepted, speed, cpu_speed, equal)
    return shown


def main() -> int:
    """0 when every text is equal and every acceptance in its band."""
    parser = argparse.ArgumentParser(description="Measure the tiny pair in real vLLM")
    parser.add_argument("--ks", type=int, nargs="+", default=[0, 1, 2, 4, 8], help="0 first")
    parser.add_argument("--assistants", nargs="+", default=list(BANDS), choices=list(BANDS))
    parser.add_argument("--pair", type=Path, default=manifest.FOLDER)
    parser.add_argument("--texts", type=int, default=8, help="prompts of each kind")
    parser.add_argument("--tokens", type=int, default=160, help="tokens of each answer")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    reports = [
        check(name, arguments.ks, arguments.pair, arguments.texts, arguments.tokens) for name in arguments.assistants
    ]
    if arguments.out:
        arguments.out.write_text(json.dumps(reports, indent=1) + "\n")
    for report in reports:
        Console().print(table(report))
        Console().print(report["engines"])
    wrong = [fault for report in reports for fault in faults(report)]
    print("\n".join(wrong) or "all texts equal, all acceptances in their bands")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
