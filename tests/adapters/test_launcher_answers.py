"""What the operator hears where the launcher answers in its engine's place: its real stand-in, over HTTP."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from gemmaspec.adapters.engine import Engines, ScrapeError
from gemmaspec_engine.standin import StandIn


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    found = Engines()
    yield found
    await found.close()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


async def test_a_launcher_tells_what_it_waits_for(engines: Engines, port: int) -> None:
    with StandIn("127.0.0.1", port, {"reason": "WaitingForMemory", "message": "101.1 GiB needed"}) as standin:
        assert await engines.waits("127.0.0.1", port) == "WaitingForMemory"
        standin.say({"words": "of nobody's"})
        with pytest.raises(ScrapeError, match="KeyError"):
            await engines.waits("127.0.0.1", port)


async def test_nobody_tells_anything_while_an_engine_boots(engines: Engines, port: int) -> None:
    with pytest.raises(ScrapeError):
        await engines.waits("127.0.0.1", port)
