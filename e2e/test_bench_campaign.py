"""A sweep on a real engine: all of its K at three concurrencies in minutes, without a restart, and K is back after it,
whether it ends or is killed. Minutes.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benched import BACK_SECONDS, OUT, Benched
from gemmaspec.core.bench.result import Result, parse
from stories import BOOT_SECONDS, NAMESPACE, Site
from testbed.deadline import wait_for
from tinypair.languages import prompt

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1800)]

NAME = "swept"
GRID = (0, 1, 2, 4)
CONCURRENCIES = (1, 4, 8)
PROMISED_SECONDS = 300.0
TOKENS, RUNS = 48, 3
# Longer than the tests that end it.
LONG = ("--ks", "0,4", "--concurrency", "1", "--tokens", "64", "--runs", "20")


class Swept(Benched):
    """A live engine of the tiny pair. prompts: of its own languages, in a file."""

    def __init__(self, site: Site, prompts: Path) -> None:
        super().__init__(site, NAME)
        self.prompts = prompts

    def sweep(self, *arguments: str) -> tuple[str, ...]:
        """Arguments of `bench`."""
        return ("--prompts", str(self.prompts), "--temperature", "0", *arguments)


@pytest.fixture(scope="module")
def swept(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """Prompts are of the pair's own languages: of others it knows nothing."""
    texts = {
        "code": prompt("code", 7),
        "prose": prompt("prose", 7),
        "mixed": prompt("code", 8, 80) + prompt("prose", 8),
    }
    file = tmp_path_factory.mktemp("prompts") / "prompts.yaml"
    file.write_text(yaml.safe_dump(texts))
    resource = site.apply(NAME, speculative={"control": {"actuator": "Live", "mode": "Adaptive", "kMax": 4}})
    try:
        resource.wait_settled(BOOT_SECONDS)
        yield Swept(site, file)
    finally:
        resource.delete()


def test_a_sweep_takes_minutes_and_no_restart(swept: Swept) -> None:
    sizes = ("--concurrency", ",".join(map(str, CONCURRENCIES)), "--tokens", str(TOKENS), "--runs", str(RUNS))
    title = "Tiny Gemma 4 pair on a CPU: what each K earns"
    begun = time.monotonic()
    done = swept.run("bench", *swept.sweep(*sizes, "--title", title, "--out", str(OUT)))
    took = time.monotonic() - begun
    print(f"{took:.0f} s")
    assert done.returncode == 0, done.stderr
    assert took < PROMISED_SECONDS
    assert swept.same_engine()
    found = parse((OUT / "bench.json").read_bytes())
    assert len(found.runs) == len(GRID) * len(CONCURRENCIES) * 3 * RUNS
    assert (found.engine.restarts, found.engine.actuator, found.engine.ks) == (0, "Live", list(GRID))
    _follows_what_is_known_of_the_pair(found)
    swept.stands_as_before()


def _follows_what_is_known_of_the_pair(found: Result) -> None:
    """Drafts pay on code and cost on the other kinds; eight clients of four sequences run as four."""
    cells = {(cell.workload, cell.concurrency, cell.k): cell for cell in found.cells}
    gains = {place: cell.speedup.mean for place, cell in cells.items() if cell.speedup is not None}
    poor = [gains[kind, clients, 4] for kind in ("prose", "mixed") for clients in CONCURRENCIES]
    # Three runs on a machine with other work: a single cell may lie anywhere, all of a kind together do not.
    assert statistics.geometric_mean(gains["code", clients, 4] for clients in CONCURRENCIES) > 1.3
    assert statistics.geometric_mean(poor) < 1.0
    code, prose = cells["code", 1, 4], cells["prose", 1, 4]
    assert code.acceptance[0] > 0.8
    assert prose.acceptance[0] < 0.3
    assert cells["code", 8, 0].batch is not None
    assert 2.0 < float(cells["code", 8, 0].batch or 0) <= 4.0
    assert found.advice is not None
    assert {choice.batch for choice in found.advice.schedule} <= {1, 3, 4}


def test_the_spec_asks_for_one_and_gets_one(swept: Swept) -> None:
    """A Job without rights measures, the status tells, the ConfigMap holds it all, and nothing runs twice."""
    text = swept.prompts.read_text()
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prompts"}, "data": {"prompts.yaml": text}}
    swept.site.kubectl.apply(json.dumps(body), "-n", NAMESPACE)
    prompts = {"name": "prompts", "key": "prompts.yaml"}
    asked = {"request": "first", "prompts": prompts, "concurrency": [1, 4], "runs": 2, "tokens": 48, "temperature": 0}
    patch = json.dumps({"spec": {"benchmark": asked}})
    swept.resource.kubectl("patch", "gsd", NAME, "--type=merge", "-p", patch)
    ended = ("Done", "Failed", "Refused")
    found = swept.resource.wait(
        lambda now: (now["status"].get("benchmark") or {}).get("phase") in ended, "its end", 600
    )
    told = found["status"]["benchmark"]
    print(json.dumps(told, indent=1))
    assert told["phase"] == "Done", told
    assert told["schedule"]
    stored = swept.resource.json("get", "configmap", told["job"])
    result = parse(stored["data"]["bench.json"])
    assert len(result.runs) == len(GRID) * 2 * 3 * 2
    wait_for(lambda: not swept.resource.json("get", "jobs")["items"], "the Job gone", 120)
    assert swept.same_engine()
    swept.stands_as_before()
    assert swept.agent()["state"]["restored"] == "port", "its figures were offered to the policies"
    time.sleep(10)  # what must not happen is looked for: the same request again
    assert not swept.resource.json("get", "jobs")["items"]
    assert swept.resource.status()["benchmark"] == told


def test_a_killed_sweep_leaves_k_for_a_minute_at_most(swept: Swept) -> None:
    process = subprocess.Popen(
        swept.command("bench", *swept.sweep("--ks", "0,4", "--concurrency", "1", "--tokens", "512", "--runs", "20")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: swept.agent()["k"]["untilSeconds"], "K held", 120)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    killed = time.monotonic()
    wait_for(lambda: swept.agent()["k"]["mode"] == "Adaptive", "the spec's own mode", BACK_SECONDS)
    print(f"K was back {time.monotonic() - killed:.0f} s after SIGKILL")
    assert swept.same_engine()


def test_an_interrupted_sweep_lets_k_go_and_tells_what_it_has(swept: Swept) -> None:
    process = subprocess.Popen(
        swept.command("bench", *swept.sweep(*LONG, "-o", "json")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    wait_for(lambda: swept.agent()["k"]["untilSeconds"], "K held", 120)
    time.sleep(15)  # some measurements, for there to be something to tell
    process.send_signal(signal.SIGINT)
    told, words = process.communicate(timeout=120)
    assert process.returncode == 130, words
    assert "interrupted; K was let go" in words
    assert json.loads(told)["runs"]
    swept.stands_as_before()


def test_a_person_who_holds_k_goes_first(swept: Swept) -> None:
    """`set-k` in the middle of a sweep ends it; while K is held none begins. What the person wrote stands."""
    process = subprocess.Popen(
        swept.command("bench", *swept.sweep(*LONG)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: swept.agent()["k"]["untilSeconds"], "K held", 120)
        assert swept.run("set-k", "2", "--for", "10m").returncode == 0
        held = swept.annotation
        _, words = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait(30)
    assert process.returncode == 1
    assert "was written by somebody else" in words
    refused = swept.run("bench", *swept.sweep(*LONG))
    assert refused.returncode == 1
    assert "K is held at 2 until" in refused.stderr
    assert swept.annotation == held
    told = swept.agent()["k"]
    assert (told["mode"], told["k"]) == ("Fixed", 2)
    assert told["untilSeconds"] > 300
    assert swept.run("set-k", "--clear").returncode == 0
    wait_for(lambda: swept.agent()["k"]["mode"] == "Adaptive", "the spec's own mode", BACK_SECONDS)
    assert swept.same_engine()
