from __future__ import annotations

import pytest

from traffic.call import Call, Summary
from traffic.meter import Meter


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def flow(meter: Meter, clock: FakeClock, per_second: int, seconds: int) -> None:
    for _ in range(10 * seconds):
        meter.add(per_second // 10)
        clock.now += 0.1


def test_a_steady_flow_has_its_rate(clock: FakeClock) -> None:
    meter = Meter(clock)
    clock.now += 0.05  # away from the edges of the buckets
    flow(meter, clock, 200, 10)
    assert meter.rate(5.0) == pytest.approx(200)
    assert meter.total == 2000


def test_the_rate_forgets_what_is_older_than_its_window(clock: FakeClock) -> None:
    meter = Meter(clock)
    clock.now += 0.05
    flow(meter, clock, 1000, 5)
    flow(meter, clock, 100, 5)
    assert meter.rate(5.0) == pytest.approx(100)
    assert meter.rate(10.0) == pytest.approx(550)


def test_silence_counts(clock: FakeClock) -> None:
    meter = Meter(clock)
    clock.now += 0.05
    flow(meter, clock, 100, 2)
    clock.now += 30
    assert meter.rate(5.0) == 0
    assert [rate for _, rate in meter.series(1.0)][-3:] == [0, 0, 0]


def test_the_first_seconds_are_not_diluted(clock: FakeClock) -> None:
    meter = Meter(clock)
    assert meter.rate() == 0
    clock.now += 0.05
    flow(meter, clock, 100, 1)
    assert meter.rate(60.0) == pytest.approx(100)


def test_the_series_has_one_value_a_span(clock: FakeClock) -> None:
    meter = Meter(clock)
    clock.now += 0.05
    flow(meter, clock, 100, 2)
    flow(meter, clock, 300, 2)
    times, rates = zip(*meter.series(1.0), strict=True)
    assert rates == pytest.approx((100, 100, 300, 300))
    assert times == pytest.approx((1000, 1001, 1002, 1003))


def call(**changes: object) -> Call:
    values: dict[str, object] = {"kind": "code", "start": 0.0, "duration": 2.0, "tokens": 100, "ttft": 0.1}
    return Call(**(values | changes))  # type: ignore[arg-type]


def test_a_summary_keeps_kinds_and_failures_apart() -> None:
    calls = [call(), call(tokens=300), call(kind="prose", ttft=0.5), call(error="refused", tokens=0, ttft=None)]
    everything = Summary.of(calls)
    assert (everything.ok, everything.failed, everything.tokens) == (3, 1, 500)
    assert everything.ttft_median == 0.1
    assert Summary.of(calls, "code").call_tokens_per_second == 100  # median of 50 and 150
    assert Summary.of(calls, "prose").ok == 1


def test_a_summary_of_nothing_claims_nothing() -> None:
    assert Summary.of([]) == Summary(ok=0, failed=0, tokens=0, ttft_median=None, call_tokens_per_second=None)
