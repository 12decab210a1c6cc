"""One GPU's work: ``python3 bench/gpu/station.py NAME GPU HOME`` writes HOME/results/NAME.jsonl, a line per cell.

26b-a  live engine and one without speculation side by side: sweep of K × streams, live K=0 against none
26b-b  live engine and one at fixed K=4 side by side: held K=4 against fixed K=4, phases
26b-d  live engine and one at fixed K=4 side by side, for BENCH_SECONDS: held K=4 against fixed K=4, and what the
       agent takes of each step with K held and with `adaptive`
26b-e  26b-d, then phases
26b-h1 live engine: text that turns from good to bad and back, for BENCH_SECONDS, one stream; 26b-h8: eight
26b-f  live engine and one with vLLM's own adaptive verification (from 0.30 on) side by side: phases
31b-a  live engine: sweep, phases
31b-b  one after another: without speculation, live, fixed K=4 (two of them do not fit on one GPU)

Two engines on one GPU never work at the same time: the idle one takes memory and nothing else. Where the GPU is
too small for two, they come one after another, and the rows say so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load import running
from served import GRID, PUBLISHED, Served, await_all, conditional, serve

CONCURRENCY = (1, 4, 8, 16)
REPEATS = int(os.environ.get("BENCH_REPEATS", "5"))
COMPARED = REPEATS + 1
SETTLE = 0.3
WINDOW = 1.5
HELD_WINDOW = 2.5
COST_WINDOW = 2.0
COST_SECONDS = float(os.environ.get("BENCH_SECONDS", "180"))
COST_STREAMS = tuple(int(count) for count in os.environ.get("BENCH_COST_STREAMS", "1,8,16").split(","))
PHASE_SECONDS = float(os.environ.get("BENCH_PHASE_SECONDS", "10"))
PHASE_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
ALTERNATE_SECONDS = float(os.environ.get("BENCH_TURN_SECONDS", "60"))
STATIC_SECONDS, SCOUT_SECONDS = float(os.environ.get("BENCH_STATIC_SECONDS", "12")), 3.0
CONTENDER = 0.95
"""A static K that the scouting finds below this part of the phase's best is not asked again in that phase."""
OUTPUT = (512, 1536)
"""Tokens of a request, drawn: of one length, eight streams at K=0 would go in step, and their prefills with them."""
GOOD = [0.92, 0.92, 0.92, 0.91, 0.90, 0.90, 0.90, 0.90]
BAD = [0.25, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20]
CERTAIN = [1.0] * max(GRID)
"""Every draft is accepted: as many tokens in each step, so that tok/s differ by nothing but time."""
WEIGHTS_GIB = {"26b": 52, "31b": 63}
Write = Callable[..., None]


def phases(model: str) -> list[tuple[str, list[float], int]]:
    """(name, conditional acceptance, streams): what changes is the kind of text, the concurrency, or both."""
    published = conditional(PUBLISHED[model])
    return [
        ("good text, 1 stream", GOOD, 1),
        ("bad text, 1 stream", BAD, 1),
        ("published rates, 8 streams", published, 8),
        ("bad text, 16 streams", BAD, 16),
        ("good text, 8 streams", GOOD, 8),
        ("published rates, 1 stream", published, 1),
    ]


async def sweep(live: Served, plain: Served | None, write: Write) -> None:
    """K × streams, all K in turn on the same streams, in another order each time."""
    dice = random.Random(11)
    live.accept(conditional(PUBLISHED[live.model]))
    for repeat in range(REPEATS):
        for count in CONCURRENCY:
            async with running(live, count, 100 * repeat + count) as streams:
                for k in dice.sample(GRID, len(GRID)):
                    live.put(mode="Fixed", k=k)
                    await asyncio.sleep(SETTLE)
                    write("sweep", k=k, streams=count, repeat=repeat, **(await streams.window(WINDOW)).as_json())
            if plain is not None:
                async with running(plain, count, 100 * repeat + count) as streams:
                    await asyncio.sleep(SETTLE)
                    write("sweep", k=-1, streams=count, repeat=repeat, **(await streams.window(WINDOW)).as_json())


async def held(engine: Served, k: int, count: int, seed: int) -> dict[str, float]:
    """Fresh streams at one K: contexts of the same length in every engine."""
    async with running(engine, count, seed) as streams:
        await asyncio.sleep(SETTLE)
        return (await streams.window(HELD_WINDOW)).as_json() | {"k": k}


async def compare(live: Served | None, plain: Served | None, k: int, write: Write, order: str) -> None:
    """The live engine held at K against an engine started that way, in turns."""
    if live is not None:
        live.accept(conditional(PUBLISHED[live.model]))
        live.put(mode="Fixed", k=k)
    for repeat in range(COMPARED):
        for count in (1, 8):
            both = [("live", live), ("plain", plain)]
            for who, engine in both if repeat % 2 else both[::-1]:
                if engine is not None:
                    cell = await held(engine, k, count, 1000 * repeat + count)
                    write("compare", who=who, streams=count, repeat=repeat, order=order, **cell)


async def adapt(live: Served, write: Write, verifying: Served | None = None) -> None:
    """Every policy goes through all phases; the adaptive one knows nothing at first, and keeps what it learns.

    ``verifying``: an engine with vLLM's adaptive verification, as one more policy.
    """
    dice = random.Random(13)
    for repeat in range(PHASE_ROUNDS):
        policies = ["adaptive", *(f"k{k}" for k in GRID), *(["verification"] if verifying else [])]
        for policy in dice.sample(policies, len(policies)):
            engine = verifying if verifying and policy == "verification" else live
            for number, (name, rates, count) in enumerate(phases(live.model)):
                engine.accept(rates)
                if policy == "adaptive":
                    live.put(mode="Adaptive", k=max(GRID))
                elif engine is live:
                    live.put(mode="Fixed", k=int(policy[1:]))
                async with running(engine, count, 10 * repeat + number) as streams:
                    cell = (await streams.window(PHASE_SECONDS)).as_json()
                    now = live.agent("GET", "/status")
                facts = {name: now[name] for name in ("overhead", "exceptions")} | {"k": now["k"]["now"]}
                extra = facts if policy == "adaptive" else {}
                write("phases", policy=policy, phase=name, streams=count, repeat=repeat, **cell, **extra)


async def alternate(live: Served, count: int, seconds: float, write: Write) -> None:
    """Text that turns from good to bad and back: adaptive, ALTERNATE_SECONDS of each, and in turns with it each phase's
    best static K. Which K come into question is what short phases of all of them show first.

    A static K has no memory, so it is measured for STATIC_SECONDS and in the phases where it matters only. ``adaptive``
    keeps what it learns; what it knows at the beginning of a phase is the text of before.
    """
    end, dice = time.monotonic() + seconds, random.Random(count)
    both = {"good": GOOD, "bad": BAD}
    found: dict[tuple[str, int], float] = {}
    for k in dice.sample(GRID, len(GRID)):
        for kind, rate in (await turn(live, f"k{k}", count, both, SCOUT_SECONDS, -1, write)).items():
            found[kind, k] = rate
    best = {kind: max(found[kind, k] for k in GRID) for kind in both}
    turns = [("adaptive", both, ALTERNATE_SECONDS)]
    for (kind, k), rate in found.items():
        if rate > CONTENDER * best[kind]:
            turns.append((f"k{k}", {kind: both[kind]}, STATIC_SECONDS))
    for number in itertools.count():
        policy, kinds, lasts = turns[number % len(turns)]
        if time.monotonic() + 1.25 * len(kinds) * lasts > end and number >= len(turns):
            break
        await turn(live, policy, count, kinds, lasts, number // len(turns), write)


async def turn(
    live: Served,
    policy: str,
    count: int,
    kinds: dict[str, list[float]],
    seconds: float,
    repeat: int,
    write: Write,
) -> dict[str, float]:
    """One policy through the kinds of text, on streams that go on from one to the next; tokens per second of each.

    ``adaptive`` decides from the first phase's first step on, not while the streams begin; with a static K they run for
    a quarter of the time first.
    """
    live.put(mode="Fixed", k=max(GRID))
    rates = {}
    async with running(live, count, 100 * (repeat + 1) + count, OUTPUT) as streams:
        for kind, accepted in kinds.items():
            live.accept(accepted)
            if kind == next(iter(kinds)):
                if policy == "adaptive":
                    live.put(mode="Adaptive", k=max(GRID))
                else:
                    live.put(mode="Fixed", k=int(policy[1:]))
                    await asyncio.sleep(seconds / 4)
            before = live.decoded()
            window = await streams.window(seconds)
            after = live.decoded()
            steps = {k: [now - then for now, then in zip(after[k], before.get(k, (0, 0)), strict=True)] for k in after}
            rates[kind] = window.rate
            facts = {"policy": policy, "phase": kind, "streams": count, "repeat": repeat, "seconds": seconds}
            expected = {k: expected_tokens(accepted, k) for k in after}
            write("alternate", **facts, **window.as_json(), perSecond=window.per_second, perK=steps, expected=expected)
    return rates


def expected_tokens(conditional: list[float], k: int) -> float:
    """Tokens of one request in a step of K, on average: 1 + a1 + a1 a2 + …"""
    return 1.0 + sum(math.prod(conditional[:j]) for j in range(1, k + 1))


async def costs(live: Served, plain: Served, seconds: float, write: Write) -> None:
    """Held and fixed in turns, with every draft accepted, and `adaptive` at the published rates, until the time is
    over; with the agent's account of all steps, by cell.
    """
    end, cells = time.monotonic() + seconds, []
    plain.accept(CERTAIN)
    repeat = 0
    while time.monotonic() < end:
        for count in COST_STREAMS:
            both = [("live", live), ("plain", plain)]
            for who, engine in [*(both if repeat % 2 else both[::-1]), *([] if repeat % 2 else [("adaptive", live)])]:
                if who == "adaptive":
                    live.accept(conditional(PUBLISHED[live.model]))
                    live.put(mode="Adaptive", k=max(GRID))
                elif who == "live":
                    live.accept(CERTAIN)
                    live.put(mode="Fixed", k=4)
                async with running(engine, count, 1000 * repeat + count) as streams:
                    await asyncio.sleep(SETTLE)
                    begun = time.monotonic_ns()
                    cell = (await streams.window(COST_WINDOW)).as_json()
                    if who != "plain":
                        cells.append((who, count, begun, time.monotonic_ns()))
                kind = "adaptive" if who == "adaptive" else "compare"
                write(kind, who=who, streams=count, repeat=repeat, order="interleaved", k=4, **cell)
        repeat += 1
        write_costs(live.costs, cells, write)


def write_costs(file: Path, cells: list[tuple[str, int, int, int]], write: Write) -> None:
    """Quantiles of the steps that ended within the cells of each kind, microseconds."""
    found = array("q")
    written = file.read_bytes()
    found.frombytes(written[: len(written) // 24 * 24])
    steps = [tuple(found[i : i + 3]) for i in range(0, len(found), 3)]
    for who, count in dict.fromkeys((who, count) for who, count, *_ in cells):
        own = [(begun, ended) for name, n, begun, ended in cells if (name, n) == (who, count)]
        mine = [step for step in steps if any(begun <= step[0] < ended for begun, ended in own)]
        figures = {
            "held": sorted(held for _, held, _ in mine),
            "all": sorted(held + beside for _, held, beside in mine),
        }
        if mine:
            shares = {"P50": 0.5, "P99": 0.99}
            cell = {
                f"{n}{p}Us": values[int(s * len(values))] / 1000
                for n, values in figures.items()
                for p, s in shares.items()
            }
            write("costs", who=who, streams=count, steps=len(mine), cells=len(own), **cell)


def room(gpu: int, model: str) -> bool:
    """Do two engines of this model fit on this GPU?"""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", str(gpu)]
    total = float(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout) / 1024
    return total > 2 * (WEIGHTS_GIB[model] + 12)


@contextmanager
def up(engines: list[Served], write: Write) -> Iterator[None]:
    """Waits for them, warms them up and stops them at the end."""
    begun = time.monotonic()
    try:
        await_all(engines)
        for engine in engines:
            asyncio.run(_warm(engine))
        write("start", engines=[engine.name for engine in engines], seconds=round(time.monotonic() - begun, 1))
        yield
    finally:
        for engine in engines:
            engine.stop()


async def _warm(engine: Served) -> None:
    for count in CONCURRENCY:
        async with running(engine, count, 1) as streams:
            await streams.window(0.5)


def one_by_one(model: str, gpu: int, home: Path, write: Write, plains: list[int]) -> None:
    """Live and plain engines in turn, each held at the K to compare."""
    for number, k in enumerate(plains):
        plain = serve(model, f"plain{k}", gpu, number, home, 0.90)
        with up([plain], write):
            asyncio.run(compare(None, plain, k, write, "one after another"))
    live = serve(model, "live", gpu, 5, home, 0.90)
    with up([live], write):
        for k in plains:
            asyncio.run(compare(live, None, k, write, "one after another"))
        write("status", **live.agent("GET", "/status"))


def side_by_side(model: str, other: str, gpu: int, home: Path, write: Write, *works: str) -> None:
    """The live engine and another one on one GPU, their cells interleaved."""
    live, plain = serve(model, "live", gpu, 0, home, 0.46), serve(model, other, gpu, 1, home, 0.46)
    with up([live, plain], write):
        for work in works:
            if work == "compare":
                asyncio.run(compare(live, plain, int(other.removeprefix("plain")), write, "interleaved"))
            elif work == "costs":
                asyncio.run(costs(live, plain, COST_SECONDS, write))
            elif work == "sweep":
                asyncio.run(sweep(live, plain, write))
            else:
                asyncio.run(adapt(live, write, plain if other == "verify" else None))
            write("status", **live.agent("GET", "/status"))


def alone(
    model: str, gpu: int, home: Path, write: Write, *works: Callable[[Served], Coroutine[Any, Any, None]]
) -> None:
    """The live engine only."""
    live = serve(model, "live", gpu, 0, home, 0.90)
    with up([live], write):
        for work in works:
            asyncio.run(work(live))
        write("status", **live.agent("GET", "/status"))


def main() -> int:
    """0 when the station's work is done."""
    name, gpu, home = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    model = name.split("-")[0]
    results = home / "results" / f"{name}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()

    def write(kind: str, **row: Any) -> None:
        line = {"station": name, "at": round(time.monotonic() - begun, 1), "kind": kind, **row}
        with results.open("a") as out:
            out.write(json.dumps(line) + "\n")

    try:
        if name.endswith("-b") and (model == "31b" or not room(gpu, model)):
            one_by_one(model, gpu, home, write, [0, 4])
        elif name.endswith("-d"):
            side_by_side(model, "plain4", gpu, home, write, "costs")
        elif name.endswith("-e"):
            side_by_side(model, "plain4", gpu, home, write, "costs", "phases")
        elif turning := re.fullmatch(r"\w+-h(\d+)", name):
            count = int(turning[1])
            alone(model, gpu, home, write, lambda live: alternate(live, count, COST_SECONDS, write))
        elif name.endswith("-f"):
            side_by_side(model, "verify", gpu, home, write, "phases")
        elif name.endswith("-c"):
            alone(model, gpu, home, write, lambda live: adapt(live, write))
        elif not room(gpu, model) or model == "31b":
            works = (lambda live: sweep(live, None, write), lambda live: adapt(live, write))
            alone(model, gpu, home, write, *works)
        elif name.endswith("-a"):
            side_by_side(model, "plain0", gpu, home, write, "compare", "sweep")
        else:
            side_by_side(model, "plain4", gpu, home, write, "compare", "phases")
    except Exception as error:  # noqa: BLE001  the row says what
        write("error", error=f"{type(error).__name__}: {error}"[:3000])
        return 1
    write("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
