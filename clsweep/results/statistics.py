"""Means with their uncertainty, and comparisons over common seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes a second to import

LEVEL = 0.95
_ROUNDING = 1e-12


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
    return Estimate(mean, float(_quantile(n - 1) * np.std(values, ddof=1) / np.sqrt(n)), n)


def estimates(values: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """`estimate` for each group of rows.

    Args:
        values: a row for each seed in each group.
        by: the columns that make the groups.
        column: what to average.

    Returns:
        A row for each group, in order of appearance: the columns `by`, then `mean`, `low`, `high` (of the 95 %
        interval, NaN for one seed) and `seeds`.
    """
    groups = values.groupby(list(by), sort=False, dropna=False)[column]
    made = groups.agg(["mean", "std", "count"])
    degrees = (made["count"] - 1).where(made["count"] > 1)
    half_width = _quantile(degrees.astype(float)) * made["std"] / np.sqrt(made["count"])
    table = pd.DataFrame(
        {
            "mean": made["mean"],
            "low": made["mean"] - half_width,
            "high": made["mean"] + half_width,
            "seeds": made["count"],
        }
    )
    return table.reset_index()


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods over the seeds that both were run with.

    Attributes:
        seeds: how many those are.
        difference: its mean, the first method less the second.
        low: of the difference's 95 % interval; NaN for fewer than two seeds, or where all differ by the same amount.
        high: likewise.
        p: of the two-sided paired t-test; NaN likewise.
    """

    seeds: int
    difference: float
    low: float
    high: float
    p: float


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison:
    """Compare two methods by Student's paired t-test over their common seeds.

    Args:
        first: a value for each seed.
        second: likewise.
    """
    common = sorted(first.keys() & second.keys())
    nan = math.nan
    if not common:
        return Comparison(0, nan, nan, nan, nan)
    differences = np.array([first[seed] - second[seed] for seed in common])
    mean = float(differences.mean())
    if len(common) < 2:
        return Comparison(1, mean, nan, nan, nan)
    if np.ptp(differences) < _ROUNDING:  # no variance to judge by: t would be 0/0, or infinite by coincidence
        return Comparison(len(common), mean, nan, nan, nan)
    error = float(differences.std(ddof=1)) / math.sqrt(len(common))
    half_width = float(_quantile(len(common) - 1)) * error
    p = 2 * float(special.stdtr(len(common) - 1, -abs(mean) / error))
    return Comparison(len(common), mean, mean - half_width, mean + half_width, p)


def _quantile(degrees: Any) -> Any:
    """Of Student's t at 97.5 %, for a number or an array of degrees of freedom."""
    return special.stdtrit(degrees, (1 + LEVEL) / 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several hypotheses as Holm's procedure corrects them: at most 0.05 is rejected at 5 %.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979: with m of them in
    ascending order, the corrected one at place i is the largest of (m - j + 1) p_j for j up to i, and at most 1.

    Args:
        p_values: NaN where there was nothing to test with, which stays NaN and counts as no hypothesis.

    Returns:
        A value for each, in the same order.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[place] = largest
    return corrected


def all_differ(p_values: Sequence[float]) -> bool:
    """Whether every one of several hypotheses of equality is rejected at 5 % by Holm's procedure (see `holm`).

    Args:
        p_values: NaN where there was nothing to test with, which rejects nothing.
    """
    return all(p <= 1 - LEVEL for p in holm(p_values))
