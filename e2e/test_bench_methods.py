"""Both methods of `gemmaspec bench` on real engines at reduced sizes, and a sweep that restarts its engine. Minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benched import Benched
from demo.resource import condition, pod_ready
from gemmaspec.core import names
from gemmaspec.core.bench.result import Result, parse
from stories import BOOT_SECONDS, Site
from testbed.deadline import wait_for
from tinypair.languages import prompt

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(1800)]

LONG, RESTARTED = "long", "restarted"
# llama-benchy's deepest prompt and its answer, and some tokens for the chat's own words.
ROOM = 8192 + 2048 + 128 + 64


@pytest.fixture(scope="module")
def long(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benched]:
    """An engine that takes long prompts."""
    speculative = {"control": {"actuator": "Live", "mode": "Adaptive", "kMax": 4}}
    resource = site.apply(LONG, model={"maxModelLen": ROOM}, speculative=speculative)
    try:
        resource.wait_settled(BOOT_SECONDS)
        yield _proved(Benched(site, LONG), tmp_path_factory.mktemp("prompts") / "prompts.yaml")
    finally:
        resource.delete()


def _proved(engine: Benched, file: Path) -> Benched:
    """Sees drafts accepted. Of English and Japanese the pair knows nothing: an engine that never accepted one would be
    taken for broken, as it should be.
    """
    file.write_text(yaml.safe_dump({"code": prompt("code", 7)}))
    sizes = ("--ks", "0,4", "--concurrency", "4", "--tokens", "96", "--runs", "1", "--temperature", "0")
    assert engine.run("bench", "--prompts", str(file), *sizes).returncode == 0
    engine.resource.wait(lambda body: body["status"].get("control", {}).get("proved"), "acceptance proved", 120)
    return engine


def _swept(engine: Benched, out: Path, *arguments: str) -> Result:
    begun = time.monotonic()
    done = engine.run("bench", *arguments, "--out", str(out))
    print(f"{time.monotonic() - begun:.0f} s")
    assert done.returncode == 0, done.stderr
    return parse((out / "bench.json").read_bytes())


def test_llama_benchys_depths(long: Benched, tmp_path: Path) -> None:
    found = _swept(long, tmp_path, "--method", "llama-benchy", "--ks", "0,4", "--concurrency", "1", "--runs", "1")
    cells = {(cell.workload, cell.k): cell for cell in found.cells}
    depths = {"pp2048+tg128": 2048, "pp2048+tg128@d4096": 6144, "pp2048+tg128@d8192": 10240}
    assert set(cells) == {(name, k) for name in depths for k in (0, 4)}
    for run in found.runs:
        assert run.tokens == 128
        assert run.prompt_tokens == pytest.approx(depths[run.workload], rel=0.02)
        assert run.prompt_tokens_per_second
    first, last = cells["pp2048+tg128", 0], cells["pp2048+tg128@d8192", 0]
    assert (last.ttft_seconds or 0.0) > 2.0 * (first.ttft_seconds or 0.0), "no cache answers for the depth"
    assert all(cells[name, 4].acceptance for name in depths), "drafts at every depth"
    assert long.same_engine()
    long.stands_as_before()


def test_the_sources_tokens_and_runs(long: Benched, tmp_path: Path) -> None:
    """600 tokens, three runs, the project's own prompts, at the sources' temperature: all by default."""
    found = _swept(long, tmp_path, "--ks", "0,4", "--concurrency", "1")
    assert (found.method.tokens, found.method.runs, found.method.temperature) == (600, 3, 0.7)
    assert len(found.runs) == 2 * 3 * 3
    assert {run.workload for run in found.runs} == {"ja_finance", "en_finance", "py_code"}
    assert {run.tokens for run in found.runs} == {600}
    assert all(cell.speedup and cell.theory and cell.step_milliseconds for cell in found.cells)
    assert all(bool(cell.acceptance) is bool(cell.k) for cell in found.cells)
    assert found.advice is not None
    assert long.same_engine()
    long.stands_as_before()


@pytest.fixture(scope="module")
def restarted(site: Site) -> Iterator[Benched]:
    """An engine whose K moves by restart only."""
    resource = site.apply(RESTARTED, speculative={"k": 4, "control": {"actuator": "Restart"}})
    try:
        resource.wait_settled(BOOT_SECONDS)
        resource.wait(lambda body: body["status"].get("control", {}).get("bootSeconds"), "what a boot takes", 60)
        yield Benched(site, RESTARTED)
    finally:
        resource.delete()


def test_a_sweep_by_restart_tells_its_price_and_boots_each_k_once(restarted: Benched, tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(yaml.safe_dump({"code": prompt("code", 7), "prose": prompt("prose", 7)}))
    sizes = ("--prompts", str(file), "--temperature", "0", "--ks", "0,4", "--concurrency", "1,4", "--tokens", "48")
    before = restarted.resource.read()
    asked = restarted.run("bench", *sizes)
    assert asked.returncode == 1
    assert "engines boot 2 times (" in asked.stderr
    assert "as measured" in asked.stderr
    assert "nothing was changed" in asked.stderr
    assert restarted.annotation is None
    assert restarted.same_engine()

    found = _swept(restarted, tmp_path, *sizes, "--yes")
    assert (found.engine.actuator, len(found.runs)) == ("Restart", 2 * 2 * 2 * 3)
    cells = {(cell.workload, cell.concurrency, cell.k): cell for cell in found.cells}
    assert not cells["code", 1, 0].acceptance
    assert cells["code", 1, 4].acceptance[0] > 0.8
    assert (cells["code", 1, 4].tokens_per_step or 0.0) > 2.0
    assert restarted.annotation is None
    after = restarted.resource.wait_settled(BOOT_SECONDS)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    wait_for(lambda: _runs_with(restarted) == ["4"], "one engine, with the spec's K", 120)
    assert condition(restarted.resource.read(), "SpeculationHealthy")["reason"] != "DraftRejected"
    assert _pods_made(restarted) == 3, "the first one, K = 0, and the spec's K again"


def _pods_made(engine: Benched) -> int:
    """Pods that the resource's ReplicaSets ever made."""
    made = engine.resource.json("get", "events", "--field-selector=reason=SuccessfulCreate")["items"]
    own = [entry["involvedObject"] for entry in made]
    return sum(entry["kind"] == "ReplicaSet" and entry["name"].startswith(f"{RESTARTED}-") for entry in own)


def _runs_with(engine: Benched) -> list[str]:
    ready = [pod for pod in engine.resource.pods() if pod_ready(pod)]
    return [pod["metadata"]["annotations"][names.K_ANNOTATION] for pod in ready]
