"""The rollback machine over virtual hours: what it must do, and what it must never do.

K's moves are those of the operator's own code; only vLLM's counters are simulated (tests/simulated/serving.py). Step
times are linear: with 100 ms + 20 ms a draft token and acceptance of .1, K = 0 earns half as much again as K = 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from gemmaspec.core import memory
from gemmaspec.core.recipe import Prior
from gemmaspec.core.reconcile import decide_k
from tests.simulated.serving import IDLE, FakeEngine, SimulatedServing, Traffic, linear

pytestmark = pytest.mark.slow

GOOD = Traffic((0.85, 0.8, 0.75, 0.7))
BAD = Traffic((0.1, 0.1, 0.1, 0.1))
BROKEN = Traffic((0.0, 0.0, 0.0, 0.0))
WEAK = Traffic((0.02, 0.0, 0.0, 0.0), streams=1, drafts=40.0, c=0.0)
# K = 1 is worth it, K = 4 is not: .55 at position 0, and nothing after it.
SHALLOW = Traffic((0.55, 0.05, 0.05, 0.05))
HOUR, DAY = 3600.0, 86_400.0
STEEP = linear(100.0, 20.0)
SHALLOW_PRIOR = Prior(acceptance=(0.85, 0.3, 0.3, 0.3), step_milliseconds={0: 100.0, 1: 120.0, 4: 180.0})
PRIOR = Prior(acceptance=(0.85, 0.8, 0.75, 0.7), step_milliseconds={0: 100.0, 1: 120.0, 4: 180.0})


def reasons(serving: SimulatedServing) -> list[str]:
    return [f"{move.reason} {move.before}→{move.after}" for move in serving.moves]


def test_a_bad_phase_lowers_k_once_and_a_good_one_brings_it_back() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(HOUR, GOOD)
    assert reasons(serving) == []
    serving.advance(0.4 * HOUR, BAD)
    assert reasons(serving) == ["DraftsDoNotPay 4→0"]
    assert serving.moves[0].at - HOUR < 300, "two windows at most"
    serving.advance(2 * HOUR, GOOD)
    assert reasons(serving) == ["DraftsDoNotPay 4→0", "TrialAfterHold 0→4"]
    assert serving.moves[1].at - serving.moves[0].at == pytest.approx(1800, abs=10)
    assert serving.k == 4
    assert serving.status["k"]["reason"] == memory.AS_ASKED
    assert "trialFrom" not in serving.status["control"]


def test_the_hold_doubles_up_to_its_maximum_and_is_forgotten_after_a_success() -> None:
    control = {"recovery": {"holdSeconds": 600, "maxHoldSeconds": 3600}}
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, control=control, scrape=15.0)
    serving.advance(0.2 * HOUR, GOOD)
    serving.advance(5 * HOUR, BAD)
    holds = [
        round(after.at - before.at, -2) for before, after in pairwise(serving.moves) if after.reason == "TrialAfterHold"
    ]
    assert holds == [600, 1200, 2400, 3600, 3600, 3600]
    serving.advance(3 * HOUR, GOOD)
    moved = len(serving.moves)
    serving.advance(500, BAD)
    assert serving.status["control"]["holdSeconds"] == 600
    assert len(serving.moves) == moved + 1


def test_a_further_step_down_keeps_the_back_off() -> None:
    """Without a prior the first guess may stop at K = 1; what K = 1 then shows corrects it, within the same hold."""
    control = {"recovery": {"holdSeconds": 900, "maxHoldSeconds": 7200}, "minGain": 0.05}
    serving = SimulatedServing(step_ms=linear(100.0, 45.0), control=control)
    serving.advance(0.2 * HOUR, GOOD)
    serving.advance(4 * HOUR, BAD)
    assert "DraftsDoNotPay 1→0" in reasons(serving)
    trials = [move.at for move in serving.moves if move.reason == "TrialAfterHold"]
    gaps = [after - before for before, after in pairwise(trials)]
    assert all(after > 1.5 * before for before, after in pairwise(gaps)), gaps
    assert len(gaps) >= 1


def test_a_broken_drafter_is_a_fault_and_stays_off() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=15.0)
    serving.advance(HOUR, BROKEN)
    assert reasons(serving) == ["DraftRejected 4→0"]
    assert serving.moves[0].at < 300
    serving.advance(12 * HOUR, GOOD)
    assert reasons(serving) == ["DraftRejected 4→0"]
    assert serving.status["control"]["fault"] is True


def test_a_fault_comes_before_any_other_judgement() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, control={"minDrafts": 20, "minDwellSeconds": 0})
    serving.advance(HOUR, replace(BROKEN, streams=4, drafts=5.0))
    assert reasons(serving)[0] == "DraftRejected 4→0"


def test_asking_for_another_k_retries_after_a_fault() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(0.5 * HOUR, BROKEN)
    assert serving.k == 0
    serving.edit(k=2)
    serving.advance(0.5 * HOUR, GOOD)
    assert serving.k == 2
    assert "fault" not in serving.status["control"]
    assert serving.status["control"]["proved"] is True


def test_a_drop_after_proof_is_never_a_fault() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=15.0)
    serving.advance(600, GOOD)
    serving.advance(8 * HOUR, BROKEN)
    assert "fault" not in serving.status["control"]
    assert {move.reason for move in serving.moves} == {"DraftsDoNotPay", "TrialAfterHold", "RecoveryNotProved"}


def test_a_drop_is_no_fault_for_an_engine_that_boots_into_it() -> None:
    """Proof belongs to the engine (image, target, drafter), not to the pod: a trial in a bad phase is no fault."""
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, control={"recovery": {"holdSeconds": 300}})
    serving.advance(600, GOOD)
    for engine in serving.engines:
        engine.reset()
    serving.restart_operator()
    serving.advance(3 * HOUR, BROKEN)
    assert "fault" not in serving.status["control"]
    assert serving.k == 0 or serving.moves[-1].reason == "TrialAfterHold"


def test_k_min_bounds_what_is_lowered() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, control={"kMin": 2}, scrape=15.0)
    serving.advance(3 * HOUR, BAD)
    assert reasons(serving) == ["DraftsDoNotPay 4→2"]
    serving.edit(kMin=3)
    serving.advance(60, BAD)
    assert serving.k == 3
    assert serving.status["k"]["reason"] == "K 2→3: control.kMin is 3"


def test_idle_engines_keep_their_k() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=15.0)
    serving.advance(0.2 * HOUR, GOOD)
    serving.advance(0.3 * HOUR, BAD)
    assert serving.k == 0
    serving.advance(6 * HOUR, IDLE)
    assert reasons(serving) == ["DraftsDoNotPay 4→0"], "no trial without traffic that could tell"
    serving.advance(HOUR, GOOD)
    assert reasons(serving) == ["DraftsDoNotPay 4→0", "TrialAfterHold 0→4"]
    serving.advance(6 * HOUR, IDLE)
    assert serving.k == 4


@pytest.mark.parametrize("seen_every", [70, 10_000])
def test_lost_scrapes_move_nothing(seen_every: int) -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(0.2 * HOUR, GOOD)
    serving.advance(0.5 * HOUR, BAD, lost=lambda now: now % seen_every > 0)
    assert reasons(serving) == []


def test_a_few_lost_scrapes_delay_nothing() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(0.2 * HOUR, GOOD)
    serving.advance(0.3 * HOUR, BAD, lost=lambda now: serving.rng.random() < 0.3)
    assert reasons(serving) == ["DraftsDoNotPay 4→0"]


def test_engines_that_restart_are_no_evidence() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, replicas=2, scrape=10.0)
    for _ in range(30):
        serving.advance(240, GOOD)
        victim: FakeEngine = serving.engines[serving.rng.integers(2)]
        victim.reset()
    assert reasons(serving) == []


@pytest.mark.parametrize("jump", [-30 * DAY, -HOUR, -10.0, 10.0, HOUR, 30 * DAY])
def test_a_clock_that_jumps_moves_no_k_and_stops_no_judgement(jump: float) -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(0.2 * HOUR, GOOD)
    serving.jump(jump)
    serving.advance(0.3 * HOUR, GOOD)
    assert reasons(serving) == []
    serving.jump(-jump)
    serving.advance(0.3 * HOUR, BAD)
    assert reasons(serving) == ["DraftsDoNotPay 4→0"]
    assert serving.moves[0].at < 0.5 * HOUR + 300, "two windows at most, as without a jump"


@pytest.mark.parametrize("jump", [-30 * DAY, -HOUR])
def test_a_clock_that_was_set_back_stretches_no_hold(jump: float) -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(HOUR, GOOD)
    serving.advance(0.4 * HOUR, BAD)
    assert reasons(serving) == ["DraftsDoNotPay 4→0"]
    set_back = 1.4 * HOUR
    serving.jump(jump)
    serving.advance(2 * HOUR, GOOD)
    assert reasons(serving) == ["DraftsDoNotPay 4→0", "TrialAfterHold 0→4"]
    assert serving.moves[1].at <= set_back + 1800 + 60, "a whole hold from then on at most"
    assert serving.k == 4


def test_a_restarted_operator_goes_on_where_it_was() -> None:
    steady, shaken = (SimulatedServing(step_ms=STEEP, prior=PRIOR) for _ in range(2))
    for traffic, seconds in ((GOOD, 1200), (BAD, 1500), (GOOD, 3000)):
        steady.advance(seconds, traffic)
        for _ in range(int(seconds // 300)):
            shaken.advance(300, traffic)
            shaken.restart_operator()
    assert reasons(steady) == reasons(shaken) == ["DraftsDoNotPay 4→0", "TrialAfterHold 0→4"]


def test_fixed_never_moves() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, control={"mode": "Fixed"}, scrape=15.0)
    for traffic in (BROKEN, BAD, GOOD, IDLE):
        serving.advance(HOUR, traffic)
        assert serving.k == 4
    assert serving.moves == []


def test_fixed_reports_a_fault_until_it_is_refuted() -> None:
    serving = SimulatedServing(step_ms=STEEP, control={"mode": "Fixed"}, scrape=15.0)
    serving.advance(0.2 * HOUR, BROKEN)
    assert serving.status["control"]["fault"] is True
    serving.advance(HOUR, GOOD)
    assert "fault" not in serving.status["control"]
    assert serving.status["k"]["reason"] == memory.AS_ASKED


def test_a_fault_seen_in_mode_fixed_counts_in_mode_rollback() -> None:
    serving = SimulatedServing(step_ms=STEEP, control={"mode": "Fixed"}, scrape=15.0)
    serving.advance(0.2 * HOUR, BROKEN)
    serving.edit(mode="Rollback")
    serving.advance(60, BROKEN)
    assert reasons(serving) == ["DraftRejected 4→0"]
    serving.edit(mode="Fixed")
    serving.advance(60, BROKEN)
    assert serving.k == 4


def test_a_lowered_k_rises_when_mode_becomes_fixed() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(0.5 * HOUR, BAD)
    assert serving.k == 0
    serving.edit(mode="Fixed")
    serving.advance(300, BAD)
    assert serving.k == 4
    assert serving.status["k"]["reason"] == memory.AS_ASKED


def test_a_new_k_of_the_user_resets_hold_and_trial() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(0.5 * HOUR, BAD)
    assert serving.k == 0
    serving.edit(k=3)
    serving.advance(30, BAD)
    assert serving.k == 3
    assert not {"holdUntil", "holdSeconds", "trialFrom"} & set(serving.status["control"])
    serving.edit(k=0)
    serving.advance(2 * HOUR, GOOD)
    assert serving.k == 0


def test_a_boot_that_costs_more_than_it_earns_is_not_paid() -> None:
    """20 % more over a hold of 1800 s repay a boot of 200 s, and not one of 600 s."""
    nearly = Traffic((0.35, 0.35, 0.35, 0.35), streams=4)
    prior = Prior(acceptance=(0.7,) * 4, step_milliseconds={0: 100.0, 1: 125.0, 2: 150.0, 4: 200.0})
    for boot, moves in ((100.0, True), (2000.0, False)):
        serving = SimulatedServing(step_ms=linear(100.0, 25.0), prior=prior, boot=boot, scrape=15.0)
        serving.advance(0.8 * HOUR + boot, nearly)
        assert bool(serving.moves) is moves, boot


def test_a_pod_that_was_unready_for_a_moment_does_not_look_like_a_long_boot() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=15.0)
    serving.advance(5 * HOUR, IDLE)
    serving.advance(600, GOOD)
    for engine in serving.engines:
        engine.ready_at = serving.now  # its Ready condition turned True again: 5 hours after its creation
    serving.advance(300, BAD)
    assert serving.k < 4


def test_times_of_another_batch_lower_nothing() -> None:
    """K = 0 was measured with one request; with sixteen every step is slower, and good drafts still pay."""
    heavy = linear(100.0, 20.0, 6.0)
    serving = SimulatedServing(step_ms=heavy, prior=PRIOR, scrape=15.0)
    serving.advance(0.5 * HOUR, replace(BAD, streams=1))
    assert serving.k == 0
    serving.advance(0.6 * HOUR, replace(GOOD, streams=1))
    assert serving.k == 4
    moved = len(serving.moves)
    serving.advance(HOUR, replace(GOOD, streams=12))
    assert len(serving.moves) == moved


def test_a_lasting_loss_of_a_single_user_is_found() -> None:
    """One request at a time, K = 2 earns 16 % more: two minutes hold too few requests to be sure, twenty do not."""
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR)
    serving.advance(1500, Traffic((0.5, 0.5, 0.5, 0.5), streams=1, drafts=300.0))
    assert [move.reason for move in serving.moves] == ["DraftsDoNotPay"]


def test_no_trial_that_the_remaining_positions_rule_out() -> None:
    """Lowered to K = 1, position 0 is still drafted: while it accepts little, the desired K can't pay."""
    serving = SimulatedServing(step_ms=STEEP, prior=SHALLOW_PRIOR, scrape=15.0)
    serving.advance(6 * HOUR, SHALLOW)
    assert reasons(serving) == ["DraftsDoNotPay 4→1"]
    assert [told.split(":")[0] for told in serving.told[1:]] == ["K stays 1"] * 3, "a hold that doubles, without a boot"
    holds = [int(told.rsplit(" ", 2)[1]) for told in serving.told[1:]]
    assert holds == [3600, 7200, 14400]


def test_what_is_still_drafted_proves_recovery_before_a_boot() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=SHALLOW_PRIOR, scrape=15.0)
    serving.advance(0.4 * HOUR, SHALLOW)
    assert serving.k == 1
    while serving.k == 1:
        serving.advance(15, GOOD)
    assert reasons(serving) == ["DraftsDoNotPay 4→1", "RecoveryProved 1→4"]
    assert "recovery was proved" in serving.moves[1].message
    assert serving.moves[1].at - serving.moves[0].at < 1800 + 120
    assert serving.status["control"]["trialFrom"] == 1
    serving.advance(0.3 * HOUR, GOOD)
    assert "trialFrom" not in serving.status["control"]
    assert serving.told[-1].startswith("K stays 4: recovery is proved")


def test_a_trial_in_bad_traffic_ends_as_soon_as_it_may() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=15.0)
    serving.advance(0.2 * HOUR, GOOD)
    serving.advance(1.2 * HOUR, BROKEN)
    up, down = serving.moves[1:3]
    assert (up.reason, down.reason) == ("TrialAfterHold", "RecoveryNotProved")
    assert down.at - up.at <= 300 + 2 * serving.scrape, "the dwell, no more"


def test_a_trial_outlives_the_operator() -> None:
    """What the trial's engines drafted stands in their own counters."""
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, control={"minDwellSeconds": 900}, scrape=15.0)
    serving.advance(0.3 * HOUR, GOOD)
    serving.advance(0.3 * HOUR, BROKEN)
    while serving.k == 0:
        serving.advance(15, GOOD)
    serving.advance(800, BROKEN)
    serving.restart_operator()
    serving.advance(120, GOOD)
    assert serving.moves[-1].reason == "RecoveryNotProved"


def test_a_slow_boot_makes_the_hold_longer() -> None:
    """A trial in vain costs two boots; what a recovery would earn in the hold must repay them."""
    quick, slow = (SimulatedServing(step_ms=STEEP, prior=PRIOR, boot=boot, scrape=15.0) for boot in (60.0, 900.0))
    for serving in (quick, slow):
        serving.advance(0.2 * HOUR + serving.boot, GOOD)
        serving.advance(0.2 * HOUR, BROKEN)
        assert serving.k == 0
    assert quick.status["control"]["holdSeconds"] == 1800
    # K = 4 earns 89 % more than K = 0 at the acceptance of the recipe's source.
    assert slow.status["control"]["holdSeconds"] == pytest.approx(2 * 900 / 0.887, rel=0.02)


@pytest.mark.parametrize("step_ms", [STEEP, linear(100.0, 0.5)], ids=["steep", "nearly free"])
@pytest.mark.parametrize("rate", [0.0, 0.002, 0.01, 0.02])
def test_a_broken_drafter_is_off_within_200_drafts_and_a_scrape(rate: float, step_ms: Any) -> None:
    """At batch 1 and 60 drafts a request, whatever drafts cost; here a scrape holds at most 100 drafts."""
    late = 0
    for seed in range(10):
        serving = SimulatedServing(step_ms=step_ms, seed=seed, boot=30.0)
        traffic = Traffic((rate,) * 4, streams=1, drafts=60.0, c=0.0)
        while True:
            serving.advance(serving.scrape, traffic)
            totals = serving.engines[0].totals
            if not serving.k or (totals["drafts"] >= 200 and totals["requests_finished"] >= 2):
                break
        late += serving.k > 0
    assert late <= (2 if rate == 0.02 else 0)


def test_a_suspect_drafter_is_tried_again_until_the_verdict() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=5.0)
    serving.advance(0.3 * HOUR, WEAK)
    assert reasons(serving) == ["DraftsDoNotPay 4→0"]
    assert "no verdict yet" in serving.moves[0].message
    assert serving.status["control"]["firstDrafts"]["drafts"] >= 120
    serving.advance(HOUR, BROKEN)
    assert reasons(serving)[-2:] == ["TrialAfterHold 0→4", "DraftRejected 4→0"]
    mended = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=5.0)
    mended.advance(0.3 * HOUR, WEAK)
    mended.advance(HOUR, GOOD)
    assert mended.k == 4
    assert mended.status["control"]["proved"] is True
    assert "firstDrafts" not in mended.status["control"]


def test_state_is_written_at_decisions_only() -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=5.0)
    serving.advance(600, GOOD)
    before = serving.status
    for _ in range(100):
        serving.advance(5, GOOD)
        assert serving.status == before
    serving.advance(600, BAD)
    lowered = serving.status
    assert serving.k < 4
    assert len(str(lowered["control"])) < 700
    for _ in range(200):
        serving.advance(5, BAD)
        assert serving.status == lowered


def test_the_same_observations_lead_to_the_same_decisions() -> None:
    one, two = (SimulatedServing(step_ms=STEEP, prior=PRIOR, seed=3, scrape=15.0) for _ in range(2))
    for serving in (one, two):
        serving.advance(0.3 * HOUR, GOOD)
        serving.advance(1.5 * HOUR, BAD)
    assert one.told == two.told
    assert one.status == two.status
    again = [decide_k(one.observation(), one.resolved)[0] for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("traffic", "step_ms"),
    [
        (Traffic((0.75, 0.7, 0.65, 0.6), streams=3), linear(100.0, 10.0)),
        (Traffic((0.7, 0.68, 0.66, 0.64), streams=2), linear(100.0, 20.0)),  # K = 4 and K = 3 earn nearly the same
        (Traffic((0.7, 0.68, 0.66, 0.64), streams=1, drafts=2000.0), linear(100.0, 20.0)),  # one long request at a time
    ],
    ids=["typical", "marginal", "long requests"],
)
def test_healthy_clustered_traffic_moves_nothing_in_a_day(traffic: Traffic, step_ms: object, seed: int) -> None:
    serving = SimulatedServing(step_ms=step_ms, scrape=30.0, seed=seed)  # type: ignore[arg-type]
    serving.advance(DAY, traffic)
    assert serving.moves == []


def test_moves_in_a_day_are_bounded_whatever_the_traffic(seed: int) -> None:
    """A cycle is a lowering, a hold and a trial that must dwell: at most that often, and one step down in each."""
    hold, dwell = 1800, 300
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, scrape=30.0, seed=seed)
    while serving.now < 1_800_000_000.0 + DAY:
        kind = (GOOD, BAD, BROKEN, IDLE)[serving.rng.integers(4)]
        serving.advance(float(serving.rng.uniform(60, 5400)), kind)
    cycles = DAY / (hold + dwell)
    raised = sum(1 for move in serving.moves if move.reason == "TrialAfterHold")
    assert raised <= cycles
    assert len(serving.moves) <= 2 * cycles + 1
    pauses = [after.at - before.at for before, after in pairwise(serving.moves)]
    assert min(pauses, default=dwell) >= dwell


def test_the_sentences(golden: Callable[[str, str], None]) -> None:
    serving = SimulatedServing(step_ms=STEEP, prior=PRIOR, seed=7)
    serving.advance(600, GOOD)
    serving.advance(3600, BAD)
    serving.advance(3600, GOOD)
    broken = SimulatedServing(step_ms=STEEP, prior=PRIOR, seed=7)
    broken.advance(600, BROKEN)
    weak = SimulatedServing(step_ms=STEEP, prior=PRIOR, seed=7)
    weak.advance(120, WEAK)
    shallow = SimulatedServing(step_ms=STEEP, prior=SHALLOW_PRIOR, seed=7, scrape=15.0)
    shallow.advance(2 * HOUR, SHALLOW)
    shallow.advance(2 * HOUR, GOOD)
    told = [*serving.told, *broken.told, *weak.told, *shallow.told]
    golden("sentences.txt", "".join(f"{sentence}\n" for sentence in told))
