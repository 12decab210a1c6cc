"""A converged resource under steady traffic costs the API server no writes."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import Any

import openai
import pytest

from gemmaspec.core import figures
from stories import Tiny
from testbed.deadline import wait_for
from tinypair.languages import prompt

SECONDS = float(os.environ.get("GEMMASPEC_QUIET_SECONDS", "600"))
"""Length of the quiet. (The gate looks for less, with engines that are fake: tests/integration/test_lifecycle.py.)"""
_WARM_SECONDS = 420.0  # the first figures may be of traffic that has just begun, and are renewed once a minute at most
_PERIOD = 1.0  # seconds from request to request
_TOKENS = 40  # of each answer

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.campaign, pytest.mark.timeout(900 + SECONDS)]


class Steady(threading.Thread):
    """A request each second, whatever the engine's speed: what the clients get does not change with the machine."""

    def __init__(self, tiny: Tiny) -> None:
        super().__init__(name="steady", daemon=True)
        self.answered = 0
        self._times: list[float] = []
        self.errors: list[str] = []
        self._client = tiny.client()
        self._stopping = threading.Event()

    def __enter__(self) -> Steady:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join(90)

    def run(self) -> None:
        begun = time.monotonic()
        for number in itertools.count():
            if self._stopping.wait(max(0.0, begun + number * _PERIOD - time.monotonic())):
                return
            try:
                self._ask(number)
                self.answered += 1
                self._times.append(time.monotonic())
            except openai.OpenAIError as error:
                self.errors.append(str(error))

    def speed(self, seconds: float = 50.0) -> float:
        """Tokens per second that were answered of late: a busy machine may not keep the pace."""
        begun = time.monotonic() - seconds
        return _TOKENS * sum(1 for answered in list(self._times) if answered >= begun) / seconds

    def _ask(self, number: int) -> None:
        self._client.completions.create(
            model="tiny",
            prompt=prompt("code", number),
            max_tokens=_TOKENS,
            temperature=0,
            extra_body={"ignore_eos": True},
        )


def test_steady_traffic_causes_no_mutating_request(tiny: Tiny) -> None:
    tiny.at_desired_k()
    audit, operator = tiny.site.own.audit, tiny.site.operator
    with Steady(tiny) as traffic:
        # The first figures of a traffic that has just begun are news, and are written.
        wait_for(
            lambda: _figures_stand(tiny.resource.status(), traffic.speed()),
            "figures of this traffic",
            _WARM_SECONDS,
            1.0,
        )
        mark, before, answered = audit.mark(), tiny.resource.read(), traffic.answered
        end = time.monotonic() + SECONDS
        wait_for(lambda: time.monotonic() >= end, "the end of the quiet", SECONDS + 60, 1.0)
        written, after = audit.mutations(mark, user=operator.user), tiny.resource.read()
    assert traffic.errors == []
    assert traffic.answered - answered >= 0.4 * SECONDS / _PERIOD, "the traffic was not steady: nothing was proved"
    assert [f"{event.stamp} {event.verb} {event.uri} {_figures(event.body)}" for event in written] == []
    assert after == before


def _figures(body: Any) -> Any:
    status = body.get("status", {}) if isinstance(body, dict) else {}
    return {name: status[name] for name in ("k", "acceptance", "throughput") if name in status} or body


def _figures_stand(status: dict[str, Any], flows: float) -> bool:
    """Whether the status tells the speed of the traffic that flows, nearly enough to be left alone (core.figures)."""
    told = status.get("throughput", {}).get("tokensPerSecond", 0.0)
    return "acceptance" in status and flows > 0 and abs(told - flows) <= 0.7 * figures.THROUGHPUT_BAND * told
