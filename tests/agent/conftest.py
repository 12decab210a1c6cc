"""Real engines with the agent, one a session of each kind that a selected test asks for.

The gate runs one engine, which schedules asynchronously as production does; the synchronous one serves the cluster's
stories (e2e/test_live.py). Campaigns run both, and an engine without speculation beside them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.engine import ensure_engine
from tests.agent.live_engine import Completion, LiveEngine, live_engine, plain_engine, prompts, streams

TEXTS = 16
TOKENS = 160


@pytest.fixture(scope="session")
def asynchronous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEngine]:
    with live_engine(ensure_engine(), tmp_path_factory.mktemp("async"), asynchronous=True) as engine:
        yield engine


@pytest.fixture(scope="session")
def synchronous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEngine]:
    with live_engine(ensure_engine(), tmp_path_factory.mktemp("sync"), asynchronous=False) as engine:
        yield engine


@pytest.fixture(params=["asynchronous", pytest.param("synchronous", marks=pytest.mark.campaign)])
def live(request: pytest.FixtureRequest) -> Iterator[LiveEngine]:
    engine: LiveEngine = request.getfixturevalue(request.param)
    engine.fault.unlink(missing_ok=True)
    engine.put(mode="Fixed", k=4)
    yield engine
    engine.fault.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def greedy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Completion]:
    """What is answered to ``prompts(TEXTS)`` without speculation: in a campaign by an engine that was started
    without, in the gate by the live engine at K = 0.
    """
    if any(item.get_closest_marker("campaign") for item in request.session.items):
        with plain_engine(ensure_engine(), tmp_path_factory.mktemp("plain")) as engine:
            found = streams(engine, prompts(TEXTS), TOKENS)
    else:
        live: LiveEngine = request.getfixturevalue("asynchronous")
        live.put(mode="Fixed", k=0)
        found = streams(live.engine, prompts(TEXTS), TOKENS)
        live.put(mode="Fixed", k=4)
    assert [len(completion.tokens) for completion in found] == [TOKENS] * TEXTS
    return found
