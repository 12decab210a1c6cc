"""``gemmaspec bench`` where K moves by restart: its price, who is asked, the order of K, and that K is let go. The
cluster, its operator and the engine are fakes.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gemmaspec.adapters.cluster import ApiFailure, Cluster
from gemmaspec.bench import steering
from gemmaspec.cli.main import app
from gemmaspec.core import hold
from tests.bench.fake_restarts import FakeCluster, PlainStation

QUICK = ("--tokens", "12", "--runs", "1", "--concurrency", "1", "--ks", "0,1,2")


def bench(*arguments: str, code: int = 0, **more: Any) -> Result:
    found = CliRunner().invoke(app, ["bench", "gemma", *QUICK, *arguments], **more)
    assert found.exit_code == code, (found.output, found.exception)
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """One whose engine answers."""
    station = PlainStation(step=0.0005)
    with station.in_a_thread():
        found = FakeCluster(station)
        monkeypatch.setattr(Cluster, "connect_as_user", found.connected)
        monkeypatch.setattr(steering, "RESTART_LOOK_SECONDS", 0.01)
        yield found


def let_go(cluster: FakeCluster) -> bool:
    """Whether nothing is left on the resource, and nothing but its annotation was ever written."""
    assert {(*patch, *patch["metadata"], *patch["metadata"]["annotations"]) for patch in cluster.patches} <= {
        ("metadata", "annotations", "resourceVersion", hold.ANNOTATION)
    }
    return not cluster.annotations


def test_each_k_is_booted_once_in_order_and_let_go(cluster: FakeCluster) -> None:
    told = bench("--yes", "-o", "json")
    body = json.loads(told.stdout)
    assert [run["k"] for run in body["runs"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {(cell["k"], cell["tokensPerStep"]) for cell in body["cells"]} == {(0, 1.0), (1, 2.0), (2, 3.0)}
    assert cluster.boots == [0, 1, 2], "the last K is the spec's: nothing boots for it once more"
    assert body["engine"]["actuator"] == "Restart"
    assert len(cluster.patches) == 4
    assert let_go(cluster)


@pytest.mark.parametrize(
    ("measured", "price"),
    [(300, "boot 3 times (5 min each, as measured, 15 min in all)"), (None, "boot 3 times (no start was measured)")],
)
def test_the_price_is_told_and_without_an_answer_nothing_is_done(
    cluster: FakeCluster, measured: int | None, price: str
) -> None:
    cluster.boot_seconds = measured
    told = bench(code=1)
    assert price in told.stderr
    assert "gemmaspec.io/hold-k" in told.stderr
    assert "Error: --yes is missing, and nobody can be asked: nothing was changed" in told.stderr
    assert not cluster.patches
    assert not cluster.boots


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_a_person_is_asked(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    from gemmaspec.cli.bench import session

    monkeypatch.setattr(session, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    told = bench(code=code, input=answer)
    assert "Go on? [y/N]" in told.stderr
    assert bool(cluster.boots) is (code == 0)
    assert ("nothing was changed" in told.stderr) is (code == 1)
    assert let_go(cluster)


def test_an_engine_that_dies_ends_it_with_what_was_measured(cluster: FakeCluster) -> None:
    cluster.station.fail_after = 8
    told = bench("--yes", "-o", "json", code=1)
    assert "the engine died" in told.stderr
    assert json.loads(told.stdout)["runs"]
    assert let_go(cluster)
    assert cluster.resource()["status"]["k"]["effective"] == cluster.spec_k


@pytest.mark.parametrize("at", [0, 1])
def test_engines_that_never_serve_end_it_within_a_deadline(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    from gemmaspec.cli.bench import target

    monkeypatch.setattr(target, "SETTLE_SECONDS", -3600.0 + 0.3)
    cluster.never = {at}
    told = bench("--yes", code=1)
    assert f"no engine with K={at} serves 0 s after the operator was asked: 0 of 1 engines" in told.stderr
    assert f"{3 * at} of 9 measurements were made" in told.stderr
    assert let_go(cluster), "K on its way, with the first K too"


@pytest.fixture
def heeded() -> Iterator[None]:
    """SIGINT interrupts, as at a terminal: tests that run in the background are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_an_interrupt_lets_go_while_the_first_engine_boots(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemmaspec.cli.bench import target

    monkeypatch.setattr(target, "SETTLE_SECONDS", -3600.0 + 60)
    cluster.never = {0}

    def interrupt() -> None:
        while not cluster.boots:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell that starts the tests in the background has them ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        told = bench("--yes", code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted; K was let go" in told.stderr
    assert cluster.boots == [0]
    assert let_go(cluster)


def test_engines_that_can_not_start_end_it_at_once(cluster: FakeCluster) -> None:
    cluster.stalled = "the engine needs 130 GiB"
    told = bench("--yes", code=1)
    assert "engines with K=0 do not start: the engine needs 130 GiB" in told.stderr
    assert let_go(cluster)


def test_without_the_right_to_patch_nothing_is_held(cluster: FakeCluster) -> None:
    cluster.failing = lambda kind, _: ApiFailure(403, "forbidden") if kind == "patch" else None
    told = bench("--yes", code=1)
    assert "not patched: forbidden; ask for the right to patch gemmaspecdeploys; 0 of 9 measurements" in told.stderr
    assert len(cluster.patches) == 1, "and nothing is let go"


def test_what_a_person_holds_is_left_alone(cluster: FakeCluster) -> None:
    cluster.annotations[hold.ANNOTATION] = hold.Hold(1, time.time() + 3600).text()
    told = bench("--yes", code=1)
    assert "K is held at 1 until" in told.stderr
    assert "`gemmaspec set-k gemma --clear`" in told.stderr
    assert not cluster.patches


def test_what_a_person_holds_meanwhile_ends_it_and_stands(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "RENEW_SECONDS", 0.01)
    written = hold.Hold(1, round(time.time()) + 3600.0)

    def person(kind: str, number: int) -> None:
        if (kind, number) == ("patch", 2):
            cluster.annotations[hold.ANNOTATION] = written.text()
            cluster.version += 1

    cluster.failing = person
    told = bench("--yes", code=1)
    assert "was written by somebody else (`gemmaspec set-k`, or another benchmark)" in told.stderr
    assert hold.read(cluster.annotations, time.time()) == written


def test_the_specs_own_benchmark_is_left_alone(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cluster.resource

    def running() -> dict[str, Any]:
        body = whole()
        body["status"]["benchmark"] = {"request": "weekly", "phase": "Running"}
        return body

    monkeypatch.setattr(cluster, "resource", running)
    assert "the benchmark weekly of the spec runs: wait for its end" in bench("--yes", code=1).stderr
    assert not cluster.patches
