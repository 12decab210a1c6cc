"""``gemmaspec bench`` without a cluster: results read, drawn and compared, a sweep by address, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gemmaspec.bench import figure
from gemmaspec.cli.main import app
from tests.bench.fake_station import FakeStation

pytestmark = pytest.mark.slow

FILES = ("bench.json", "bench.png", "bench-dark.png", "bench.html")
MEASURED = Path(__file__).parents[2] / "bench" / "results" / "bench-tiny.json"
QUICK = ("--tokens", "12", "--runs", "3", "--concurrency", "1,2")


def bench(*arguments: str, code: int = 0, **more: Any) -> Result:
    found = CliRunner().invoke(app, ["bench", *arguments], **more)
    assert found.exit_code == code, found.output
    return found


@pytest.fixture
def station() -> Iterator[FakeStation]:
    """A fake engine."""
    fake = FakeStation()
    with fake.in_a_thread():
        yield fake


@pytest.fixture
def token(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text("secret\n")
    return str(file)


def test_a_sweep_by_address_is_told_written_and_read_again(station: FakeStation, token: str, tmp_path: Path) -> None:
    address = ("--url", f"{station.url}/v1", "--agent-url", station.agent_url, "--token-file", token)
    told = bench(*address, *QUICK, "--ks", "0,2", "--out", str(tmp_path / "out"), "--title", "Mine")
    assert "Mine" in told.stdout
    assert "py_code" in told.stdout
    assert station.held is None
    (taught,) = station.taught
    assert (taught["version"], taught["ks"], set(taught["policies"])) == (1, [0, 1, 2], {"adaptive"})
    assert "offered to the agent's policy as its prior" in told.stderr
    for name in FILES:
        assert (tmp_path / "out" / name).stat().st_size > 1000
    body = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert (body["version"], body["kind"], body["engine"]["actuator"]) == (1, "GemmaSpecBenchmark", "Live")
    assert len(body["runs"]) == 2 * 2 * 3 * 3
    again = json.loads(bench("--read", str(tmp_path / "out" / "bench.json"), "-o", "json").stdout)
    assert again == body
    page = (tmp_path / "out" / "bench.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", ""), "it is whole without a network"


def test_without_the_agent_the_k_that_runs_is_measured(station: FakeStation) -> None:
    told = bench("--url", station.url, *QUICK, "-o", "yaml")
    body = yaml.safe_load(told.stdout)
    assert {cell.get("k") for cell in body["cells"]} == {None}
    assert "K stays: without --agent-url nothing moves it" in body["notes"]
    assert "advice" not in body


def test_a_sweep_that_breaks_off_tells_what_it_has(station: FakeStation, token: str) -> None:
    station.fail_after = 30
    address = ("--url", station.url, "--agent-url", station.agent_url, "--token-file", token)
    told = bench(*address, *QUICK, "-o", "json", code=1)
    assert "the engine died" in told.stderr
    assert any("not whole" in note for note in json.loads(told.stdout)["notes"])


def test_published_results_are_compared() -> None:
    told = json.loads(bench("--compare", "fp8-26b-sweep", "fp8-31b", "-o", "json").stdout)
    (row,) = [
        entry
        for entry in told["figures"]
        if (entry["workload"], entry["k"], entry["figure"]) == ("py_code", 4, "speedup")
    ]
    assert (row["first"], row["firstBasis"], row["second"]) == (1.75, "published", 3.52)
    text = bench("--compare", "fp8-26b-sweep", "nvfp4-26b").stdout
    assert "d: derived from what it published" in text
    assert "fp8-31b" in bench("--published").stdout
    assert "nvfp4-26b" in yaml.safe_load(bench("--published", "-o", "yaml").stdout)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_terminal_loses_columns_and_never_k(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = bench("--read", str(MEASURED)).stdout.splitlines()
    headings = lines[1].split()
    assert {"workload", "clients", "K", "tok/s", "speedup"} <= set(headings)
    assert ("stream" in headings) is (width == 200)
    assert not any("…" in line for line in lines)
    assert all(len(line) <= width for line in lines)
    places = [tuple(line.split()[:2]) for line in lines[2:38]]
    assert places == sorted(places, key=lambda place: int(place[1]))


def test_derived_figures_are_marked_and_the_bonus_token_is_counted_once() -> None:
    rows = [line.split() for line in bench("--read", "fp8-26b-sweep").stdout.splitlines()]
    assert ["all", "1", "4", "–", "–", "2.98", "d"] in rows, "1.98 accepted drafts and the bonus token"
    assert ["py_code", "1", "4", "69.3", "d", "1.75", "–"] in rows
    rows = [line.split() for line in bench("--read", "nvfp4-26b").stdout.splitlines()]
    assert ["all", "1", "4", "42.6", "2.34", "3.68"] in rows, "published with the bonus token"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a resource, or an engine with --url"),
        (("x", "--url", "http://y"), "name a resource, or an engine with --url"),
        (("x", "--agent-url", "http://y"), "--agent-url and --token-file go with --url"),
        (("--url", "http://y", "--token-file", "/nowhere"), "/nowhere can't be read"),
        (("x", "--concurrency", "one"), "--concurrency is 'one'; it takes whole numbers by commas"),
        (("x", "--concurrency", "0"), "concurrency is 0; it takes 1 to 256"),
        (("x", "--ks", ""), "ks is empty"),
        (("x", "--runs", "99"), "runs is 99; it takes 1 to 20"),
        (("x", "--tokens", "1"), "tokens is 1; it takes 2 to"),
        (("x", "--temperature", "9"), "temperature is 9; it takes 0 to 2"),
        (("x", "--prompts", "/nowhere"), "prompts file /nowhere can't be read"),
        (("--read", "/nowhere"), "/nowhere is no file .* published results: fp8-26b-sweep"),
        (("--compare", "fp8-31b", "/nowhere"), "/nowhere is no file"),
        (("--read", "int4-31b", "--out", "/proc/nothing"), "--out /proc/nothing can't be written"),
    ],
)
def test_what_is_wrong_is_told_with_a_way_out(arguments: tuple[str, ...], words: str) -> None:
    import re

    assert re.search(words, bench(*arguments, code=1).stderr)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    told = bench("--read", "fp8-26b-sweep", "--out", str(tmp_path), code=1)
    assert "pip install '.[report]'" in told.stderr
    assert (tmp_path / "bench.json").is_file()


def test_no_word_of_the_picture_is_cut() -> None:
    """The headings of all that is bundled, and of what was measured here, within the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from gemmaspec.bench.published import load
    from gemmaspec.core.bench.result import parse

    measured = parse(MEASURED.read_bytes())
    long = measured.model_copy(update={"title": "NVFP4 against FP8 on one DGX Spark, " * 5})
    for result in (measured, long, *load().values()):
        canvas = FigureCanvasAgg(figure.draw(result, figure.LIGHT))
        canvas.draw()
        for text in (canvas.figure._suptitle, canvas.figure._supxlabel):  # type: ignore[attr-defined]
            assert text.get_window_extent().x1 <= canvas.figure.bbox.x1, text.get_text()


def test_every_published_sweep_can_be_drawn() -> None:
    from gemmaspec.bench.published import load

    for name, result in load().items():
        assert figure.draw(result, figure.DARK).subfigs, name
