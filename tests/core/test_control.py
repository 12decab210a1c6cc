"""One step of the rollback machine, whatever it is told: bounds, missing data, repeatability."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gemmaspec.api.spec import Actuator, Mode
from gemmaspec.core import control
from gemmaspec.core.acceptance import Window
from gemmaspec.core.control import ControlState, Evidence
from gemmaspec.core.recipe import Prior
from gemmaspec.core.resolve import ControlSettings

K = 4
PRIOR = Prior(acceptance=(0.8, 0.7), step_milliseconds={0: 100.0, 4: 180.0})
SETTINGS = ControlSettings(
    mode=Mode.ROLLBACK,
    k_min=0,
    k_max=8,
    actuator=Actuator.RESTART,
    window_seconds=60,
    min_drafts=50,
    min_dwell_seconds=20,
    min_gain=0.05,
    hold_seconds=60,
    max_hold_seconds=600,
)
NOW = 1_800_000_000.0
# Seconds since the last step, drafts, shares accepted, requests, whether all is settled, milliseconds of a step.
TOLD = st.tuples(
    st.floats(1, 200),
    st.integers(0, 2000),
    st.lists(st.floats(0, 1), min_size=K, max_size=K),
    st.integers(0, 50),
    st.booleans() | st.just(True),
    st.floats(1, 500),
)
Told = tuple[float, int, list[float], int, bool, float]


def evidence(k: int, told: Told) -> Evidence:
    """Evidence of engines that run ``k``; at K=0 nothing is drafted."""
    _, drafts, shares, requests, settled, milliseconds = told
    alive, accepted = float(drafts if k else 0), []
    made = alive
    for share in shares[:k]:
        alive = float(int(alive * share))
        accepted.append(alive)
    seen = Window(
        k=k,
        drafts=made,
        draft_tokens=made * k,
        accepted_tokens=sum(accepted),
        accepted=tuple(accepted),
        generation_tokens=float(drafts),
        step_seconds_sum=milliseconds / 1000,
        step_seconds_count=1.0 if drafts else 0.0,
        batch=1.0,
        paces=(milliseconds,) if drafts else (),
        requests=float(requests),
        span=60.0,
    )
    return Evidence(seen, seen, lambda: seen, lambda _: seen, seen, settled=settled, boot_seconds=30.0)


def drive(story: list[Told], k_min: int) -> list[ControlState]:
    """States after each step."""
    rules, state, now = replace(SETTINGS, k_min=k_min), control.start("e", K), NOW
    states = []
    for told in story:
        now += told[0]
        state = control.step(rules, state, "e", K, evidence(state.effective, told), PRIOR, now).state
        states.append(state)
    return states


STORIES = st.lists(TOLD, max_size=25)


@given(STORIES, st.integers(0, K))
@settings(deadline=None)
def test_k_stays_within_its_bounds_whatever_is_seen(story: list[Told], k_min: int) -> None:
    for state in drive(story, k_min):
        assert k_min <= state.effective <= K or (state.fault and state.effective == 0)


@given(STORIES, st.integers(0, K), st.floats(0, 1e6))
@settings(deadline=None)
def test_missing_data_changes_nothing(story: list[Told], k_min: int, later: float) -> None:
    """Neither K nor hold nor trial, however long nothing is heard."""
    state = next(reversed(drive(story, k_min)), control.start("e", K))
    nothing = Window(k=state.effective)
    silence = Evidence(nothing, nothing, lambda: nothing, lambda _: nothing, nothing, settled=True)
    now = NOW + sum(told[0] for told in story) + later
    change = control.step(replace(SETTINGS, k_min=k_min), state, "e", K, silence, PRIOR, now)
    assert change == control.Change(state)


@given(STORIES, st.integers(0, K))
@settings(deadline=None, max_examples=50)
def test_the_same_observations_lead_to_the_same_states(story: list[Told], k_min: int) -> None:
    assert drive(story, k_min) == drive(story, k_min)


@given(STORIES)
@settings(deadline=None)
def test_k_moves_no_more_often_than_it_dwells_faults_apart(story: list[Told]) -> None:
    moved, now, before = NOW - 1e6, NOW, K
    for told, state in zip(story, drive(story, 0), strict=True):
        now += told[0]
        if state.effective != before:
            suspected = state.fault or not state.proved  # a broken drafter is not waited for
            assert now - moved >= SETTINGS.min_dwell_seconds or suspected
            moved, before = now, state.effective
