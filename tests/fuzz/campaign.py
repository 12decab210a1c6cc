"""Many mutations in sequence, on several resources at once, under one operator."""

from __future__ import annotations

import queue
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.mirror import Mirror
from tests.fuzz.mutations import Mutation, fields, right_of, wrong_of
from tests.fuzz.oracle import Subject, Verdict
from tests.integration.scene import CHILDREN, Scene, rollout

ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "crds" / "gemmaspec.io_gemmaspecdeploys.yaml"
FULL = ROOT / "tests" / "integration" / "full_spec.yaml"


def schema() -> dict[str, Any]:
    """The schema of ``spec``."""
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def bases(port: int) -> dict[str, dict[str, Any]]:
    """By name: a spec in which nearly every field is set, and one in which hardly any is; a fake engine serves both."""
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
    return {"full": full, "little": little}


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


@dataclass(frozen=True)
class Part:
    """What is played now. at_once: resources under mutation. minutes: after which no mutation begins any more.
    played: marks of the mutations that earlier parts have played (see ``mark``). most_wrong: after so many that
    are wrong, the part ends: something is broken, and is mended first.
    """

    count: int
    at_once: int
    number: int
    minutes: float = float("inf")
    played: frozenset[str] = frozenset()
    most_wrong: int = 12


def mark(base: str, identity: str) -> str:
    """What tells a mutation of a base from all others."""
    return f"{base}: {identity}"


def play(scene: Scene, port: int, part: Part) -> Iterator[tuple[str, Verdict]]:
    """Mutate resources of the scene, half of them with a full spec. Yields the base's name and verdicts as they come.

    The kubelet is told of pods by the same watches that tell of verdicts.
    """
    end = time.monotonic() + 60 * part.minutes
    paths = {plural: scene.path(plural) for plural in ("gemmaspecdeploys", "pods", *CHILDREN)}
    mirror = Mirror(scene.api, paths, "gemmaspecdeploys")
    scene.kubelet.listed = lambda: mirror.all("pods")
    found: queue.SimpleQueue[tuple[str, Verdict] | None] = queue.SimpleQueue()
    lots = [Lot(name, base, part, end) for name, base in bases(port).items()]

    def player(i: int) -> None:
        try:
            for entry in lots[i % len(lots)].play(scene, mirror, f"mutated-{i}"):
                found.put(entry)
        finally:
            found.put(None)

    with ThreadPoolExecutor(part.at_once) as pool:
        players = [pool.submit(player, i) for i in range(part.at_once)]
        yield from _told(found, len(players), lots, part.most_wrong)
        mirror.close()
        for future in players:
            future.result()


def _told(
    found: queue.SimpleQueue[tuple[str, Verdict] | None], players: int, lots: list[Lot], most_wrong: int
) -> Iterator[tuple[str, Verdict]]:
    """What the players tell until the last of them has ended."""
    wrong = 0
    while players:
        entry = found.get()
        if entry is None:
            players -= 1
            continue
        wrong += bool(entry[1].wrong)
        if wrong >= most_wrong:
            for lot in lots:
                lot.end = 0.0
        yield entry


class Lot:
    """The mutations of one base that are left to play; several players take from it."""

    def __init__(self, name: str, base: Mapping[str, Any], part: Part, end: float) -> None:
        self.end = end
        self._name = name
        self._base = base
        left = [one for one in drawn(base, part.count // 2, part.number) if mark(name, one.identity) not in part.played]
        self._left = deque(left)

    def play(self, scene: Scene, mirror: Mirror, name: str) -> Iterator[tuple[str, Verdict]]:
        """Mutate the resource ``name`` in as many ways as there is time for."""
        subject = None
        while time.monotonic() < self.end:
            try:
                mutation = self._left.popleft()
            except IndexError:
                return
            subject = subject or Subject(scene, mirror, name, self._base)
            verdict = subject.mutate(mutation)
            yield self._name, verdict
            if "not reverted" in verdict.wrong:  # the next one begins from a base that stands
                scene.send("DELETE", scene.path("gemmaspecdeploys", name))
                name, subject = f"{name}-again", None
