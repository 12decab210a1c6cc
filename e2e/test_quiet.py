"""A converged resource under steady traffic costs the API server no writes."""

from __future__ import annotations

import os
import time

import pytest

from stories import Tiny
from testbed.deadline import wait_for

SECONDS = float(os.environ.get("GEMMASPEC_QUIET_SECONDS", "60"))
"""Length of the quiet; the requirement speaks of 600, the gate takes 60."""
_WARM_SECONDS = 180.0

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900 + SECONDS)]


def test_steady_traffic_causes_no_mutating_request(tiny: Tiny) -> None:
    tiny.at_desired_k()
    audit, operator = tiny.site.own.audit, tiny.site.operator
    traffic = tiny.traffic(1.0, streams=2)
    with traffic.background():
        # The first figures of a traffic that has just begun are news, and are written.
        wait_for(lambda: _figures_stand(tiny, traffic.rate(20)), "figures of this traffic", _WARM_SECONDS, 1.0)
        mark, before = audit.mark(), tiny.resource.read()
        end = time.monotonic() + SECONDS
        wait_for(lambda: time.monotonic() >= end, "the end of the quiet", SECONDS + 60, 1.0)
        written, after = audit.mutations(mark, user=operator.user), tiny.resource.read()
        assert traffic.rate(SECONDS) > 0, "no traffic flowed: nothing was proved"
    assert [f"{event.stamp} {event.verb} {event.uri}: {event.body}" for event in written] == []
    assert after == before


def _figures_stand(tiny: Tiny, rate: float) -> bool:
    """Whether the status tells the speed of the traffic that flows, nearly enough to be left alone."""
    status = tiny.resource.status()
    told = status.get("throughput", {}).get("tokensPerSecond", 0.0)
    return "acceptance" in status and rate > 0 and abs(told - rate) <= 0.25 * rate
