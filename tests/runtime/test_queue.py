"""The wake queue: one pass for many events, never two of one resource at once, back-off that doubles."""

from __future__ import annotations

import asyncio

import pytest

from gemmaspec.runtime.queue import FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS, LOOK_EVERY, Key, WakeQueue

A, B, C = ("ns", "a"), ("ns", "b"), ("ns", "c")


async def nothing_to_take(queue: WakeQueue) -> bool:
    try:
        await asyncio.wait_for(queue.take(), 0.01)
    except TimeoutError:
        return True
    return False


async def test_many_events_are_one_pass() -> None:
    queue = WakeQueue()
    for _ in range(100):
        queue.wake(A)
        queue.wake(B)
    assert len(queue) == 2
    assert [await queue.take(), await queue.take()] == [A, B]
    assert await nothing_to_take(queue)


async def test_an_event_during_a_pass_is_one_more_pass_afterwards() -> None:
    queue = WakeQueue()
    queue.wake(A)
    assert await queue.take() == A
    queue.wake(A)
    queue.wake(A)
    assert len(queue) == 0, "never two passes of one resource at once"
    queue.done(A)
    assert await queue.take() == A
    queue.done(A)
    assert await nothing_to_take(queue)


async def test_take_waits_for_a_wake() -> None:
    queue = WakeQueue()
    waiting = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for name in "abc":
        queue.wake(("ns", name))
    taken = await asyncio.wait_for(asyncio.gather(*waiting), 1.0)
    assert sorted(taken) == [("ns", "a"), ("ns", "b"), ("ns", "c")]


async def test_back_off_doubles_and_is_forgotten_after_a_success() -> None:
    queue = WakeQueue()
    waits = []
    for _ in range(12):
        queue.wake(A)
        assert await queue.take() == A
        waits.append(queue.failed(A))
    assert waits[:4] == [FIRST_BACKOFF_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert waits[-1] == LAST_BACKOFF_SECONDS
    queue.wake(A)
    await queue.take()
    queue.done(A)
    queue.wake(A)
    await queue.take()
    assert queue.failed(A) == FIRST_BACKOFF_SECONDS
    queue.forget(A)


async def test_a_failed_pass_comes_again_by_itself() -> None:
    queue = WakeQueue()
    queue.wake(A)
    await queue.take()
    assert queue.failed(A) == FIRST_BACKOFF_SECONDS
    assert len(queue) == 0
    assert await asyncio.wait_for(queue.take(), 5.0) == A


async def test_a_server_that_asks_for_patience_gets_it() -> None:
    queue = WakeQueue()
    queue.wake(A)
    await queue.take()
    assert queue.failed(A, at_least=7.0) == 7.0
    queue.forget(A)


async def test_an_event_during_a_failing_pass_does_not_cut_the_back_off() -> None:
    queue = WakeQueue()
    queue.wake(A)
    await queue.take()
    queue.wake(A)
    queue.failed(A, at_least=60.0)
    assert await nothing_to_take(queue)
    queue.wake(A)  # news afterwards do: it may be the repair
    assert await queue.take() == A
    queue.forget(A)


async def test_a_resource_that_rests_is_woken_by_its_timer_alone() -> None:
    queue = WakeQueue()
    queue.wake(A)
    await queue.take()
    assert queue.failed(A, at_least=0.2, rest=True) == 0.2
    queue.wake(A)
    assert await nothing_to_take(queue), "an event could not change the outcome"
    assert await asyncio.wait_for(queue.take(), 5.0) == A
    queue.done(A)
    queue.wake(A)
    assert await queue.take() == A, "and then events count again"
    queue.failed(A, at_least=60.0, rest=True)
    queue.forget(A)
    queue.wake(A)
    assert await queue.take() == A, "another resource of the name does not inherit the rest"


async def test_the_sooner_of_two_timers_holds() -> None:
    queue = WakeQueue()
    for seconds in (60.0, 0.01, 60.0):
        queue.wake_after(A, seconds)
    assert await asyncio.wait_for(queue.take(), 5.0) == A
    queue.done(A)
    assert await nothing_to_take(queue), "and only one of them fires"


async def test_timers_of_several_resources_are_their_own() -> None:
    queue = WakeQueue()
    queue.wake_after(A, 60.0)
    queue.wake_after(B, 0.01)
    assert await asyncio.wait_for(queue.take(), 5.0) == B
    queue.forget(A)


async def test_a_forgotten_resource_is_not_woken() -> None:
    queue = WakeQueue()
    queue.wake_after(A, 0.001)
    queue.forget(A)
    await asyncio.sleep(0.01)
    assert len(queue) == 0


async def test_what_somebody_waits_for_comes_before_thousands_of_looks() -> None:
    queue = WakeQueue()
    looks = [("ns", str(number)) for number in range(5000)]
    for key in looks:
        queue.wake(key)
    for key in (looks[-1], A):
        queue.wake(key, first=True)
        queue.wake(key)  # a look that is due then does not put it back
    assert len(queue) == 5001, "one that waits already moves up, and is one still"
    assert [await queue.take() for _ in range(3)] == [looks[-1], A, looks[0]], "in their order"
    queue.wake(looks[0], first=True)
    queue.done(looks[0])
    assert await queue.take() == looks[0], "an edit during a pass is the next one, too"


async def test_what_somebody_waits_for_stays_first_until_it_is_done() -> None:
    queue = WakeQueue()
    queue.wake(A, first=True)
    assert await queue.take() == A
    queue.failed(A, at_least=0.01)
    await asyncio.sleep(0.05)
    queue.wake(A)
    queue.wake(B)
    queue.wake(C, first=True)
    assert [await queue.take() for _ in range(3)] == [A, C, B]
    queue.done(A)
    queue.wake(B)
    queue.done(B)
    queue.wake(A)
    assert [await queue.take() for _ in range(2)] == [B, A], "and is as the others are then"


async def test_looks_have_their_share_beside_what_waits_and_no_more() -> None:
    queue = WakeQueue()
    others, looks = ([("ns", f"{what}-{number}") for number in range(9)] for what in ("other", "look"))
    for key in looks:
        queue.look(key)
    for key in others:
        queue.wake(key)
    queue.wake(looks[0])  # something else has happened to it: it is no look any more
    queue.look(others[0])
    queue.wake(A, first=True)
    assert len(queue) == 19
    taken = [await queue.take() for _ in range(19)]
    assert taken[0] == A
    assert [key in looks[1:] for key in taken[1:13]] == ([False] * (LOOK_EVERY - 1) + [True]) * 3
    assert sorted(taken[1:]) == sorted([*others, *looks]), "and each of them once"
    for key in (looks[0], looks[1]):
        queue.look(key)
        queue.done(key)
    assert [await queue.take() for _ in range(2)] == looks[:2], "what is told during a pass is looked at after it"


@pytest.mark.parametrize("workers", [1, 4])
async def test_no_two_workers_run_one_resource(workers: int) -> None:
    queue = WakeQueue()
    running: set[Key] = set()
    passes: dict[Key, int] = {}
    enough = asyncio.Event()

    async def work() -> None:
        while True:
            key = await queue.take()
            assert key not in running
            running.add(key)
            await asyncio.sleep(0)
            running.discard(key)
            passes[key] = passes.get(key, 0) + 1
            if passes[key] % 3 == 0:
                queue.failed(key)
            else:
                queue.done(key)
            if sum(passes.values()) >= 60:
                enough.set()

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    for _ in range(200):
        for name in "abcde":
            queue.wake(("ns", name))
        await asyncio.sleep(0)
    await asyncio.wait_for(enough.wait(), 10.0)
    for task in tasks:
        assert not task.done(), task
        task.cancel()
    assert len(passes) == 5


async def test_a_queue_that_is_held_gives_nothing_out() -> None:
    queue = WakeQueue()
    queue.hold()
    queue.wake(("ns", "one"))
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0.01)
    assert not taking.done()
    queue.release()
    assert await asyncio.wait_for(taking, 5) == ("ns", "one")


async def test_a_pass_that_was_due_later_is_the_one_that_comes_before() -> None:
    queue = WakeQueue()
    queue.wake_after(A, 0.02)
    queue.wake(A)
    assert await queue.take() == A
    queue.done(A)
    await asyncio.sleep(0.05)
    assert await nothing_to_take(queue)
    queue.wake_after(A, 0.02)
    assert await asyncio.wait_for(queue.take(), 60) == A
