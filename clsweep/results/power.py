"""How many seeds it takes to tell two methods apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from clsweep.results.statistics import LEVEL

Values = npt.NDArray[np.float64]
POWER: Final = 0.8
MOST_SEEDS: Final = 1e6  # nobody runs more
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Needed:
    """The seeds that a t-test needs to find a difference.

    Attributes:
        paired: whether the test is the paired one over common seeds; else that of two samples with equal variance.
        seeds: how many the variance was estimated from: common ones, or those of both methods together.
        deviation: that standard deviation, of the paired differences, or of each method's accuracies.
        needed: how many of each method.
        low: the same with the standard deviation's lower 95 % limit.
        high: with its upper one.
    """

    paired: bool
    seeds: int
    deviation: float
    needed: float
    low: float
    high: float


def needed(first: Mapping[int, float], second: Mapping[int, float], difference: float) -> Needed | None:
    """How many seeds a difference would need, with the variance that was observed.

    The variance is that of the paired differences over common seeds; where there are fewer than two of these, that of
    the accuracies of both methods, pooled.

    Args:
        first: an accuracy for each seed.
        second: likewise.
        difference: to be found, more than 0.

    Returns:
        None where nothing says what the variance is.
    """
    common = sorted(first.keys() & second.keys())
    differences = np.array([first[seed] - second[seed] for seed in common])
    if len(common) > 1:
        if np.ptp(differences) < _ROUNDING:  # the same arithmetic under two names
            return None
        return _needed(True, len(common), float(differences.std(ddof=1)), len(common) - 1, difference)
    own = [np.array(list(one.values())) for one in (first, second)]
    degrees = sum(one.size - 1 for one in own)
    if min(one.size for one in own) < 1 or degrees < 1:
        return None
    variance = sum(float(((one - one.mean()) ** 2).sum()) for one in own) / degrees
    if math.sqrt(variance) < _ROUNDING:
        return None
    return _needed(False, degrees + 2, math.sqrt(variance), degrees, difference)


def _needed(paired: bool, seeds: int, deviation: float, degrees: int, difference: float) -> Needed:
    low, high = deviation_interval(deviation, degrees)
    counts = seeds_needed(np.array([deviation, low, high]) / difference, paired=paired)
    return Needed(paired, seeds, deviation, *(float(one) for one in counts))


def deviation_interval(deviation: float, degrees: int) -> tuple[float, float]:
    """The 95 % interval of a standard deviation of normal values.

    s sqrt(f / chi2_{0.975, f}) and s sqrt(f / chi2_{0.025, f}) with f degrees of freedom, since f s^2 / sigma^2 has the
    chi-square distribution with f (Casella & Berger, "Statistical Inference", 2nd ed. 2002, chapter 9).

    Args:
        deviation: as estimated.
        degrees: of freedom, at least 1.
    """
    # chdtri inverts the upper tail.
    ends = (special.chdtri(degrees, tail) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    low, high = (deviation * math.sqrt(degrees / float(end)) for end in ends)
    return low, high


def seeds_needed(spread: Values, *, paired: bool) -> Values:
    """The fewest seeds with which a two-sided t-test at 5 % finds a difference in 80 % of all experiments.

    Args:
        spread: the standard deviation over the difference: of paired differences, or of each of two samples.
        paired: which of these.

    Returns:
        At least 2; `MOST_SEEDS` where it takes as many or more.
    """
    spread = np.asarray(spread, dtype=np.float64)
    normal = special.ndtri((1 + LEVEL) / 2) + special.ndtri(POWER)
    # Of normal values with a known variance. The t-test needs a little more, never less.
    n = np.clip(np.ceil((1 if paired else 2) * (normal * spread) ** 2), 2, MOST_SEEDS)
    while True:
        short = (power(n, spread, paired=paired) < POWER) & (n < MOST_SEEDS)
        if not short.any():
            return np.asarray(n, dtype=np.float64)
        n = n + short


def power(n: Values, spread: Values, *, paired: bool) -> Values:
    """The probability that a two-sided t-test at 5 % finds a difference with n seeds.

    T has the noncentral t distribution with f degrees of freedom and noncentrality d: f = n - 1, d = sqrt(n) / spread
    for paired differences, f = 2 n - 2, d = sqrt(n / 2) / spread for two samples. The power is P(|T| > t), with t the
    97.5 % quantile of Student's t (Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2).

    Args:
        n: seeds of each method, at least 2.
        spread: the standard deviation over the difference.
        paired: whether differences are paired.
    """
    degrees = n - 1 if paired else 2 * n - 2
    noncentral = np.sqrt(n if paired else n / 2) / spread
    bound = special.stdtrit(degrees, (1 + LEVEL) / 2)
    below: Any = special.nctdtr(degrees, noncentral, -bound)  # NaN instead of numbers below 1e-100
    return np.asarray(1 - special.nctdtr(degrees, noncentral, bound) + np.nan_to_num(below), dtype=np.float64)
