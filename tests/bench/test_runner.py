"""A sweep against a fake engine with a fake agent: what is asked, what is measured, and that K is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from gemmaspec.adapters.cluster import Stale
from gemmaspec.adapters.transport import Direct, Unreached
from gemmaspec.bench import steering
from gemmaspec.bench.runner import Failed, Progress, Runner, served
from gemmaspec.bench.steering import AgentPort, Annotation, Note, Taken, Unsteerable
from gemmaspec.core import hold
from gemmaspec.core.bench import figures
from gemmaspec.core.bench.sweep import Sweep, Workload
from tests.bench.fake_station import FakeStation

CODE, PROSE = Workload("code", "Write it.", 24), Workload("prose", "Tell it.", 24)
SWEEP = Sweep((CODE, PROSE), (1, 3), (0, 1, 2), 2)


@pytest.fixture
async def station() -> AsyncIterator[FakeStation]:
    async with FakeStation().running_on() as running:
        yield running


class Ways:
    """The transports of a station, closed at the end."""

    def __init__(self, station: FakeStation, token: str = "secret") -> None:
        self.engine, self.agent = Direct(station.url), Direct(station.agent_url, token)

    def runner(self, sweep: Sweep = SWEEP, told: list[Progress] | None = None) -> Runner:
        seen: list[Progress] = [] if told is None else told
        return Runner(self.engine, self.agent, AgentPort(self.agent), sweep, seen.append)


@pytest.fixture
async def ways(station: FakeStation) -> AsyncIterator[Ways]:
    found = Ways(station)
    yield found
    await found.engine.close()
    await found.agent.close()


async def test_a_sweep_measures_every_place_and_lets_k_go(station: FakeStation, ways: Ways) -> None:
    told: list[Progress] = []
    model = await served(ways.engine)
    assert (model.name, model.context) == ("fake", 8192)
    runs = await ways.runner(told=told).run(model.name)
    assert len(runs) == SWEEP.size == 24
    assert {(run.k, run.tokens_per_step) for run in runs} == {(0, 1.0), (1, 2.0), (2, 3.0)}
    cells = figures.cells(runs)
    fast = next(cell for cell in cells if (cell.workload, cell.concurrency, cell.k) == ("code", 1, 2))
    assert fast.speedup is not None
    assert fast.acceptance == [1.0, 1.0]
    assert fast.theory == pytest.approx(3.0, rel=0.01)
    assert (told[0].done, told[0].left) == (0, None)
    assert (told[-1].done, told[-1].left) == (24, 0.0)
    assert station.held is None
    assert station.puts[-1]["untilSeconds"] < 1
    assert all(put["untilSeconds"] <= steering.HOLD_SECONDS for put in station.puts), "a dead benchmark's K ends"
    assert len(station.puts) < 20, "K is moved once a round"


async def test_no_prompt_is_answered_by_a_cache(station: FakeStation, ways: Ways) -> None:
    await ways.runner().run("fake")
    salts = [question["cache_salt"] for question in station.asked]
    assert len(set(salts)) == len(salts)
    assert {question["messages"][0]["content"] for question in station.asked} == {CODE.text, PROSE.text}
    (last,) = {question["temperature"] for question in station.asked}
    assert last == 0.7
    assert all(question["ignore_eos"] and question["stream"] for question in station.asked)


async def test_a_cancelled_sweep_lets_k_go_and_keeps_its_runs(station: FakeStation, ways: Ways) -> None:
    runner = ways.runner()
    task = asyncio.create_task(runner.run("fake"))
    async with asyncio.timeout(60):
        while len(runner.runs) < 3:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert station.held is None
    assert len(runner.runs) >= 3


async def test_somebody_else_who_moves_k_is_noticed(station: FakeStation, ways: Ways) -> None:
    station.other_k = 2
    with pytest.raises(Failed, match=r"K=0 was asked for, and decode steps were .* at K=2: somebody else moves K too"):
        await ways.runner().run("fake")
    assert station.held is None


async def test_an_engine_that_dies_ends_it_with_what_was_measured(station: FakeStation, ways: Ways) -> None:
    station.fail_after = 20
    with pytest.raises(Failed, match=r"the engine died.*; \d+ of 24 measurements were made") as failure:
        await ways.runner().run("fake")
    assert failure.value.runs
    assert station.held is None


async def test_a_wrong_token_is_told_with_what_the_token_is(station: FakeStation) -> None:
    ways = Ways(station, "wrong")
    with pytest.raises(Failed, match="does not know this token; it is the hex HMAC-SHA256"):
        await ways.runner().run("fake")
    await ways.engine.close()
    await ways.agent.close()


async def test_without_an_agent_k_stays_and_the_engines_counters_are_read(station: FakeStation, ways: Ways) -> None:
    runner = Runner(ways.engine, None, None, Sweep((CODE,), (2,), (None,), 2))
    runs = await runner.run("fake")
    assert len(runs) == 2
    assert runs[0].step_milliseconds == pytest.approx(2.0)
    assert not station.puts


async def test_prompts_are_filled_to_their_length(station: FakeStation, ways: Ways) -> None:
    station.overhead = 100  # the chat's own words
    deep = Workload("deep", "All work and no play.", 4, 2048)
    (run,) = await Runner(ways.engine, ways.agent, None, Sweep((deep,), (1,), (None,), 1)).run("fake")
    assert run.prompt_tokens is not None
    assert 0.98 * 2048 < run.prompt_tokens <= 2048
    assert run.prompt_tokens_per_second is not None
    assert len(station.asked) == 4, "two to find the length, one to warm up, one that counts"


async def test_nothing_behind_an_address_is_told(station: FakeStation) -> None:
    wrong = Direct(station.agent_url)
    with pytest.raises(Failed, match="HTTP 404"):
        await served(wrong)
    await wrong.close()


class FakeOperator:
    """Does what the operator does with the annotation. others: what somebody else does before a write, one each."""

    def __init__(self, station: FakeStation) -> None:
        self._station = station
        self.annotations: dict[str, str] = {}
        self.asleep = False
        self.version = 1
        self.others: list[Callable[[], None]] = []
        self.said = ""

    def note(self) -> Note:
        """The annotation as a benchmark sees it."""
        return Note(self.resource, self.annotate, lambda: 1000.0)

    async def resource(self) -> Mapping[str, Any]:
        metadata = {"annotations": dict(self.annotations), "resourceVersion": str(self.version)}
        return {"metadata": metadata, "status": {"k": {"held": {"message": self.said}}}}

    async def annotate(self, annotations: Mapping[str, str | None], version: str) -> None:
        if self.others:
            self.others.pop(0)()
        if version != str(self.version):
            raise Stale(409, "the object has been modified")
        for key, value in annotations.items():
            self.put(key, value)

    def put(self, key: str, value: str | None) -> None:
        """Somebody's write."""
        self.version += 1
        if value is None:
            self.annotations.pop(key, None)
        else:
            self.annotations[key] = value
        held = hold.read(self.annotations, 1000.0)
        if not self.asleep and held is not None:
            self._station.held = held.k if held.until > 1000.0 else None

    def by_a_person(self, k: int, until: float = 1600.0) -> None:
        """`set-k`."""
        self.put(hold.ANNOTATION, hold.Hold(k, until).text())


@pytest.fixture
def operator(station: FakeStation) -> FakeOperator:
    return FakeOperator(station)


async def test_k_is_held_by_the_annotation_until_it_shows(
    station: FakeStation, ways: Ways, operator: FakeOperator
) -> None:
    operator.by_a_person(2, until=900.0)  # it has ended, and holds nothing
    found = Annotation(operator.note(), ways.agent)
    await found.hold(1, 60.0)
    assert station.held == 1
    assert hold.read(operator.annotations, 1000.0) == hold.Hold(1, 1060.0)
    await found.hold(2, 60.0)
    await found.release()
    assert station.held is None
    assert not operator.annotations, "nothing is left on the resource"


async def test_an_operator_that_does_not_act_is_told(
    ways: Ways, operator: FakeOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "ACT_SECONDS", 0.3)
    operator.asleep = True
    with pytest.raises(Unsteerable, match="`gemmaspec status` tells why"):
        await Annotation(operator.note(), ways.agent).hold(1, 60.0)


async def test_what_a_person_holds_is_not_overwritten(ways: Ways, operator: FakeOperator) -> None:
    operator.by_a_person(2)
    with pytest.raises(Taken, match="written by somebody else"):
        await Annotation(operator.note(), ways.agent).hold(1, 60.0)
    assert hold.read(operator.annotations, 1000.0) == hold.Hold(2, 1600.0)


@pytest.mark.parametrize("until", [1600.0, 999.0], ids=["set-k", "set-k --clear"])
async def test_a_person_who_holds_k_meanwhile_ends_a_sweep_and_keeps_what_they_wrote(
    station: FakeStation, ways: Ways, operator: FakeOperator, until: float
) -> None:
    def told(progress: Progress) -> None:
        if progress.done == 3:
            operator.by_a_person(0, until)

    runner = Runner(ways.engine, ways.agent, Annotation(operator.note(), ways.agent), SWEEP, told)
    with pytest.raises(Failed, match=r"written by somebody else .* 3 of 24 measurements were made"):
        await runner.run("fake")
    assert hold.read(operator.annotations, 1000.0) == hold.Hold(0, until)
    assert station.held == (0 if until > 1000.0 else None)


async def test_a_person_who_comes_before_the_operator_has_acted_is_seen(
    ways: Ways, operator: FakeOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "CHECK_SECONDS", 0.0)
    operator.asleep = True  # nothing shows, and nobody waits until the deadline for it
    waiting = asyncio.create_task(Annotation(operator.note(), ways.agent).hold(1, 60.0))
    async with asyncio.timeout(steering.ACT_SECONDS / 2):
        while not operator.annotations:
            await asyncio.sleep(0.01)
        operator.by_a_person(2)
        with pytest.raises(Taken):
            await waiting


async def test_an_operator_that_refuses_is_not_waited_for(
    ways: Ways, operator: FakeOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "CHECK_SECONDS", 0.0)
    operator.asleep, operator.said = True, "not held: the drafter is broken, and speculation stays off"
    async with asyncio.timeout(steering.ACT_SECONDS / 2):
        with pytest.raises(Unsteerable, match="K is not held: the drafter is broken"):
            await Annotation(operator.note(), ways.agent).hold(1, 60.0)


async def test_a_write_between_a_look_and_a_write_is_seen(ways: Ways, operator: FakeOperator) -> None:
    operator.others = [lambda: operator.put("another", "annotation"), lambda: operator.by_a_person(2)]
    with pytest.raises(Taken):
        await Annotation(operator.note(), ways.agent).hold(1, 60.0)
    assert not operator.others
    assert hold.read(operator.annotations, 1000.0) == hold.Hold(2, 1600.0)


async def test_a_write_whose_answer_was_lost_is_ones_own(
    station: FakeStation, ways: Ways, operator: FakeOperator
) -> None:
    note = operator.note()
    lost = Note(operator.resource, _losing(operator), lambda: 1000.0)
    with pytest.raises(Unreached):
        await lost.write(1, 60.0)
    assert station.held == 1
    with pytest.raises(Taken):
        await note.write(2, 60.0)
    await lost.remove()
    assert not operator.annotations


def _losing(operator: FakeOperator) -> Callable[[Mapping[str, str | None], str], Awaitable[None]]:
    """The first answer does not come."""
    answers = [Unreached(0, "the connection broke")]

    async def annotate(annotations: Mapping[str, str | None], version: str) -> None:
        await operator.annotate(annotations, version)
        if answers:
            raise answers.pop()

    return annotate
