"""Acceptance and step times as the scheduler's objects tell them."""

from __future__ import annotations

import math

from gemmaspec_engine.agent.steps import Result, Steps
from tests.engine.fake_scheduling import FakeClock, FakeOutput, FakeRequest, FakeResult, decode, sampled

Requests = dict[str, FakeRequest]


class Run:
    """Steps one after another, as a synchronous engine makes them."""

    def __init__(self, names: str = "ab", k: int = 4) -> None:
        self.clock = FakeClock()
        self.steps = Steps(k, lingering=True)
        self.requests: Requests = {name: FakeRequest() for name in names}

    def step(self, output: FakeOutput, result: FakeResult, seconds: float = 0.01) -> Result | None:
        self.schedule(output)
        self.clock.after(seconds)
        return self.end(output, result)

    def schedule(self, output: FakeOutput) -> None:
        self.steps.scheduled(output, self.requests, output.num_spec_tokens_to_schedule, self.clock())
        for name, count in output.num_scheduled_tokens.items():
            self.requests[name].num_computed_tokens += count
        self.steps.look(self.requests)

    def end(self, output: FakeOutput, result: FakeResult) -> Result | None:
        ended = self.steps.ended(output, result, self.requests, self.clock())
        # The scheduler takes the result in before anybody reads the step: stopped requests go, lists are cut.
        for tokens in result.sampled_token_ids:
            tokens.clear()
        return None if ended is None else self.steps.read(ended)


def test_accepted_drafts_per_request() -> None:
    run = Run()
    run.step(decode({"a": 4, "b": 4}), sampled({"a": 1, "b": 1}))
    found = run.step(decode({"a": 4, "b": 4}), sampled({"a": 3, "b": 5}), seconds=0.02)
    assert found is not None
    assert (found.batch, found.k, found.tokens) == (2, 4, 8)
    assert dict(zip(found.requests, found.accepted, strict=True)) == {"a": 2, "b": 4}
    assert math.isclose(found.step_ms, 20.0)


def test_a_step_verifies_what_the_step_before_drafted() -> None:
    run = Run()
    run.step(decode({"a": 4, "b": 4}, to_draft=1), sampled({"a": 1, "b": 1}))
    found = run.step(decode({"a": 1, "b": 1}, to_draft=1), sampled({"a": 2, "b": 1}))
    assert found is not None
    assert (found.k, sorted(found.accepted)) == (1, [0, 1])


def test_the_step_of_a_change_has_no_time() -> None:
    run = Run()
    run.step(decode({"a": 4, "b": 4}), sampled({"a": 1, "b": 1}))
    changing = run.step(decode({"a": 4, "b": 4}, to_draft=1), sampled({"a": 1, "b": 1}))
    after = run.step(decode({"a": 1, "b": 1}, to_draft=1), sampled({"a": 1, "b": 1}))
    assert changing is not None
    assert after is not None
    assert math.isnan(changing.step_ms)
    assert not math.isnan(after.step_ms)


def test_who_does_not_count() -> None:
    """A prefill, a fresh request, one with invalid drafts, a trimmed one, one that ended meanwhile."""
    run = Run("abcdefg")
    run.step(decode(dict.fromkeys("abcdefg", 4)), sampled(dict.fromkeys("abcdefg", 1)))
    output = decode({"a": 4, "b": 0, "c": 4, "d": 2, "e": 4, "g": 4})
    output.num_scheduled_tokens["f"] = 30  # a prompt
    output.num_invalid_spec_tokens = {"c": 2}
    run.requests["f"].num_computed_tokens = 0
    run.schedule(output)
    run.requests["e"].ended = True
    del run.requests["g"]
    run.clock.after(0.01)
    found = run.end(output, sampled(dict.fromkeys("abcdegf", 3)))
    assert found is not None
    assert found.requests == ["a"]
    assert found.prefills == [("f", 30)]
    assert math.isnan(found.step_ms)


def test_last_token_of_a_prompt_is_prefill() -> None:
    run = Run("a", k=0)
    run.requests["a"].num_computed_tokens = 49
    found = run.step(decode({"a": 0}, to_draft=0), sampled({"a": 1}))
    assert found is not None
    assert found.prefills == [("a", 50)]
    assert found.accepted == []


def test_the_same_requests_go_on_decoding_at_k_zero() -> None:
    """Nothing but the names is looked at; a new name among them is, since one token may be the end of its prompt."""
    run = Run("abc", k=0)
    run.step(decode({"a": 0, "b": 0}, to_draft=0), sampled({"a": 1, "b": 1}))
    found = run.step(decode({"a": 0, "b": 0}, to_draft=0), sampled({"a": 1, "b": 1}))
    assert found is not None
    assert (found.prefills, found.tokens, found.requests) == ((), 2, ["a", "b"])
    run.requests["c"].num_computed_tokens = 49
    found = run.step(decode({"a": 0, "c": 0}, to_draft=0), sampled({"a": 1, "c": 1}))
    assert found is not None
    assert found.prefills == [("c", 50)]
    assert found.requests == ["a"]


def test_k_zero_has_times_and_no_acceptance() -> None:
    run = Run("ab", k=0)
    run.step(decode({"a": 0, "b": 0}, to_draft=0), sampled({"a": 1, "b": 1}))
    found = run.step(decode({"a": 0, "b": 0}, to_draft=0), sampled({"a": 1, "b": 1}))
    assert found is not None
    assert found.accepted == [0, 0]
    assert math.isclose(found.step_ms, 10.0)


def test_after_idleness_there_is_no_time() -> None:
    run = Run()
    run.step(decode({"a": 4}), sampled({"a": 1}))
    run.steps.idle()
    run.clock.after(60)
    found = run.step(decode({"a": 4}), sampled({"a": 1}))
    again = run.step(decode({"a": 4}), sampled({"a": 1}))
    assert found is not None
    assert again is not None
    assert math.isnan(found.step_ms)
    assert math.isclose(again.step_ms, 10.0)


def test_nothing_schedulable_is_idleness() -> None:
    run = Run()
    run.step(decode({"a": 4}), sampled({"a": 1}))
    empty = FakeOutput({})
    run.schedule(empty)
    assert run.end(empty, sampled({})) is None
    run.clock.after(5)
    run.schedule(FakeOutput({}))
    found = run.step(decode({"a": 4}), sampled({"a": 1}))
    assert found is not None
    assert math.isnan(found.step_ms)


def test_a_batch_of_mostly_trimmed_requests_has_no_time() -> None:
    run = Run("abc")
    run.step(decode({"a": 4, "b": 4, "c": 4}), sampled(dict.fromkeys("abc", 1)))
    found = run.step(decode({"a": 4, "b": 1, "c": 1}), sampled(dict.fromkeys("abc", 1)))
    assert found is not None
    assert math.isnan(found.step_ms)


def test_two_steps_under_way() -> None:
    """Asynchronous scheduling: step n + 1 is scheduled before the result of step n is known."""
    run = Run("a")
    first, second, third = (decode({"a": 4}) for _ in range(3))
    run.schedule(first)
    run.schedule(second)
    run.clock.after(0.01)
    assert run.end(first, sampled({"a": 2})) is not None
    run.schedule(third)
    run.clock.after(0.013)
    found = run.end(second, sampled({"a": 3}))
    assert found is not None
    assert found.accepted == [2]
    assert math.isclose(found.step_ms, 13.0)


def test_a_prompt_is_followed_though_nobody_says_that_the_device_computes() -> None:
    """Its counter is read before the next step advances it, at the latest when the result has come."""
    run = Run("a")
    run.requests["a"].num_computed_tokens = 0
    chunks = [FakeOutput({"a": 20}) for _ in range(3)]
    found = []
    for number, chunk in enumerate(chunks):
        run.steps.scheduled(chunk, run.requests, 4, run.clock())
        run.requests["a"].num_computed_tokens += 20
        if number:
            found.append(run.end(chunks[number - 1], FakeResult([], {})))
    found.append(run.end(chunks[-1], FakeResult([], {})))
    assert [step.prefills for step in found if step is not None] == [[("a", 20)], [("a", 40)], [("a", 60)]]


def test_a_result_without_its_step_is_ignored() -> None:
    run = Run()
    assert run.end(decode({"a": 4}), sampled({"a": 1})) is None


def test_no_sampled_tokens() -> None:
    run = Run()
    found = run.step(decode({"a": 4, "b": 4}), FakeResult([], {}))
    assert found is not None
    assert found.tokens == 0
    assert found.accepted == []
