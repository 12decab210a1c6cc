"""Three real engines, started at the same time and once a session: without speculation, live K sync and async."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.engine import ensure_engine
from tests.agent.live_engine import Completion, LiveEngine, live_engine, plain_engine, prompts, streams
from tinypair import serving

TEXTS = 24
TOKENS = 160


@dataclass(frozen=True)
class Engines:
    plain: serving.Engine
    sync: LiveEngine
    asynchronous: LiveEngine


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    environment = ensure_engine()
    folders: list[Path] = [tmp_path_factory.mktemp(name) for name in ("plain", "sync", "async")]
    managers = (
        plain_engine(environment, folders[0]),
        live_engine(environment, folders[1], asynchronous=False),
        live_engine(environment, folders[2], asynchronous=True),
    )
    with ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(3) as pool:
        starting = [pool.submit(manager.__enter__) for manager in managers]
        for manager, future in zip(managers, starting, strict=True):
            future.result()
            stack.push(manager.__exit__)
        yield Engines(*(future.result() for future in starting))  # type: ignore[arg-type]


@pytest.fixture(params=["sync", "async"])
def live(engines: Engines, request: pytest.FixtureRequest) -> Iterator[LiveEngine]:
    engine = engines.sync if request.param == "sync" else engines.asynchronous
    engine.fault.unlink(missing_ok=True)
    engine.put(mode="Fixed", k=4)
    yield engine
    engine.fault.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def greedy(engines: Engines) -> list[Completion]:
    """What the engine without speculation answers to ``prompts(TEXTS)``."""
    found = streams(engines.plain, prompts(TEXTS), TOKENS)
    assert [len(completion.tokens) for completion in found] == [TOKENS] * TEXTS
    return found
