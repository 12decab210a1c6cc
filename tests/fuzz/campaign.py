"""Many mutations in sequence, on several resources at once, under one operator."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.mutations import Mutation, fields, right_of, wrong_of
from tests.fuzz.oracle import Subject, Verdict
from tests.integration.scene import Scene, rollout

TELL_EVERY = 25
ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "crds" / "gemmaspec.io_gemmaspecdeploys.yaml"
FULL = ROOT / "tests" / "integration" / "full_spec.yaml"


def schema() -> dict[str, Any]:
    """The schema of ``spec``."""
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def bases(port: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A spec in which nearly every field is set, and one in which hardly any is; fake engines can serve both."""
    full = yaml.safe_load(FULL.read_text())
    full |= {"replicas": 1, "service": full["service"] | {"port": port}}
    full["rollout"] |= rollout()
    full["cache"]["compile"] = {"pvc": {"claimName": "compiled"}}
    full["nodes"] |= {"runtimeClassName": ""}
    little = {
        "model": {"target": "/models/target"},
        "engine": {"image": "example.org/vllm:1", "allowTag": True},
        "speculative": {"method": "mtp", "drafter": {"model": "/models/drafter"}, "k": 4},
        "nodes": {"accelerator": "CPU"},
        "service": {"port": port},
        "rollout": rollout(),
    }
    return full, little


def drawn(base: Mapping[str, Any], count: int, number: int) -> list[Mutation]:
    """``count`` mutations in random order: of every field as many as of any other, two right ones for a wrong one.

    number: seeds what is drawn. Fields that can take few values leave their share to the others.
    """
    everywhere = list(fields(schema(), base))
    dice, found, each = random.Random(number), dict[str, Mutation](), 3
    while len(found) < count and each < 3 * count:
        for path, below, value in everywhere:
            right = right_of(path, below, value)
            drawn = _examples(wrong_of(path, below), each // 3, number)
            drawn += _examples(right, each - each // 3, number) if right is not None else []
            found |= {one.identity: one for one in drawn}
        each *= 2
    ordered = [found[key] for key in sorted(found)]
    return dice.sample(ordered, min(count, len(ordered)))


def _examples(strategy: Any, count: int, number: int) -> list[Mutation]:
    """So many examples of a strategy; hypothesis gives no value twice."""
    found: list[Mutation] = []
    if not count:
        return found

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(mutation: Mutation) -> None:
        found.append(mutation)

    collect()
    return found


def play(
    scene: Scene, port: int, count: int, at_once: int, number: int, minutes: float = float("inf")
) -> Iterator[Verdict]:
    """Mutate ``at_once`` resources of the scene; half of them have a full spec. Yields verdicts as they come.

    minutes: after which no mutation begins any more.
    """
    end = time.monotonic() + 60 * minutes
    lots = [
        drawn(base, count - half, number)
        for half, base in zip((count // 2, count - count // 2), bases(port), strict=True)
    ]
    with ThreadPoolExecutor(at_once) as pool:
        waiting = []
        for i in range(at_once):
            base, lot = bases(port)[i % 2], lots[i % 2]
            share = lot[i // 2 :: (at_once + 1 - i % 2) // 2]
            waiting.append(pool.submit(_sequence, scene, f"mutated-{i}", base, share, end))
        for future in waiting:
            yield from future.result()


def _sequence(scene: Scene, name: str, base: Mapping[str, Any], mutations: list[Mutation], end: float) -> list[Verdict]:
    subject = Subject(scene, name, base)
    verdicts = []
    for number, mutation in enumerate(mutations, start=1):
        if time.monotonic() > end:
            break
        verdict = subject.mutate(mutation)
        verdicts.append(verdict)
        if number % TELL_EVERY == 0:
            print(f"{name}: {number} of {len(mutations)}", flush=True)
        if verdict.wrong:
            print(f"WRONG {name}: {mutation} ({verdict.how}): {verdict.wrong[:1500]}", flush=True)
    return verdicts
