"""A stop that kubelet asks for because the engine hangs: it is told from a deletion, and the engine is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gemmaspec_engine.health import PulseWatch
from testbed.deadline import wait_for


class Livez:
    """A fake agent's port; ``status`` 0 answers nothing at all."""

    def __init__(self) -> None:
        self.status = 503
        self.asked = 0
        livez = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                livez.asked += 1
                if livez.status:
                    self.send_response(livez.status if self.path == "/livez" else 404)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silence."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])

    def more(self, count: int) -> None:
        seen = self.asked
        wait_for(lambda: self.asked >= seen + count or None, f"{count} questions", 30, every=0.02)


@contextmanager
def served() -> Iterator[Livez]:
    livez = Livez()
    thread = threading.Thread(target=livez.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield livez
    livez.server.shutdown()
    livez.server.server_close()
    thread.join(10)


@pytest.fixture
def livez() -> Iterator[Livez]:
    with served() as found:
        yield found


@pytest.fixture
def watch(livez: Livez) -> Iterator[PulseWatch]:
    found = PulseWatch(livez.port, every=0.02, deadline=1.0)
    yield found
    found.stop()


def test_an_engine_that_never_was_alive_boots(livez: Livez, watch: PulseWatch) -> None:
    livez.more(6)
    assert watch.lost() == ""


@pytest.mark.parametrize(("status", "words"), [(503, "no token was computed"), (0, "not answered its liveness probe")])
def test_missed_answers_are_a_hang_and_one_good_answer_ends_it(
    livez: Livez, watch: PulseWatch, status: int, words: str
) -> None:
    livez.status = 200
    livez.more(2)
    assert watch.lost() == ""
    livez.status = status
    wait_for(lambda: watch.lost() or None, "the hang is noticed", 30, every=0.02)
    assert words in watch.lost()
    livez.status = 200
    wait_for(lambda: not watch.lost() or None, "it lives again", 30, every=0.02)


def test_one_missed_answer_is_no_hang(livez: Livez) -> None:
    livez.status = 200
    watch = PulseWatch(livez.port, every=0.3, deadline=1.0)
    livez.more(1)
    livez.status = 503
    livez.more(1)
    livez.status = 200
    assert watch.lost() == ""
    watch.stop()


STOPPED_CHILD = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(20)"
RUN = """
import sys
from gemmaspec_engine import supervise
from gemmaspec_engine.signals import Signals
end, lines = supervise.run([sys.executable, "-c", sys.argv[1]], Signals(), hangs=lambda: sys.argv[2] == "hangs")
print(end)
"""


@pytest.mark.parametrize("state", ["hangs", "lives"])
def test_a_stop_kills_only_a_child_that_hangs(state: str) -> None:
    import subprocess

    command = [sys.executable, "-c", RUN, STOPPED_CHILD, state]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "up\n"
        launcher.send_signal(signal.SIGTERM)
        if state == "hangs":
            assert launcher.stdout.readline() == "End(code=0, signal=9)\n"
        else:
            begun = time.monotonic()
            with pytest.raises(subprocess.TimeoutExpired):
                launcher.wait(1.5)
            assert time.monotonic() - begun >= 1.5, "it drains for as long as it wants"
            launcher.kill()
