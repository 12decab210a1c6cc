"""The controller answers with a K whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import pytest

from gemmaspec_engine.agent.controller import Controller
from gemmaspec_engine.agent.settings import Settings
from gemmaspec_engine.policy import make

KS = (0, 1, 2, 4)


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakePolicy:
    """Chooses what it is told, or raises. Has what the controller uses of `gemmaspec_engine.policy.Policy`."""

    name = "adaptive"

    def __init__(self, **_: Any) -> None:
        self.answer: Any = 2
        self.seen: list[tuple[int, int, list[int]]] = []
        self.bounds = (0, 0)
        self.learnt = 0

    def set_bounds(self, k_min: int, k_max: int) -> None:
        self.bounds = (k_min, k_max)

    def choose(self, batch: int, requests: Sequence[Hashable] = ()) -> int:
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: int = self.answer
        return answer

    def observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable] = ()
    ) -> None:
        self.seen.append((batch, k, list(accepted)))

    def explain(self) -> str:
        return "because"

    def export_state(self) -> dict[str, Any]:
        return {"learnt": self.learnt}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if "learnt" not in state:
            raise ValueError("no state of this policy")
        self.learnt = state["learnt"]


class Makes:
    """`make` that keeps what it made."""

    def __init__(self) -> None:
        self.made: list[FakePolicy] = []

    def __call__(self, name: str, **options: Any) -> Any:
        assert name in ("adaptive", "rollback")
        self.made.append(FakePolicy(**options))
        return self.made[-1]


def controller(mode: str = "Adaptive", k: int = 4, **more: Any) -> tuple[Controller, Makes, FakeClock]:
    makes, clock = Makes(), FakeClock()
    return Controller(KS, Settings(mode, k, 0, 4, **more), clock=clock, make=makes), makes, clock


def test_fixed_asks_no_policy() -> None:
    found, makes, _ = controller("Fixed", 3)
    assert found.choose(1, ()) == 2  # the grid's largest that is not above 3
    assert makes.made == []
    assert found.decisions == {0: 0, 1: 0, 2: 1, 4: 0}


def test_policy_decides_and_learns() -> None:
    found, makes, _ = controller()
    assert found.choose(1, ("a",)) == 2
    found.observe(1, 2, [1], 10.0, ("a",))
    assert makes.made[0].seen == [(1, 2, [1])]
    assert found.changes == 1


def test_the_policy_is_asked_ahead_once_a_step() -> None:
    found, makes, _ = controller()
    found.ahead(1, ("a",))
    makes.made[0].answer = 1
    assert found.choose(2, ("a", "b")) == 2, "what was decided ahead"
    assert found.choose(2, ("a", "b")) == 1, "nothing was decided ahead: asked now"


def test_new_settings_undo_what_was_decided_ahead() -> None:
    found, makes, _ = controller()
    found.ahead(1, ("a",))
    found.apply(Settings("Adaptive", 4, 1, 1))
    makes.made[0].answer = 1
    assert found.choose(1, ("a",)) == 1
    found.ahead(1, ("a",))
    found.apply(Settings("Fixed", 0, 0, 4))
    assert found.choose(1, ("a",)) == 0


def test_a_failure_ahead_is_the_static_k() -> None:
    found, makes, _ = controller(k=1)
    makes.made[0].answer = ArithmeticError("x")
    found.ahead(1, ("a",))
    assert found.choose(1, ("a",)) == 1
    assert found.exceptions == {"choose": 1}


@pytest.mark.parametrize("bad", [ArithmeticError("x"), 3, -1, 99, None, "2"])
def test_any_failure_of_the_policy_is_the_static_k(bad: Any) -> None:
    found, makes, _ = controller(k=4)
    makes.made[0].answer = bad
    assert found.choose(1, ()) == 4
    assert found.fault is not None
    assert found.exceptions == {"choose": 1}
    makes.made[0].answer = 2
    assert found.choose(1, ()) == 4, "it stays static until somebody says otherwise"
    assert found.exceptions == {"choose": 1}
    found.apply(Settings("Adaptive", 4, 0, 4))
    assert found.fault is None
    assert len(makes.made) == 2, "the broken policy is not used again"
    assert found.choose(1, ()) == 2


def test_failure_while_learning() -> None:
    found, makes, _ = controller(k=1)

    def broken(*_: Any) -> None:
        raise KeyError("gone")

    makes.made[0].observe = broken  # type: ignore[method-assign]
    found.observe(1, 2, [1], 10.0, ())
    assert found.exceptions == {"observe": 1}
    assert found.choose(1, ()) == 1
    assert "static, after an exception in observe" in found.explain()


def test_temporary_settings_end_by_themselves() -> None:
    found, _, clock = controller("Fixed", 4)
    found.apply(Settings("Fixed", 1, 0, 4, seconds=60.0))
    assert found.choose(1, ()) == 1
    clock.now += 59
    assert found.choose(1, ()) == 1
    assert found.settings_json()["untilSeconds"] == 1.0
    clock.now += 2
    assert found.choose(1, ()) == 4
    assert found.settings_json()["untilSeconds"] is None


def test_bounds_move_without_forgetting() -> None:
    found, makes, _ = controller()
    makes.made[0].learnt = 5
    found.apply(Settings("Adaptive", 4, 1, 2))
    assert len(makes.made) == 1
    assert makes.made[0].bounds == (1, 2)
    found.apply(Settings("Fixed", 4, 0, 4))
    found.apply(Settings("Adaptive", 4, 0, 4))
    assert makes.made[-1].learnt == 5


def test_the_scheduler_never_waits_for_the_port() -> None:
    found, makes, _ = controller()
    assert found.choose(1, ()) == 2
    inside, leave = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        inside.set()
        leave.wait(30)
        return {}

    makes.made[0].export_state = slow  # type: ignore[method-assign]
    makes.made[0].answer = 1
    exporting = threading.Thread(target=found.export_state, daemon=True)
    exporting.start()
    assert inside.wait(30)
    assert found.choose(1, ()) == 2, "keeps its K while the state is exported"
    found.observe(1, 2, [0], 10.0, ())
    assert found.missed == 2
    leave.set()
    exporting.join(30)
    assert found.choose(1, ()) == 1


def test_latency_of_a_change_is_reported() -> None:
    found, _, clock = controller("Fixed", 4)
    found.apply(Settings("Fixed", 1, 0, 4))
    assert found.settings_json()["appliedAfterMs"] is None
    clock.now += 0.0125
    found.choose(1, ())
    assert found.settings_json()["appliedAfterMs"] == 12.5


def test_state_goes_to_the_next_engine() -> None:
    first, makes, _ = controller("Adaptive", 2)
    makes.made[0].learnt = 7
    state = first.export_state()
    second, others, _ = controller("Adaptive", 4)
    second.load_state(state)
    assert second.export_state()["policies"] == state["policies"]
    assert others.made[-1].learnt == 7
    assert second.settings.k == 4, "settings in force stay"
    assert second.saved_settings(state) == Settings("Adaptive", 2, 0, 4)


def test_state_keeps_a_temporary_ending() -> None:
    found, _, clock = controller("Fixed", 4)
    found.apply(Settings("Fixed", 1, 0, 4, seconds=60.0))
    clock.now += 20
    found.load_state(found.export_state())
    assert found.settings_json()["untilSeconds"] == 40.0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state | {"version": 0},
        lambda state: state | {"ks": [0, 1]},
        lambda state: state | {"policies": {"adaptive": {"version": 99}}},
        lambda state: state | {"policies": {"unheard": {}}},
        lambda state: state | {"policies": 3},
        lambda state: {},
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(spoil: Callable[[Any], Any]) -> None:
    found, makes, _ = controller()
    makes.made[0].learnt = 1
    before = found.export_state()
    with pytest.raises(ValueError, match=r"."):
        found.load_state(spoil(found.export_state()))
    assert found.export_state() == before


@pytest.mark.parametrize("mode", ["Rollback", "Adaptive"])
def test_with_the_real_policies(mode: str) -> None:
    found = Controller(KS, Settings(mode, 4, 0, 4), make=make)
    k = found.choose(4, ("a", "b", "c", "d"))
    for _ in range(300):
        k = found.choose(4, ("a", "b", "c", "d"))
        found.observe(4, k, [0] * 4, 10.0 + k, ("a", "b", "c", "d"))
    assert found.exceptions == {}
    assert k < 4, "drafts that are never accepted do not pay"
    copy = Controller(KS, Settings(mode, 4, 0, 4), make=make)
    copy.load_state(found.export_state())
    assert copy.exceptions == {}


def test_the_wait_between_steps_is_told_apart_from_the_step_under_way() -> None:
    clock = FakeClock()
    found = Controller(KS, Settings("Fixed", 4, 0, 4), clock=clock)
    found.free_since = lambda: 107.0
    found.apply(Settings("Fixed", 2, 0, 4))  # at 100, while a step runs whose result comes at 107
    clock.now = 107.004
    found.choose(1, ("a",))
    told = found.settings_json()
    assert told["appliedAfterMs"] == pytest.approx(7004)
    assert told["betweenStepsMs"] == pytest.approx(4)
    found.apply(Settings("Fixed", 1, 0, 4))
    clock.now = 107.010
    found.choose(1, ("a",))
    assert found.settings_json()["betweenStepsMs"] == pytest.approx(6), "no step was under way"
