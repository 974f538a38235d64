"""Two methods over several benchmarks: probability of improvement and interquartile mean, with their uncertainty.

Agarwal, Schwarzer, Castro, Courville & Bellemare, "Deep reinforcement learning at the edge of the statistical
precipice", NeurIPS 2021, section 4. The figures are those of its package `rliable`, but with any number of seeds on
each benchmark, which all weigh the same, and with seeds that two methods share resampled together.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from clsweep.results.statistics import LEVEL

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Scores = Mapping[str, Mapping[int, float]]  # benchmark -> seed -> accuracy
RESAMPLES: Final = 2_000
_TRIMMED = 0.25  # of each end
_FEWEST_SEEDS = 2


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % percentile interval over resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rivals:
    """Two methods compared.

    Attributes:
        benchmarks: those that both were run on, with at least two seeds.
        paired: on how many of them the seeds are common ones.
        runs: how many of the first and of the second method's runs were compared.
        improvement: the probability that a run of the first method is better than one of the second.
        first: the first method's interquartile mean.
        second: the second method's.
        difference: of the interquartile means, the first less the second.
        won: with how many of the common seeds the first is better; half for a tie.
        common: how many common seeds there are, over all benchmarks.
    """

    benchmarks: tuple[str, ...]
    paired: int
    runs: tuple[int, int]
    improvement: Interval
    first: float
    second: float
    difference: Interval
    won: float
    common: int

    def turned(self) -> Rivals:
        """The same, the second method first."""
        return Rivals(
            self.benchmarks,
            self.paired,
            (self.runs[1], self.runs[0]),
            Interval(1 - self.improvement.value, 1 - self.improvement.high, 1 - self.improvement.low),
            self.second,
            self.first,
            Interval(-self.difference.value, -self.difference.high, -self.difference.low),
            self.common - self.won,
            self.common,
        )


@dataclass
class Resampling:
    """Draws of seeds with replacement, the same for all that have the same seeds on a benchmark.

    So methods with common seeds are resampled together: what a seed does to both (class order, permutations, initial
    parameters) stays common to them. Methods with other seeds are resampled separately.

    Attributes:
        resamples: how many.
        seed: of the draws, which depend on it and on the seeds' names alone, not on the order of what is asked.
    """

    resamples: int = RESAMPLES
    seed: int = 0
    _drawn: dict[tuple[str, tuple[int, ...]], Indices] = field(default_factory=dict, repr=False)
    _counts: dict[tuple[str, tuple[int, ...]], Values] = field(default_factory=dict, repr=False)
    _means: dict[tuple[object, ...], Values] = field(default_factory=dict, repr=False)

    def of(self, benchmark: str, seeds: tuple[int, ...]) -> Indices:
        """The places of the drawn seeds among `seeds`: [resamples, len(seeds)]."""
        key = (benchmark, seeds)
        if key not in self._drawn:
            source = np.random.default_rng([self.seed, zlib.crc32(repr(key).encode())])
            self._drawn[key] = source.integers(0, len(seeds), (self.resamples, len(seeds)))
        return self._drawn[key]

    def counts(self, benchmark: str, seeds: tuple[int, ...]) -> Values:
        """How often each seed was drawn: [resamples, len(seeds)]."""
        key = (benchmark, seeds)
        if key not in self._counts:
            size = len(seeds)
            places = self.of(*key) + size * np.arange(self.resamples)[:, None]
            counted = np.bincount(places.ravel(), minlength=self.resamples * size)
            self._counts[key] = counted.reshape(self.resamples, size).astype(np.float64)
        return self._counts[key]

    def interquartile_means(self, strata: Sequence[tuple[str, tuple[int, ...]]], scores: Sequence[Values]) -> Values:
        """That of each resample, [resamples]: the seeds of each stratum are drawn separately, and all scores pooled.

        Args:
            strata: a benchmark and its seeds each.
            scores: of these seeds, for each stratum.
        """
        key = (*strata, *(one.tobytes() for one in scores))
        if key not in self._means:  # a method's, which stands in many pairs
            drawn = [one[self.of(*stratum)] for stratum, one in zip(strata, scores, strict=True)]
            self._means[key] = interquartile_mean(drawn)
        return self._means[key]


def benchmarks(first: Scores, second: Scores) -> list[str]:
    """Those on which two methods can be compared: both have two seeds there."""
    return [one for one in first if one in second and _compared(first[one], second[one]) is not None]


def compare(first: Scores, second: Scores, resampling: Resampling) -> Rivals | None:
    """Compare two methods over the benchmarks that both were run on.

    On each benchmark the common seeds are compared where there are two, else all seeds of both. The intervals are those
    of the stratified percentile bootstrap: on each benchmark seeds are drawn with replacement. The benchmarks are taken
    as given, the seeds as a sample. With few seeds the intervals are too narrow.

    Args:
        first: the accuracies of a method.
        second: of another one.
        resampling: the draws.

    Returns:
        None where no benchmark has two seeds of each.
    """
    strata: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
        (benchmark, *seeds)
        for benchmark in first
        if benchmark in second and (seeds := _compared(first[benchmark], second[benchmark])) is not None
    ]
    if not strata:
        return None
    ours = [_scores(first[benchmark], seeds) for benchmark, seeds, _ in strata]
    theirs = [_scores(second[benchmark], seeds) for benchmark, _, seeds in strata]
    improvements = [
        _resampled_improvement(a, b, resampling.counts(benchmark, own), resampling.counts(benchmark, others))
        for (benchmark, own, others), a, b in zip(strata, ours, theirs, strict=True)
    ]
    means = [
        resampling.interquartile_means([(one[0], one[1]) for one in strata], ours),
        resampling.interquartile_means([(one[0], one[2]) for one in strata], theirs),
    ]
    here, there = (float(interquartile_mean(scores)) for scores in (ours, theirs))
    paired = [one[1] == one[2] for one in strata]
    wins = [_wins(a, b) for a, b, common in zip(ours, theirs, paired, strict=True) if common]
    return Rivals(
        tuple(one[0] for one in strata),
        sum(paired),
        (sum(map(len, ours)), sum(map(len, theirs))),
        _interval(probability_of_improvement(ours, theirs), np.mean(improvements, axis=0)),
        here,
        there,
        _interval(here - there, means[0] - means[1]),
        float(sum(one.sum() for one in wins)),
        sum(map(len, wins)),
    )


def probability_of_improvement(first: Sequence[Values], second: Sequence[Values]) -> float:
    """The probability that a run of the first method is better than one of the second, averaged over benchmarks.

    P(X > Y) = 1 / (N K) sum_i sum_j S(x_i, y_j) on each benchmark, with S = 1 where x_i > y_j, 1/2 where they are the
    same, else 0: the statistic of Mann & Whitney (1947) over N K (Agarwal et al. 2021, section 4.3).

    Args:
        first: the scores of its runs, for each benchmark.
        second: likewise.
    """
    return float(np.mean([_wins(a[:, None], b[None]).mean() for a, b in zip(first, second, strict=True)]))


def interquartile_mean(scores: Sequence[Values]) -> Values:
    """The mean of the middle half of the scores of all benchmarks, each of which weighs the same.

    A quarter is cut from each end, rounded down to whole scores, as SciPy's `trim_mean` and `rliable` do (Agarwal et
    al. 2021, section 4.3). A few failed seeds don't move it, as they do the mean, and it is more efficient than the
    median. Where benchmarks have as many seeds as each other, this is `trim_mean` of all scores. Elsewhere a score
    weighs one over its benchmark's seeds: otherwise the benchmark with the most seeds would decide, and two methods
    with different numbers of seeds would be compared on different mixtures of benchmarks.

    Args:
        scores: of each benchmark, [..., seeds].

    Returns:
        [...].
    """
    pooled = np.concatenate(scores, axis=-1)
    n = pooled.shape[-1]
    cut = int(_TRIMMED * n)
    if len({one.shape[-1] for one in scores}) == 1:
        middle = np.partition(pooled, (cut, n - cut - 1), axis=-1)[..., cut : n - cut]
        return np.asarray(middle.mean(-1), dtype=np.float64)  # `trim_mean` checks longer than it takes
    each = np.concatenate([np.full(one.shape[-1], 1 / (len(scores) * one.shape[-1])) for one in scores])
    order = np.argsort(pooled, axis=-1)
    weights = each[order]
    ends = np.cumsum(weights, axis=-1)
    kept = np.clip(np.minimum(ends, 1 - cut / n) - np.maximum(ends - weights, cut / n), 0, None)
    ordered = np.take_along_axis(pooled, order, axis=-1)
    return np.asarray((kept * ordered).sum(-1) / kept.sum(-1), dtype=np.float64)


def _compared(
    first: Mapping[int, float], second: Mapping[int, float]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The seeds of both that are compared: the common ones, else all; None where they are too few."""
    common = tuple(sorted(first.keys() & second.keys()))
    if len(common) >= _FEWEST_SEEDS:
        return common, common
    if min(len(first), len(second)) < _FEWEST_SEEDS:
        return None
    return tuple(sorted(first)), tuple(sorted(second))


def _scores(values: Mapping[int, float], seeds: Sequence[int]) -> Values:
    return np.array([values[seed] for seed in seeds], dtype=np.float64)


def _wins(first: Values, second: Values) -> Values:
    return np.asarray((first > second) + 0.5 * (first == second), dtype=np.float64)


def _resampled_improvement(first: Values, second: Values, drawn: Values, others: Values) -> Values:
    """P(X > Y) on one benchmark for each resample, from how often each seed was drawn: [resamples]."""
    weighted = drawn @ _wins(first[:, None], second[None])
    return np.asarray(np.einsum("ri,ri->r", weighted, others) / (first.size * second.size), dtype=np.float64)


def _interval(value: float, resampled: Values) -> Interval:
    low, high = np.percentile(resampled, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(value, float(low), float(high))
