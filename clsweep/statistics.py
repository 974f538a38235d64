"""Means with their uncertainty, and comparisons over common seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: over the seeds.
        half_width: of the 95 % interval from Student's t; NaN for a single seed.
        n: the number of seeds.
    """

    mean: float
    half_width: float
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of a few values with its 95 % interval.

    The interval is Student's t ("The probable error of a mean", Biometrika 1908): mean ± t_{0.975, n-1} s / sqrt(n).

    Args:
        values: at least one.
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return Estimate(mean, float("nan"), n)
    return Estimate(mean, float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)), n)
