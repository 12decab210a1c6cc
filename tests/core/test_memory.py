"""The machine's memory in `.status`: nothing is lost on the way, and no status can break a pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gemmaspec.api import crd
from gemmaspec.api.status import GemmaSpecDeployStatus
from gemmaspec.core import memory
from gemmaspec.core.control import ControlState, FirstDrafts
from gemmaspec.core.goodput import Step
from tests.core.test_status import POD, SPEC, decide, observed
from tests.simulated.schema import values

MOMENT = st.none() | st.integers(0, 4_000_000_000).map(float)
AMOUNT = st.integers(1, 10**6).map(lambda n: n / 100)
ANY = st.builds(
    ControlState,
    engine=st.text("abc", min_size=1),
    desired=st.integers(0, 32),
    effective=st.integers(0, 32),
    proved=st.booleans(),
    fault=st.booleans(),
    changed_at=MOMENT,
    hold_until=MOMENT,
    hold_seconds=st.none() | st.integers(1, 10**6),
    earlier=st.builds(FirstDrafts, st.integers(50, 99), st.integers(0, 49), st.integers(0, 9)),
    steps=st.dictionaries(st.integers(0, 32), st.tuples(AMOUNT, AMOUNT), max_size=4).map(
        lambda found: tuple(sorted(Step(k, *rest) for k, rest in found.items()))
    ),
    boot_seconds=st.none() | st.integers(0, 10**5),
    reason=st.text("abc →", max_size=9),
)
STATES = ANY.flatmap(
    lambda state: (st.sampled_from([None, *range(state.effective)])).map(lambda k: replace(state, trial_from=k))
)


@given(STATES)
def test_what_is_stored_is_read_back(state: ControlState) -> None:
    control = memory.store(state).model_dump(mode="json", by_alias=True, exclude_none=True)
    k = {"effective": state.effective, "reason": state.reason or memory.AS_ASKED}
    assert memory.load({"control": control, "k": k}) == state


def test_times_are_whole_seconds() -> None:
    control = memory.store(ControlState(engine="e", changed_at=1_800_000_000.9)).model_dump(by_alias=True)
    found = memory.load({"control": control, "k": {"effective": 0}})
    assert found is not None
    assert found.changed_at == 1_800_000_000.0


STATUS = values(crd.structural(GemmaSpecDeployStatus))


@given(STATUS, st.sampled_from([-1, 0, 3, 4, 5, 10**6]), st.booleans())
@settings(max_examples=100)
def test_no_status_breaks_a_pass(status: dict[str, Any], effective: int, ours: bool) -> None:
    """Somebody may write to the status, or an older release may have: K stays in its bounds, and passes go on."""
    if ours:  # the memory of this very engine, with anything in it
        engine = decide(observed(SPEC))[1]["control"]["engine"]
        status = status | {"control": {**status.get("control", {}), "engine": engine, "desired": 4}}
        status["k"] = {**status.get("k", {}), "effective": effective}
    for _ in range(3):
        decision, status = decide(observed(SPEC, status, pods=(POD,)))
        assert 0 <= status["k"]["effective"] <= 4
        assert decision.status is status or decision.status == status
