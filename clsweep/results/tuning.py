"""What a search found, and how much of it was needed: the best of n trials, and the width of the best region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

Values = npt.NDArray[np.float64]
SHARE: Final = 0.8  # of searches, whose best trial lies in the band
SHARE_TEXT: Final = f"{100 * SHARE:.0f} %"


def finished_told(finished: str, pruned: int, failed: int) -> str:
    """How the trials of a search ended, as a sweep and a report say it.

    Args:
        finished: that so many are finished, pruned ones among them.
        pruned: how many were pruned.
        failed: how many failed by themselves.
    """
    return f"{finished}, {pruned} of them pruned; {failed} failed"


def not_counted_told(trials: int) -> str:
    """The trials that count as nothing, as a sweep and a report say it; `trials` is how many."""
    return f"{trials} that {'were' if trials > 1 else 'was'} interrupted, lost or doubled"


@dataclass(frozen=True)
class BestOf:
    """The best of n trials, n = 1, ..., N.

    Attributes:
        mean: [N], its expectation.
        low: [N], the lower end of the band in which it lies in `SHARE` of all searches of n trials.
        high: [N], the upper end.
    """

    mean: Values
    low: Values
    high: Values

    def needed(self, within: float) -> int:
        """How many trials bring the expected best to within a distance of the best of all."""
        return int(np.argmax(self.mean >= self.mean[-1] - within - 1e-12)) + 1


def best_of(values: Sequence[float] | Values) -> BestOf:
    """The best of n trials of a search, expected over which of the trials they are.

    The mean is unbiased: that of the largest value over all subsets of n of the N trials, with v_1 <= ... <= v_N
    sum_i v_i C(i - 1, n - 1) / C(N, n) (Tang et al., "Showing your work doesn't always work", ACL 2020). The plug-in
    estimate sum_i v_i [(i / N)^n - ((i - 1) / N)^n] (the expected maximum of Dodge, Gururangan, Card, Schwartz & Smith,
    "Show your work", EMNLP 2019) draws with replacement. It is too low for n > 1, below the best that was found even
    where n = N, and by more for few trials than methods differ by. Its smaller variance (Dodge et al., "Expected
    validation performance and estimation of a random variable's maximum", Findings of EMNLP 2021) doesn't make up for
    that where methods were tuned with different numbers of trials.

    The band is the plug-in distribution's, P(best of n <= v_i) = (i / N)^n (Dodge et al. 2019), from its 10 % to its
    90 % quantile: a spread over searches, not a confidence interval. Percentile bootstrap intervals of the mean don't
    hold their level where n is near N, as no resample is better than the best trial (Tang et al. 2020).

    Both take the trials as independent draws. Those of an adaptive sampler aren't: later ones are better on average.

    Args:
        values: the validation accuracy of each trial, at least one, no NaN.

    Raises:
        ValueError: there is no value, or one is NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not ordered.size or np.isnan(ordered).any():
        raise ValueError(f"{ordered.size} values, {np.isnan(ordered).sum()} of them NaN: expected one for each trial")
    n = np.arange(1, ordered.size + 1)
    low, high = ((1 - SHARE) / 2, (1 + SHARE) / 2)
    return BestOf(ordered @ _weights(ordered.size), _quantile(ordered, low, n), _quantile(ordered, high, n))


def _weights(size: int) -> Values:
    """C(i - 1, n - 1) / C(N, n) for i (rows) and n (columns) from 1 to N."""
    i, n = np.arange(1, size + 1)[:, None], np.arange(1, size + 1)[None]
    logarithm = _log_choose(i - 1, n - 1) - _log_choose(size, n)
    return np.asarray(np.where(i >= n, np.exp(logarithm), 0.0), dtype=np.float64)


def _log_choose(among: Any, chosen: Any) -> Any:
    """The logarithm of a binomial coefficient: minus infinity where more are to be chosen than there are."""
    below = np.maximum(among - chosen, 0)
    value = special.gammaln(among + 1) - special.gammaln(chosen + 1) - special.gammaln(below + 1)
    return np.where(chosen > among, -math.inf, value)


def _quantile(ordered: Values, level: float, n: npt.NDArray[np.int64]) -> Values:
    """The smallest of the values that the best of n is not above with at least this probability."""
    rank = np.ceil(ordered.size * level ** (1 / n) - 1e-9).astype(int)
    return np.asarray(ordered[np.clip(rank, 1, ordered.size) - 1], dtype=np.float64)


@dataclass(frozen=True)
class Flat:
    """How flat a search is around its best value.

    Attributes:
        low: the lowest value tried such that each value tried from there to the best one has a good trial.
        high: the highest, likewise.
        best: the best value.
        trials: how many good trials the range has.
        open_below: whether there is no trial below, or only good ones, so that it may reach further.
        open_above: likewise above.
    """

    low: float
    high: float
    best: float
    trials: int
    open_below: bool
    open_above: bool

    @property
    def decades(self) -> float:
        return math.log10(self.high / self.low) if self.low > 0 else math.nan


def flat(tried: Sequence[float] | Values, accuracy: Sequence[float] | Values, within: float) -> Flat:
    """The range around the best value in which every value tried has a trial within a distance of the best accuracy.

    Only values that were tried are looked at: between two of them nothing is known.

    Args:
        tried: a hyperparameter's value in each trial, at least one.
        accuracy: what each trial reached; NaN for one that was pruned, which is never good.
        within: the largest distance to the best accuracy.

    Raises:
        ValueError: no trial has an accuracy.
    """
    order = np.argsort(np.asarray(tried, dtype=np.float64), kind="stable")
    values, reached = np.asarray(tried, np.float64)[order], np.asarray(accuracy, np.float64)[order]
    if np.isnan(reached).all():
        raise ValueError("no trial has an accuracy: expected at least one")
    best = int(np.nanargmax(reached))
    good = reached >= reached[best] - within - 1e-12  # NaN isn't
    # Of several trials of one value (other hyperparameters differ) a good one is enough: the value can do it.
    distinct, place = np.unique(values, return_inverse=True)
    can = np.zeros(distinct.size, dtype=bool)
    np.logical_or.at(can, place, good)
    at = int(place[best])
    bad = np.flatnonzero(~can)
    first = int(bad[bad < at].max(initial=-1)) + 1
    last = int(bad[bad > at].min(initial=distinct.size)) - 1
    inside = (values >= distinct[first]) & (values <= distinct[last])
    return Flat(
        float(distinct[first]),
        float(distinct[last]),
        float(values[best]),
        int((inside & good).sum()),
        first == 0,
        last == distinct.size - 1,
    )
