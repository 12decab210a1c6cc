"""/livez of a real engine: a stall is seen, a long prefill and idleness are life."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed.deadline import wait_for
from tests.agent.live_engine import STALL_SECONDS, LiveEngine, complete, prompts

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@contextmanager
def _requests_under_way(live: LiveEngine) -> Iterator[None]:
    """Long streams, one after the other until the block ends; it begins when tokens come.

    A single stream may be over before a slow machine does what the block is for.
    """
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            complete(live.engine, prompts(1)[0], 700, seconds=300)

    tokens = live.status()["steps"]["tokens"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            wait_for(lambda: live.status()["steps"]["tokens"] > tokens or None, "tokens come", 60)
            yield
        finally:
            over.set()
    asking.result()  # raises where a stream broke off


def test_idle_is_life(live: LiveEngine) -> None:
    wait_for(lambda: live.ask("GET", "/livez")[1]["unfinished"] == 0 or None, "the engine is idle", 60)
    threading.Event().wait(1.5 * STALL_SECONDS)  # nothing to poll for: the point is that time passes
    code, figures = live.ask("GET", "/livez")
    assert code == 200
    assert figures["stalledSeconds"] == 0


def test_a_scheduler_that_stands_still_is_not_alive_and_recovers(live: LiveEngine) -> None:
    complete(live.engine, prompts(1)[0], 4)  # the first token ever has come
    with _requests_under_way(live):
        assert live.ask("GET", "/livez")[0] == 200
        live.fault.write_text("stall")
        try:
            wait_for(lambda: live.ask("GET", "/livez")[0] == 503 or None, "livez says no", 60)
            code, figures = live.ask("GET", "/livez")
            assert code == 503
            assert figures["unfinished"] == 1
            assert figures["stalledSeconds"] > figures["limitSeconds"] >= STALL_SECONDS
        finally:
            live.fault.unlink()
        wait_for(lambda: live.ask("GET", "/livez")[0] == 200 or None, "livez says yes again", 60)


def test_a_stopped_process_does_not_answer(live: LiveEngine) -> None:
    process = live.status()["engine"]["process"]
    with _requests_under_way(live):
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises((TimeoutError, urllib.error.URLError)):
                live.ask("GET", "/livez", seconds=2)
        finally:
            os.kill(process, signal.SIGCONT)
    assert live.ask("GET", "/livez")[0] == 200


def test_one_maximal_prefill_is_life(live: LiveEngine) -> None:
    """The longest prompt there is, in chunks of 256, and asked about all the while."""
    answers: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(live.ask("GET", "/livez")[0])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    text = "".join(prompts(40, 800))
    done = complete(live.engine, text, 4, truncate_prompt_tokens=1000)
    stop.set()
    asking.join(30)
    assert len(done.tokens) == 4
    assert set(answers) == {200}
