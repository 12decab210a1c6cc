"""From counters to figures, and from figures to a recommendation."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmaspec.core.bench import advice, figures, result
from gemmaspec.core.bench.figures import Counters, Spoilt, Stream
from gemmaspec.core.bench.interval import half_width, quantile, stratified
from gemmaspec.core.bench.result import Run
from gemmaspec.core.bench.sweep import Turn, Workload

TEXT = Workload("code", "Write it.", 100)
NOTHING = Counters({}, {}, {}, {}, {}, (), (), 0.0)


def counters(k: int, steps: float, batch: float, per_request: float, milliseconds: float) -> Counters:
    tokens = steps * batch * per_request
    return Counters(
        steps={k: steps},
        requests={k: steps * batch},
        tokens={k: tokens},
        timed_seconds={k: steps * milliseconds / 1000},
        timed_steps={k: steps},
        drafted=(100.0, 80.0),
        accepted=(80.0, 40.0),
        generated=tokens,
    )


def measured(
    k: int, speed: float, run: int = 0, workload: str = "code", concurrency: int = 1, batch: float = 1.0
) -> Run:
    return Run(
        workload=workload,
        concurrency=concurrency,
        k=k,
        run=run,
        seconds=1.0,
        tokens=round(speed),
        tokens_per_second=speed,
        batch=batch,
        tokens_per_step=1.0 + 0.5 * k,
        step_milliseconds=10.0 + k,
        drafted=[100] * k,
        accepted=[80] * k,
    )


def test_the_figures_of_a_measurement() -> None:
    streams = [Stream(0.2, 1.2, 101, 50), Stream(0.4, 1.4, 101, 50)]
    found = figures.run(Turn(TEXT, 2, 2, 0), streams, 2.0, NOTHING, counters(2, 40, 2, 2.5, 20.0))
    assert found.tokens_per_second == 101.0
    assert found.stream_tokens_per_second == 100.0
    assert found.ttft_seconds == pytest.approx(0.3)
    assert (found.batch, found.tokens_per_step, found.step_milliseconds) == (2.0, 2.5, 20.0)
    assert (found.drafted, found.accepted) == ([100, 80], [80, 40])
    assert found.other_tokens == 0


def test_tokens_of_others_are_told() -> None:
    after = replace(counters(0, 100, 1, 1.0, 10.0), generated=350.0)
    found = figures.run(Turn(TEXT, 1, 0, 0), [Stream(0.1, 1.0, 100)], 1.0, NOTHING, after)
    assert found.other_tokens == 250


def test_another_k_spoils_a_measurement() -> None:
    after = replace(counters(2, 10, 1, 1.0, 10.0), steps={2: 10.0, 4: 30.0})
    with pytest.raises(Spoilt, match=r"K=2 was asked for, and decode steps were 10 at K=2, 30 at K=4"):
        figures.run(Turn(TEXT, 1, 2, 0), [Stream(0.1, 1.0, 100)], 1.0, NOTHING, after)


def test_a_restart_spoils_a_measurement() -> None:
    before = replace(NOTHING, generated=1000.0)
    with pytest.raises(Spoilt, match="restarted"):
        figures.run(Turn(TEXT, 1, 2, 0), [Stream(0.1, 1.0, 100)], 1.0, before, counters(2, 10, 1, 1.0, 10.0))


def test_without_an_agent_the_running_requests_are_the_batch() -> None:
    after = Counters({}, {-1: 100.0}, {-1: 250.0}, {-1: 2.0}, {-1: 100.0}, (100.0,), (60.0,), 100.0)
    found = figures.run(Turn(TEXT, 4, None, 0), [Stream(0.1, 1.0, 100)], 1.0, NOTHING, after, running=3.5)
    assert (found.batch, found.tokens_per_step, found.step_milliseconds) == (3.5, 2.5, 20.0)


def test_speedup_and_theory_of_a_cell() -> None:
    runs = [measured(k, speed, run) for run in range(3) for k, speed in ((0, 100.0), (2, 150.0))]
    base, fast = figures.cells(runs)
    assert base.speedup is not None
    assert base.speedup.mean == base.theory == 1.0
    assert fast.speedup is not None
    assert (fast.speedup.mean, fast.speedup.low, fast.speedup.high) == (1.5, 1.5, 1.5)
    # (1 + meanAccepted) · T(0) / T(K), the bonus token not among the accepted ones
    assert fast.mean_accepted == 1.0
    assert fast.theory == round((1 + 1.0) * 10.0 / 12.0, 4)
    assert fast.acceptance == [0.8, 0.8]


def test_the_published_convention() -> None:
    """Article's table A.2: mean accepted 1.98 without the bonus is a theoretical 2.98 where steps cost the same."""
    assert figures.theory(1.98, 25.0, 25.0) == 2.98


def test_quantiles() -> None:
    assert [quantile(n) for n in (1, 2, 10)] == [12.706, 4.303, 2.228]
    assert quantile(100) == pytest.approx(1.984, abs=0.001)
    assert quantile(0) == math.inf
    assert half_width([9.0, 11.0]) is None
    assert half_width([9.0, 10.0, 11.0]) == pytest.approx(4.303 / math.sqrt(3))


def test_strata_that_differ_are_no_noise() -> None:
    mean, half = stratified([[1.0, 1.0], [3.0, 3.0]])
    assert (mean, half) == (2.0, 0.0)
    assert stratified([[1.0], [3.0]]) == (2.0, None)
    with pytest.raises(ValueError, match="no measurement"):
        stratified([[]])


@given(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=5), min_size=1, max_size=4), st.floats(-5, 5))
def test_an_interval_moves_with_its_values(strata: list[list[float]], shift: float) -> None:
    mean, half = stratified(strata)
    moved, same = stratified([[value + shift for value in stratum] for stratum in strata])
    assert moved == pytest.approx(mean + shift, abs=1e-6)
    assert same == pytest.approx(half, abs=1e-6)


def sweep(speeds: dict[int, float], noise: float = 0.0, **where: object) -> list[Run]:
    """Three rounds at each K; rounds differ, all K of a round alike, and K by K by ``noise``."""
    return [
        measured(k, speed * (1 + 0.3 * run) * (1 + noise * ((k + run) % 3 - 1)), run, **where)  # type: ignore[arg-type]
        for run in range(3)
        for k, speed in speeds.items()
    ]


def test_the_recommendation_follows_the_batch() -> None:
    alone = sweep({0: 100.0, 2: 150.0, 4: 180.0}, 0.01)
    four = sweep({0: 300.0, 2: 400.0, 4: 290.0}, 0.01, concurrency=4, batch=3.9)
    found = advice.advise([*alone, *four], current=4, sequences=4)
    assert found is not None
    assert [(choice.batch, choice.k) for choice in found.schedule] == [(1, 4), (4, 2)]
    assert found.vllm_schedule == [[1, 2, 4], [3, 4, 2]]
    control = {"kMax": 4, "mode": "Adaptive", "kMin": 0}
    assert found.patch == {"spec": {"speculative": {"k": 4, "control": control}}}
    (_, low) = found.schedule
    assert low.gain.low is not None
    assert 0.3 < low.gain.low < low.gain.mean < 0.45
    assert "K=2 at batch 4" in found.sentence


def test_clients_in_the_queue_count_as_the_batch_that_ran() -> None:
    four = sweep({0: 300.0, 2: 400.0}, concurrency=4, batch=3.9)
    eight = sweep({0: 300.0, 2: 400.0}, concurrency=8, batch=4.0)
    found = advice.advise([*four, *eight], current=0)
    assert found is not None
    assert [choice.batch for choice in found.schedule] == [4]


def test_what_is_not_sure_changes_nothing() -> None:
    found = advice.advise(sweep({0: 100.0, 2: 103.0, 4: 100.0}, 0.2), current=4)
    assert found is not None
    (choice,) = found.schedule
    assert (choice.k, found.patch) == (4, None)
    assert choice.likely is not None
    assert "more runs would tell" in found.sentence


def test_one_run_recommends_nothing_new() -> None:
    found = advice.advise([measured(0, 100.0), measured(4, 20.0)], current=4)
    assert found is not None
    assert found.patch is None


def test_a_k_that_was_not_swept_is_judged_by_the_next_lower() -> None:
    found = advice.advise(sweep({0: 100.0, 2: 50.0}), current=3)
    assert found is not None
    assert found.current == 2
    assert found.patch == {"spec": {"speculative": {"k": 0, "control": {"kMax": 2}}}}


def test_a_restart_engine_gets_one_k() -> None:
    alone, four = sweep({0: 100.0, 4: 180.0}), sweep({0: 300.0, 4: 200.0}, concurrency=4, batch=4.0)
    found = advice.advise([*alone, *four], current=0, live=False)
    assert found is not None
    assert found.patch == {"spec": {"speculative": {"k": 4}}}
    assert "by the smallest batch" in found.sentence


def test_without_a_sweep_there_is_no_advice() -> None:
    assert advice.advise([measured(4, 100.0)], current=4) is None
    assert advice.advise([], current=4) is None


@given(
    st.dictionaries(st.sampled_from([1, 2, 4, 8]), st.floats(10, 1000), min_size=1),
    st.integers(0, 8),
    st.floats(0, 0.5),
)
def test_a_recommended_k_was_measured_and_no_surely_worse_one(
    speeds: dict[int, float], current: int, noise: float
) -> None:
    found = advice.advise(sweep({0: 100.0, **speeds}, noise), current)
    assert found is not None
    for choice in found.schedule:
        assert choice.k in {0, *speeds}
        assert choice.gain.mean >= 0.0
        assert choice.k == found.current or (choice.gain.low or 0.0) > 0.0
    assert [entry[0] for entry in found.vllm_schedule] == [1]


def test_a_result_survives_being_written() -> None:
    runs = sweep({0: 100.0, 2: 150.0})
    whole = result.Result(title="it", runs=runs, cells=figures.cells(runs), advice=advice.advise(runs, 2))
    assert result.parse(result.text(whole)) == whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "is no benchmark's result"),
        ('{"kind": "Pod"}', "is no benchmark's result"),
        (json.dumps({"kind": result.KIND, "version": 99, "title": "x"}), "has version 99 .* reads 1"),
        (json.dumps({"kind": result.KIND, "version": 1, "title": "x", "seconds": "long"}), "seconds is 'long'"),
    ],
)
def test_what_is_no_result_is_refused_with_a_way_out(text: str, words: str) -> None:
    with pytest.raises(result.NoResult, match=words):
        result.parse(text, "file.json")
