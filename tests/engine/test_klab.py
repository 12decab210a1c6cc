"""The lab itself, and a bounded check that the adaptive policy keeps what it promises there."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from bench.klab.generate import VALIDATION, random_trace
from bench.klab.public import moved, public_traces, times
from bench.klab.report import END, START, best_static, jobs, markdown, play_trace, rewrite
from bench.klab.simulate import oracle, play
from bench.klab.trace import Segment, Trace, expand, survival
from gemmaspec_engine.policy import make

STEEP = tuple(20.0 * (1 + 0.45 * k) for k in range(5))


def test_survival_sums_the_products() -> None:
    assert survival([0.5, 0.5]) == [0.0, 0.5, 0.75]


def test_moved_curves_accept_what_was_asked_for() -> None:
    assert survival(moved((0.7, 0.7, 0.7, 0.7), 1.66))[-1] == pytest.approx(1.66, abs=1e-6)


def test_times_are_linear_between_published_ones() -> None:
    assert times({0: 10.0, 4: 18.0}, 5) == pytest.approx((10, 12, 14, 16, 18, 20))


def test_the_oracle_knows_the_best_k_of_each_phase() -> None:
    segments = tuple(Segment(200, (a,) * 4, 1, STEEP, concentration=None) for a in (0.95, 0.1))
    run = expand(Trace("two", 4, segments), 1)
    assert [k for k, _ in oracle(run)] == [4, 0]
    assert play(make("fixed", k_max=4, k=4), run).phase_scores[0] == pytest.approx(1.0)
    assert best_static(run) < 1.0


def test_a_run_is_the_same_for_everyone() -> None:
    trace = random_trace(7)
    one, two = expand(trace, 7), expand(trace, 7)
    assert (one.lengths, one.noise, one.requests) == (two.lengths, two.noise, two.requests)


def test_public_traces_name_their_grid_and_note() -> None:
    for trace in public_traces():
        assert trace.note
        assert all(len(s.accept) == trace.k_max and len(s.step_ms) == trace.k_max + 1 for s in trace.segments)


@pytest.mark.parametrize("name", ["26b-sweep", "eugr-343", "swings", "broken"])
def test_adaptive_keeps_its_promise_on_public_traces(name: str) -> None:
    trace = next(trace for trace in public_traces() if trace.name == name)
    scores = {score.policy: score.percent for score in play_trace((trace, (11,), ("adaptive", "ucb", "hf-heuristic")))}
    assert scores["adaptive"] >= 95.0
    assert scores["adaptive"] > max(scores["ucb"], scores["hf-heuristic"])


def test_adaptive_keeps_its_promise_on_random_traces() -> None:
    percent = []
    for i in range(8):
        trace = random_trace(VALIDATION + 500 + i, steps=400)
        run = expand(trace, i)
        percent.append(100 * play(make("adaptive", k_max=trace.k_max, ks=trace.ks), run).score)
    assert statistics.mean(percent) >= 98.0
    assert min(percent) >= 94.0


def test_results_arriving_a_step_late_hardly_matter() -> None:
    trace = random_trace(VALIDATION + 520)
    run = expand(trace, 1)
    soon, late = (play(make("adaptive", k_max=trace.k_max, ks=trace.ks), run, lag=lag).score for lag in (0, 1))
    assert late > soon - 0.02


def test_the_table_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    trace = Trace("26b-sweep", 4, (Segment(60, (0.8,) * 4, 1, STEEP),))
    scores = play_trace((trace, (1,), ("fixed", "adaptive")))
    document = tmp_path / "policy.md"
    document.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    rewrite(document, markdown(scores, []))
    text = document.read_text()
    assert "| 26b-sweep |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    document.write_text("no markers")
    with pytest.raises(ValueError, match="klab:start"):
        rewrite(document, "x")


def test_jobs_hold_public_and_validation_traces_only() -> None:
    names = [trace.name for trace, _, _ in jobs(3, 1)]
    assert names[-3:] == [f"random-{VALIDATION + i}" for i in range(3)]
