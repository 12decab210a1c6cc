"""``python -m gemmaspec.bench``: the benchmark's Job. It has no rights: the operator asks it which K it wants, moves K
for it, fetches the result, and removes it.

``GEMMASPEC_BENCH`` is JSON: `engine` and `agent` (addresses), `asked` (the spec's `benchmark`), `current`, `facts`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import yaml
from aiohttp import web

from gemmaspec.adapters.transport import Direct, Unreached
from gemmaspec.api.spec import Benchmark, BenchmarkMethod
from gemmaspec.bench import prompts, reading
from gemmaspec.bench.outcome import outcome, short
from gemmaspec.bench.runner import Failed, Progress, Runner, served
from gemmaspec.bench.steering import Wish
from gemmaspec.core.bench import sweep as sweeps
from gemmaspec.core.bench.result import EngineFacts, Result, text
from gemmaspec.core.bench.sweep import BadSweep, Sweep, Workload
from gemmaspec.core.plan import BENCHMARK_PORT

log = logging.getLogger("gemmaspec.bench")
# A ConfigMap takes 1 MiB; single runs are left out of a larger result.
MOST_BYTES: Final = 900_000


class Job:
    """One benchmark, and the port on which the operator follows it."""

    def __init__(self, told: Mapping[str, Any], own_prompts: str = "", key: str = "") -> None:
        self._told = told
        self._asked = Benchmark.model_validate(told["asked"])
        self._own_prompts = own_prompts
        self._engine, self._agent = Direct(str(told["engine"]), key), Direct(str(told["agent"]))
        self._wish = Wish(self._agent)
        self._failure = ""
        self._result: Result | None = None

    async def run(self) -> None:
        """Measure; then the result, or why there is none, waits to be fetched."""
        try:
            self._result = await self._measured()
            log.info("%s", short(self._result)["message"])
        except (Failed, BadSweep, Unreached) as failure:
            self._failure = str(failure)
            log.error("%s", failure)
        finally:
            await self._engine.close()
            await self._agent.close()
        self._wish.number += 1

    async def _measured(self) -> Result:
        model = await served(self._engine)
        facts = EngineFacts.model_validate(self._told["facts"])
        workloads, where = self._workloads()
        fitting, left_out = sweeps.fitting(workloads, model.context)
        ks = sweeps.fit(self._asked.ks or sweeps.GRID, reading.grid(await self._agent.get("/metrics")))
        sweep = Sweep(
            fitting,
            tuple(self._asked.concurrency or sweeps.CONCURRENCIES),
            ks,
            self._asked.runs or sweeps.RUNS,
            sweeps.TEMPERATURE if self._asked.temperature is None else self._asked.temperature,
        )
        began = time.time()
        runs = await Runner(self._engine, self._agent, self._wish, sweep, _log).run(model.name)
        return outcome(
            runs,
            sweep,
            title=f"{facts.target or model.name}: what each K earns",
            facts=facts.model_copy(update={"max_model_len": model.context}),
            current=int(self._told["current"]),
            began=began,
            prompts=prompts.described(fitting, where),
            notes=[f"{workload.name} left out: the engine takes {model.context} tokens" for workload in left_out],
        )

    def _workloads(self) -> tuple[tuple[Workload, ...], str]:
        tokens = self._asked.tokens or sweeps.TOKENS
        if self._asked.prompts is not None:
            where = f"ConfigMap {self._asked.prompts.name}, key {self._asked.prompts.key}"
            try:
                return prompts.parse(yaml.safe_load(self._own_prompts), tokens, where), where
            except yaml.YAMLError as error:
                raise BadSweep(f"{where} is no YAML: {' '.join(str(error).split())}") from error
        own = prompts.own(tokens) if self._asked.method is not BenchmarkMethod.LLAMA_BENCHY else ()
        both = self._asked.method in (BenchmarkMethod.LLAMA_BENCHY, BenchmarkMethod.BOTH)
        return (*own, *(prompts.depths() if both else ())), "the project's own"

    async def wish(self, _: web.Request) -> web.Response:
        """Which K it wants, and whether it has ended."""
        summary = None if self._result is None else short(self._result)
        said = {"number": self._wish.number, "k": self._wish.k, "seconds": self._wish.seconds}
        return web.json_response({**said, "failure": self._failure, "summary": summary})

    async def result(self, _: web.Request) -> web.Response:
        """The whole result, once it is there."""
        if self._result is None:
            return web.json_response({"error": "there is no result yet"}, status=404)
        return web.Response(text=stored(self._result), content_type="application/json")


def stored(result: Result) -> str:
    """The result as the ConfigMap holds it."""
    whole = text(result)
    if len(whole.encode()) <= MOST_BYTES:
        return whole
    note = f"{len(result.runs)} single runs are left out: a ConfigMap has no room for them"
    return text(result.model_copy(update={"runs": [], "notes": [*result.notes, note]}))


def _log(progress: Progress) -> None:
    left = "" if progress.left is None else f", {progress.left:.0f} s left"
    log.info("%d of %d measurements%s", progress.done, progress.total, left)


async def main() -> None:
    """Serve the port, measure, and wait to be removed: the Job's deadline ends it otherwise."""
    told = json.loads(os.environ["GEMMASPEC_BENCH"])
    job = Job(told, os.environ.get("GEMMASPEC_BENCH_PROMPTS", ""), os.environ.get("OPENAI_API_KEY", ""))
    app = web.Application()
    app.router.add_get("/wish", job.wish)
    app.router.add_get("/result", job.result)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, None, BENCHMARK_PORT).start()
    await job.run()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    asyncio.run(main())
