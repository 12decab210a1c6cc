"""What the detectors promise, measured: false alarms on healthy traffic, delays to a fault and to a change."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gemmaspec_engine.fault import FAULT, FaultDetector, MixDetector, information

DRAFTS_PER_REQUEST = 100
REQUESTS_PER_ENGINE = 3
CONCENTRATION = 20.0


class _NeverProves(FaultDetector):
    """Without the proof of health that would end the test after a dozen drafts: the worst case."""

    WRONG_PROOF = 1e-300


@dataclass(frozen=True)
class FalseAlarms:
    """Outcome of a run over healthy clustered traffic."""

    drafts: int
    engines: int
    alarms: int
    highest_nats: float
    needed_nats: float


def false_alarms(drafts: int, *, mean: float = 0.4, seed: int = 1) -> FalseAlarms:
    """Feed at least `drafts` drafts of healthy traffic to fresh detectors that are kept from settling.

    Every engine serves three requests of 100 drafts, rates ~ Beta(20, mean): the least healthy traffic
    that counts as healthy, and the start of an engine, where the test is most exposed.
    """
    rng = np.random.default_rng(seed)
    per_engine = DRAFTS_PER_REQUEST * REQUESTS_PER_ENGINE
    engines = -(-drafts // per_engine)
    alarms, highest = 0, -np.inf
    a, b = CONCENTRATION * mean, CONCENTRATION * (1 - mean)
    needed = 0.0
    for _ in range(engines):
        detector = _NeverProves()
        needed = detector.evidence()["healthyNeeded"]
        for request in range(REQUESTS_PER_ENGINE):
            outcomes = (rng.random(DRAFTS_PER_REQUEST) < rng.beta(a, b)).tolist()
            ids = (request,)
            for hit in outcomes:
                detector.observe((hit,), ids)
                if detector.accepted == 0:
                    highest = max(highest, detector.evidence()["healthy"])
        alarms += detector.verdict == FAULT
    return FalseAlarms(engines * per_engine, engines, alarms, float(highest), needed)


def fault_delays(engines: int = 400, *, seed: int = 2) -> list[dict[str, Any]]:
    """Drafts until the verdict for broken drafters, one stream, requests of 50 drafts."""
    rng = np.random.default_rng(seed)
    rows = []
    for rate in (0.0, 0.002, 0.01, 0.02):
        delays = []
        for _ in range(engines):
            detector, drafts = FaultDetector(), 0
            while detector.verdict is None and drafts < 2000:
                detector.observe((int(rng.random() < rate),), (drafts // 50,))
                drafts += 1
            delays.append(drafts if detector.verdict == FAULT else 2000)
        delays.sort()
        rows.append({"rate": rate, "median": delays[engines // 2], "p95": delays[int(engines * 0.95)]})
    return rows


@dataclass(frozen=True)
class MixDelay:
    """Delay of the mix detector for one change, against the bound."""

    before: float
    after: float
    drafts_per_request: int
    delay: float
    bound: float
    ratio: float
    effective: float


def mix_delays(
    *, runs: int = 60, false_alarm_drafts: float = 1e6, seed: int = 3
) -> tuple[list[MixDelay], dict[str, float]]:
    """Mean delays in drafts for several changes, against Lorden's bound in requests.

    An observation is a request: the bound is ln(requests between false alarms) / information per request.
    """
    rng = np.random.default_rng(seed)
    rows = []
    cases = ((0.8, 0.5), (0.8, 0.3), (0.6, 0.3), (0.5, 0.8), (0.7, 0.4))
    for before, after in cases:
        for drafts in (10, 30, 100):
            delays = [_mix_delay(rng, before, after, drafts, false_alarm_drafts) for _ in range(runs)]
            info = information(before, after, CONCENTRATION, drafts)
            plain = drafts * _bernoulli(after, before)
            bound = np.log(false_alarm_drafts / drafts) / info * drafts
            mean = statistics.mean(delays)
            rows.append(MixDelay(before, after, drafts, mean, float(bound), float(mean / bound), info / plain))
    worst = max(row.ratio for row in rows)
    return rows, {"worstRatio": worst, "falseAlarmDrafts": false_alarm_drafts}


def _bernoulli(p: float, q: float) -> float:
    return float(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def _mix_delay(rng: np.random.Generator, before: float, after: float, drafts: int, arl: float) -> int:
    detector = MixDetector(before, concentration=CONCENTRATION, false_alarm_drafts=arl)
    count, request = 0, 0
    change = 5
    while True:
        mean = before if request < change else after
        rate = rng.beta(CONCENTRATION * mean, CONCENTRATION * (1 - mean))
        for hit in (rng.random(drafts) < rate).tolist():
            count += request >= change
            if detector.observe((hit,), (request,)):
                return count
        request += 1


def mix_false_alarms(drafts: int, *, mean: float = 0.7, arl: float = 2e4, seed: int = 4) -> dict[str, float]:
    """Mean drafts between false alarms on clustered traffic, against the promise `arl`."""
    rng = np.random.default_rng(seed)
    detector, alarms, request = MixDetector(mean, false_alarm_drafts=arl), 0, 0
    fed = 0
    while fed < drafts:
        rate = rng.beta(CONCENTRATION * mean, CONCENTRATION * (1 - mean))
        for hit in (rng.random(DRAFTS_PER_REQUEST) < rate).tolist():
            fed += 1
            if detector.observe((hit,), (request,)):
                alarms += 1
                detector = MixDetector(mean, false_alarm_drafts=arl)
        request += 1
    return {"drafts": fed, "alarms": alarms, "meanBetween": fed / max(alarms, 1), "promised": arl}


def as_rows(rows: list[MixDelay]) -> list[dict[str, Any]]:
    """The delays as JSON can hold them."""
    return [asdict(row) for row in rows]
