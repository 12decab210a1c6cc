"""Traces built from published figures. What a source does not give is derived, and said so here.

Unconditional rates per position are as published; `conditional` turns them into a_j. Where only a mean
is known (a language, a workload), the published curve is moved on the logit scale until its mean accepted
length fits. Positions beyond the published ones continue the last conditional rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gemmaspec_engine.acceptance import conditional

from .trace import Segment, Trace, survival

# GB10, FP8-Dynamic, one stream: sweep of K on the 26B-A4B and K=4 on the 31B (blog "Gemma 4 MTP on GB10").
# A step time is wall time / drafts, summed over the three prompts and runs of each K.
RATES_26B = conditional((0.734, 0.523, 0.371, 0.258, 0.193, 0.152, 0.110, 0.089))
MS_26B = {0: 26.0, 1: 33.9, 2: 43.5, 4: 52.8, 8: 75.1}
RATES_31B = conditional((0.787, 0.589, 0.456, 0.346))
MS_31B = {0: 152.4, 4: 156.3}
# Forum recipe, 26B-A4B NVFP4 on GB10, eager: K=4, sequential and 8 concurrent, tok/s without / with drafter.
RATES_NVFP4 = conditional((0.85, 0.72, 0.62, 0.51))
MS_NVFP4_1 = {0: 43.1, 4: 86.4}
MS_NVFP4_8 = {0: 76.9, 4: 168.0}
# Forum post, 31B NVFP4A16-GPTQ at K=7: 11 tok/s without, 19-21 on domain text at 30 %, about 40 on Q&A and
# code, 52 on JSON; 118 at 4 concurrent. 52 tok/s at nearly 8 tokens a step gives the step time.
MS_GPTQ = {0: 91.0, 7: 150.0}
MS_GPTQ_4 = {0: 110.0, 7: 200.0}
# Forum post, 31B int4-AutoRound at K=2: 11.43 tok/s without, 22.05 with (rates of the 31B sweep assumed).
MS_AUTOROUND = {0: 87.5, 2: 107.8}
# eugr/spark-vllm-docker#343, 26B NVFP4: tok/s at concurrency 1 and 8 for K=4 and K=2; K=0 and 1 are guesses.
RATES_EUGR = conditional((0.844, 0.599, 0.385, 0.271))
MS_EUGR_1 = {0: 33.3, 1: 38.9, 2: 44.5, 4: 55.7}
MS_EUGR_8 = {0: 45.0, 1: 54.0, 2: 64.4, 4: 118.1}
# One H100, vLLM 0.26, bf16, synthetic acceptance (our own measurement), 1 and 8 streams.
MS_H100_26B = {
    1: {0: 4.89, 1: 7.35, 2: 8.84, 4: 11.17, 8: 15.74},
    8: {0: 10.53, 1: 15.41, 2: 18.15, 4: 21.66, 8: 25.93},
}
MS_H100_31B = {
    1: {0: 24.79, 1: 26.95, 2: 27.47, 4: 28.46, 8: 30.46},
    8: {0: 26.46, 1: 27.78, 2: 28.48, 4: 30.24, 8: 33.39},
}
# The tiny trained pair on a CPU, vLLM 0.32: code is its own language, prose is not; tok/s per K.
RATES_TINY_CODE = conditional((0.98, 0.96, 0.93, 0.91, 0.89, 0.80, 0.78, 0.74))
MS_TINY = {0: 8.6, 1: 11.8, 2: 13.8, 4: 17.1, 8: 19.7}


def deep(rates: Sequence[float], k_max: int) -> tuple[float, ...]:
    """Rates for k_max positions: the last published one goes on."""
    return tuple(rates[min(j, len(rates) - 1)] for j in range(k_max))


def moved(rates: Sequence[float], accepted: float) -> tuple[float, ...]:
    """The same curve, moved on the logit scale until K = len(rates) accepts `accepted` drafts on average."""
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        trial = _shift(rates, middle)
        low, high = (middle, high) if survival(trial)[-1] < accepted else (low, middle)
    return _shift(rates, (low + high) / 2)


def _shift(rates: Sequence[float], by: float) -> tuple[float, ...]:
    clipped = (min(max(a, 1e-3), 1 - 1e-3) for a in rates)
    return tuple(1 / (1 + math.exp(-math.log(a / (1 - a)) - by)) for a in clipped)


def times(known: Mapping[int, float], k_max: int) -> tuple[float, ...]:
    """Step times for K = 0..k_max: linear between the published ones, and beyond the last."""
    ks = sorted(known)
    result = []
    for k in range(k_max + 1):
        right = next((x for x in ks if x >= k), ks[-1])
        left = max((x for x in ks if x < right), default=right)
        slope = (known[right] - known[left]) / (right - left) if right != left else 0.0
        result.append(known[left] + slope * (k - left))
    return tuple(result)


def _sweep_26b() -> Trace:
    ms, base = times(MS_26B, 8), RATES_26B
    # Accepted drafts per step at K=4 from the seconds per language: 1800 tokens / (3 x seconds / 52.8 ms) - 1.
    languages = (1.66, 1.78, 2.66, 1.66)
    rates = [deep(moved(base[:4], accepted), 8) for accepted in languages]
    segments = tuple(Segment(900, a, 1, ms, request_steps=220) for a in rates)
    return Trace("26b-sweep", 8, segments, note="GB10, FP8: Japanese, English, Python, Japanese; one stream")


def _dense_31b() -> Trace:
    ms = times(MS_31B, 8)
    # 600 tokens in 36.23 s (prose) and 26.00 s (Python) at 156.3 ms a step.
    prose, code = (deep(moved(RATES_31B, accepted), 8) for accepted in (1.59, 2.61))
    segments = tuple(Segment(900, a, 1, ms, request_steps=200) for a in (prose, code, prose))
    return Trace("31b-flat", 8, segments, note="GB10, FP8: drafts are nearly free")


def _nvfp4() -> Trace:
    rates = RATES_NVFP4
    one, eight = times(MS_NVFP4_1, 4), times(MS_NVFP4_8, 4)
    segments = (
        Segment(800, deep(rates, 4), 1, one),
        Segment(800, deep(rates, 4), 8, eight),
        Segment(800, moved(rates, 1.3), 8, eight),
        Segment(800, moved(rates, 1.3), 1, one),
    )
    return Trace("26b-nvfp4", 4, segments, note="GB10, NVFP4, eager: 1 and 8 concurrent, code and prose")


def _gptq() -> Trace:
    base, ms, four = (0.8,) * 7, times(MS_GPTQ, 7), times(MS_GPTQ_4, 7)
    segments = (
        Segment(700, moved(base, 2.1), 1, ms),
        Segment(700, moved(base, 4.85), 1, ms),
        Segment(700, moved(base, 6.5), 1, ms),
        Segment(700, moved(base, 4.9), 4, four),
        Segment(700, moved(base, 2.1), 1, ms),
    )
    return Trace("31b-gptq-k7", 7, segments, note="GB10, GPTQ: domain text, Q&A, JSON, 4 concurrent, domain text")


def _autoround() -> Trace:
    ms = times(MS_AUTOROUND, 4)
    segments = (
        Segment(700, deep(RATES_31B, 4), 1, ms),
        Segment(700, moved(RATES_31B, 0.5), 1, ms),
        Segment(700, deep(RATES_31B, 4), 2, ms),
    )
    return Trace("31b-autoround", 4, segments, ks=(0, 1, 2, 4), note="GB10, int4: the grid of a four-sequence engine")


def _eugr() -> Trace:
    one, eight, rates = times(MS_EUGR_1, 4), times(MS_EUGR_8, 4), deep(RATES_EUGR, 4)
    segments = tuple(Segment(900, rates, batch, ms) for batch, ms in ((1, one), (8, eight), (1, one), (8, eight)))
    return Trace("eugr-343", 4, segments, note="GB10, NVFP4: K=2 beats the shipped K=4 at 8 concurrent")


def _h100(model: str, table: Mapping[int, Mapping[int, float]], rates: Sequence[float]) -> Trace:
    one, eight = times(table[1], 8), times(table[8], 8)
    code, prose = deep(rates, 8), deep(moved(rates[:4], 1.0), 8)
    segments = (
        Segment(800, code, 1, one, noise=0.01),
        Segment(800, code, 8, eight, noise=0.01),
        Segment(800, prose, 8, eight, noise=0.01),
        Segment(800, prose, 1, one, noise=0.01),
    )
    grid = (0, 1, 2, 4, 8)
    return Trace(f"h100-{model}", 8, segments, ks=grid, note="H100, bf16: code and prose at 1 and 8 streams")


def _tiny() -> Trace:
    ms, code = times(MS_TINY, 8), RATES_TINY_CODE
    prose = deep([0.012], 8)
    segments = tuple(
        Segment(600, a, 1, ms, concentration=None, request_steps=60, noise=0.08)
        for a in (deep(code, 8), prose, deep(code, 8), prose)
    )
    return Trace("tiny-cpu", 8, segments, ks=(0, 1, 2, 4, 8), note="CPU, the tiny pair: code and prose in turn")


def _drift() -> Trace:
    ms, high, low = times(MS_26B, 8), deep([0.88], 8), deep([0.3], 8)
    segments = (
        Segment(2000, high, 1, ms, accept_to=low),
        Segment(2000, low, 1, ms, accept_to=high),
    )
    return Trace("drift", 8, segments, note="acceptance falls from .88 to .30 and comes back, without a step")


def _swings() -> Trace:
    ms = times(MS_H100_26B[1], 8)
    segments = tuple(Segment(250, deep([a], 8), 1, ms, request_steps=50) for a in (0.9, 0.35) * 6)
    return Trace("swings", 8, segments, note="H100, 26B: the mix flips every 250 steps")


def _broken() -> Trace:
    segments = (Segment(3000, deep([0.002], 8), 1, times(MS_26B, 8), concentration=None, request_steps=60),)
    return Trace("broken", 8, segments, note="acceptance .2 % from the start (vllm#41789)")


def _short() -> Trace:
    ms = times(MS_H100_26B[8], 8)
    segments = tuple(Segment(800, deep([a], 8), 8, ms, concentration=8.0, request_steps=12) for a in (0.8, 0.5, 0.8))
    return Trace("short-requests", 8, segments, note="8 streams, twelve drafts a request, very unlike each other")


def _steep() -> Trace:
    ms = tuple(20.0 * (1 + 0.45 * k) for k in range(9))
    segments = tuple(Segment(900, deep([a], 8), 2, ms) for a in (0.9, 0.6, 0.3))
    return Trace("steep", 8, segments, note="every draft costs 45 % of a step")


def _flat() -> Trace:
    ms = tuple(50.0 * (1 + 0.008 * k) for k in range(9))
    segments = tuple(Segment(900, deep([a], 8), 2, ms) for a in (0.9, 0.5, 0.15))
    return Trace("flat", 8, segments, note="a draft costs 0.8 % of a step")


def _concurrency() -> Trace:
    one, eight = times(MS_H100_26B[1], 8), times(MS_H100_26B[8], 8)
    rates = deep(RATES_26B[:4], 8)
    segments = (
        Segment(1000, rates, 1, one, batch_to=4, growth=0.09),
        Segment(1000, rates, 8, eight, batch_to=12, growth=0.03),
        Segment(1000, rates, 1, one, batch_to=3, growth=0.09),
    )
    return Trace(
        "concurrency", 8, segments, outliers=0.004, missing=0.05, note="batch sizes wander, prefills in between"
    )


def public_traces() -> list[Trace]:
    """All of them, in the order of the table."""
    return [
        _sweep_26b(),
        _dense_31b(),
        _nvfp4(),
        _gptq(),
        _autoround(),
        _eugr(),
        _h100("26b", MS_H100_26B, RATES_26B),
        _h100("31b", MS_H100_31B, RATES_26B),
        _tiny(),
        _drift(),
        _swings(),
        _broken(),
        _short(),
        _steep(),
        _flat(),
        _concurrency(),
    ]
