"""One sweep from the command line, from the engine's answer to the result."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import typer
from rich.console import Console

from gemmaspec.adapters.cluster import Cluster
from gemmaspec.adapters.transport import Unreached
from gemmaspec.bench.outcome import outcome
from gemmaspec.bench.runner import Runner, served
from gemmaspec.cli.bench.screen import Bar, duration
from gemmaspec.cli.bench.target import Target, by_address, of_resource
from gemmaspec.core import hold
from gemmaspec.core.bench import lesson
from gemmaspec.core.bench import sweep as sweeps
from gemmaspec.core.bench.result import EngineFacts, Result, Run
from gemmaspec.core.bench.sweep import BadSweep, Sweep


@dataclass(frozen=True)
class Place:
    """Where the engine is: a resource's name, or addresses and the agent's token."""

    name: str = ""
    url: str = ""
    agent_url: str = ""
    token: str = ""


class Session:
    """One sweep, from the engine's answer to the result. What was measured outlives a failure."""

    def __init__(self, place: Place, asked: tuple[Sweep, str], title: str, yes: bool) -> None:
        self._place, (self._sweep, self._prompts), self._title, self._yes = place, asked, title, yes
        self._target: Target | None = None
        self._context: int | None = None
        self._restarts: int | None = None
        self._notes: list[str] = []
        self._began = time.time()
        self.runs: list[Run] = []

    async def at_address(self) -> None:
        """Measure what an address leads to. Raises Failed."""
        key = os.environ.get("OPENAI_API_KEY", "")
        async with by_address(self._place.url, self._place.agent_url, key, self._place.token) as target:
            await self._run(target)

    async def at_resource(self, cluster: Cluster, namespace: str) -> None:
        """Measure the engine of a resource. Raises Failed or ApiFailure."""
        await self._run(await of_resource(cluster, namespace, self._place.name))

    async def _run(self, target: Target) -> None:
        self._target = target
        model = await served(target.engine)
        self._context = model.context
        self._sweep = self._fitted(target, model.context)
        if target.by_restart:
            self._confirm(target)
        self._began = time.time()
        before = await target.restarts() if target.restarts else None
        with Bar(Console(stderr=True, highlight=False)) as bar:
            runner = Runner(target.engine, target.agent, target.steering, self._sweep, bar.told)
            self.runs = runner.runs
            await runner.run(model.name)
        if target.restarts and before:
            after = await target.restarts()
            self._restarts = after[1] - before[1] if after[0] == before[0] else 1
        if target.offer is not None:
            await self._offer(target.offer, target.ks)

    async def _offer(self, offer: Callable[[str], Awaitable[None]], ks: Sequence[int]) -> None:
        """Step times and acceptance as the policy's prior; without them it learns by itself."""
        state = lesson.state(self.runs, ks)
        if not state:
            return
        try:
            await offer(state)
        except Unreached as failure:
            self._say(f"the agent takes no prior: {failure}")
        else:
            self._say("step times and acceptance were offered to the agent's policy as its prior")

    def _fitted(self, target: Target, context: int | None) -> Sweep:
        """The sweep that this engine can make; what is left out is told."""
        workloads, left_out = sweeps.fitting(self._sweep.workloads, context)
        if left_out:
            names = ", ".join(workload.name for workload in left_out)
            self._say(f"{names} left out: the engine takes {context} tokens, prompt and answer together")
        wanted: tuple[int | None, ...] = (None,)
        if target.steering is not None:
            found = sweeps.fit([k for k in self._sweep.ks if k is not None], target.ks)
            missing = sorted({k for k in self._sweep.ks if k is not None} - set(found))
            if missing:
                self._say(f"K={', '.join(map(str, missing))} left out: the engine was started for {list(target.ks)}")
            wanted = found
        else:
            self._say(target.why_not)
        return replace(self._sweep, workloads=workloads, ks=wanted, seldom=target.by_restart)

    def _say(self, note: str) -> None:
        self._notes.append(note)
        typer.echo(note, err=True)

    def _confirm(self, target: Target) -> None:
        """Restarts are asked about before they are made."""
        moves, boot = self._sweep.moves(target.current), target.boot_seconds
        each = (
            f"{duration(boot)} each, as measured, {duration(moves * boot)} in all" if boot else "no start was measured"
        )
        typer.echo(
            f"K of this engine moves by restart: the sweep holds each K by the annotation {hold.ANNOTATION}, and "
            f"engines boot {moves} times ({each}), the last time with the spec's K. A box serves nothing while it "
            "boots. The spec stays as it is.",
            err=True,
        )
        if self._yes:
            return
        way = "nothing was changed; --yes goes on without asking, control.actuator: Live needs no restarts"
        if not sys.stdin.isatty():
            raise BadSweep(f"--yes is missing, and nobody can be asked: {way}")
        if not typer.confirm("Go on?", default=False, err=True):
            raise BadSweep(way)

    def result(self, problem: str | None) -> Result:
        """What was measured, whole or not."""
        target = self._target
        facts = target.facts if target else EngineFacts()
        notes = [*self._notes, *([f"not whole: {problem}"] if problem else [])]
        return outcome(
            self.runs,
            self._sweep,
            title=self._title or f"{facts.target or self._place.url}: what each K earns",
            facts=facts.model_copy(update={"max_model_len": self._context, "restarts": self._restarts}),
            current=target.current if target else None,
            began=self._began,
            prompts=self._prompts,
            notes=notes,
        )
