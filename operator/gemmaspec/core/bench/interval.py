"""Confidence intervals of a few paired measurements: Student's t, two-sided, 95 %."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

# 97.5 % quantiles of Student's t by degrees of freedom, 1 to 30 (any statistics textbook's table).
_T: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_Z: Final = 1.959964


def quantile(degrees: int) -> float:
    """The 97.5 % quantile; infinite without a degree of freedom.

    Above 30 the first term of the Cornish-Fisher expansion about the normal quantile, right to three digits.

    >>> round(quantile(4), 3), round(quantile(60), 3)
    (2.776, 2.0)
    """
    if degrees < 1:
        return math.inf
    if degrees <= len(_T):
        return _T[degrees - 1]
    return _Z + (_Z**3 + _Z) / (4 * degrees)


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of the mean's interval; None below three values: of two it is nine times their difference, which
    tells nobody anything.
    """
    if len(values) < 3:
        return None
    return quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def stratified(strata: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Mean of the strata's means, each counting alike, and half the width of its interval (None: unknown).

    What differs between strata (kinds of text) is no noise; only what differs within them is. The variances of the
    strata are pooled: two or three runs each tell too little alone.

    Raises:
        ValueError: no value at all.
    """
    full = [stratum for stratum in strata if stratum]
    if not full:
        raise ValueError("no measurement: an interval needs at least one")
    mean = statistics.fmean(statistics.fmean(stratum) for stratum in full)
    degrees = sum(len(stratum) - 1 for stratum in full)
    if not degrees:
        return mean, None
    squares = sum(sum((value - statistics.fmean(stratum)) ** 2 for value in stratum) for stratum in full)
    error = math.sqrt(squares / degrees * sum(1 / len(stratum) for stratum in full)) / len(full)
    return mean, quantile(degrees) * error
