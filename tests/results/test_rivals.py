"""Two methods over benchmarks, beside naive loops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from clsweep.results import rivals
from clsweep.results.rivals import Resampling, Values, compare, interquartile_mean, probability_of_improvement

SPLIT_A = {0: 0.91, 1: 0.93, 2: 0.92, 3: 0.95, 9: 0.99}
SPLIT_B = {0: 0.90, 1: 0.93, 2: 0.94, 3: 0.90}
PERM_A = {5: 0.80, 6: 0.81, 7: 0.79}
PERM_B = {15: 0.78, 16: 0.82}
FIRST = {"split": SPLIT_A, "perm": PERM_A, "cifar": {0: 0.5}}
SECOND = {"perm": PERM_B, "split": SPLIT_B, "cifar": {0: 0.4, 1: 0.3}}
COMMON = (0, 1, 2, 3)


def naive_improvement(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    shares = []
    for ours, theirs in zip(first, second, strict=True):
        won = 0.0
        for a in ours:
            for b in theirs:
                won += 1.0 if a > b else 0.5 if a == b else 0.0
        shares.append(won / (len(ours) * len(theirs)))
    return sum(shares) / len(shares)


def naive_interquartile_mean(scores: Sequence[Values]) -> float:
    """Of as many copies of each score as give every benchmark the same number of scores."""
    n = sum(map(len, scores))
    copies = [n * math.lcm(*map(len, scores)) // len(one) for one in scores]
    pooled = np.sort(np.concatenate([np.repeat(one, count) for one, count in zip(scores, copies, strict=True)]))
    cut, rest = divmod(len(pooled) * (n // 4), n)
    assert rest == 0
    return float(pooled[cut : len(pooled) - cut].mean())


def values(scores: Mapping[int, float], seeds: Sequence[int]) -> list[float]:
    return [scores[seed] for seed in seeds]


def test_the_probability_of_improvement_is_that_of_all_pairs_of_runs() -> None:
    first = [[0.9, 0.8, 0.7], [0.5, 0.6]]
    second = [[0.8, 0.7], [0.7, 0.6, 0.1, 0.6]]
    made = probability_of_improvement(*([np.array(one) for one in scores] for scores in (first, second)))
    assert made == pytest.approx(naive_improvement(first, second))
    statistic = stats.mannwhitneyu(first[0], second[0]).statistic / 6
    assert naive_improvement(first[:1], second[:1]) == pytest.approx(statistic)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 15, 30])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    scores = np.random.default_rng(n).uniform(size=(7, n))
    expected = pytest.approx(stats.trim_mean(scores, 0.25, axis=-1))
    assert interquartile_mean([scores]) == expected
    if n % 3 == 0:
        assert interquartile_mean(np.split(scores, 3, axis=-1)) == expected


def test_each_benchmark_weighs_the_same_in_the_interquartile_mean() -> None:
    draws = np.random.default_rng(0)
    scores = [draws.uniform(size=n) for n in (10, 3, 5)]
    assert interquartile_mean(scores) == pytest.approx(naive_interquartile_mean(scores))
    resamples = [np.stack([one, draws.permutation(one)]) for one in scores]
    assert interquartile_mean(resamples) == pytest.approx([naive_interquartile_mean(scores)] * 2)


def test_equal_methods_with_different_numbers_of_seeds_have_equal_interquartile_means() -> None:
    first = {"easy": dict.fromkeys(range(10), 0.9), "hard": dict.fromkeys(range(2), 0.3)}
    second = {"easy": dict.fromkeys(range(20, 22), 0.9), "hard": dict.fromkeys(range(20, 30), 0.3)}
    made = compare(first, second, Resampling(resamples=50))
    assert made is not None
    assert (made.first, made.second) == pytest.approx((0.6, 0.6))
    assert (made.difference.low, made.difference.high) == pytest.approx((0, 0))


def test_two_methods_are_compared_on_the_benchmarks_with_two_seeds_of_each() -> None:
    made = compare(FIRST, SECOND, Resampling())
    assert made is not None
    assert made.benchmarks == ("split", "perm")
    assert rivals.benchmarks(FIRST, SECOND) == ["split", "perm"]
    assert (made.paired, made.runs, made.common, made.won) == (1, (7, 6), 4, 2.5)
    ours = [values(SPLIT_A, COMMON), list(PERM_A.values())]  # seed 9 has no counterpart
    theirs = [values(SPLIT_B, COMMON), list(PERM_B.values())]
    assert made.improvement.value == pytest.approx(naive_improvement(ours, theirs))
    assert made.first == pytest.approx(naive_interquartile_mean([np.array(one) for one in ours]))
    assert made.second == pytest.approx(naive_interquartile_mean([np.array(one) for one in theirs]))
    assert made.difference.value == pytest.approx(made.first - made.second)


def test_intervals_are_percentiles_over_resamples_that_share_the_common_seeds() -> None:
    draws = Resampling(resamples=200, seed=3)
    made = compare(FIRST, SECOND, draws)
    assert made is not None
    common = draws.of("split", COMMON)
    alone, others = draws.of("perm", (5, 6, 7)), draws.of("perm", (15, 16))
    improvements, differences = [], []
    for one in range(200):
        ours = [values(SPLIT_A, [COMMON[i] for i in common[one]]), values(PERM_A, [(5, 6, 7)[i] for i in alone[one]])]
        theirs = [values(SPLIT_B, [COMMON[i] for i in common[one]]), values(PERM_B, [(15, 16)[i] for i in others[one]])]
        improvements.append(naive_improvement(ours, theirs))
        first, second = ([np.array(one) for one in scores] for scores in (ours, theirs))
        differences.append(naive_interquartile_mean(first) - naive_interquartile_mean(second))
    for interval, resampled in ((made.improvement, improvements), (made.difference, differences)):
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))


def test_every_seed_is_drawn_as_often_and_other_seeds_apart() -> None:
    draws = Resampling(resamples=4_000)
    counts = draws.counts("split", COMMON)
    assert counts.sum(1).tolist() == [4.0] * 4_000
    assert counts.mean(0) == pytest.approx([1.0] * 4, abs=5 * np.sqrt(0.75 / 4_000))
    assert counts == pytest.approx(
        np.array([[(row == i).sum() for i in range(4)] for row in draws.of("split", COMMON)])
    )
    for other in (draws.of("perm", COMMON), draws.of("split", (0, 1, 2, 4))):
        assert not np.array_equal(draws.of("split", COMMON), other)


def test_the_interval_is_that_of_scipys_paired_bootstrap() -> None:
    source = np.random.default_rng(0)
    ours = source.normal(0.9, 0.02, 12)
    theirs = ours - source.normal(0.01, 0.01, 12)
    first, second = ({"b": dict(enumerate(scores))} for scores in (ours, theirs))
    made = compare(first, second, Resampling(resamples=20_000))
    assert made is not None

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(stats.trim_mean(a, 0.25, axis=axis) - stats.trim_mean(b, 0.25, axis=axis))

    expected = stats.bootstrap(
        (ours, theirs), difference, paired=True, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = expected.high - expected.low
    assert (made.difference.low, made.difference.high) == pytest.approx(tuple(expected), abs=0.05 * width)


def test_common_seeds_that_are_drawn_together_tell_a_constant_difference_exactly() -> None:
    lower = {"b": {seed: value - 0.01 for seed, value in SPLIT_A.items()}}
    together = compare({"b": SPLIT_A}, lower, Resampling())
    apart = compare({"b": SPLIT_A}, {"b": {seed + 100: one for seed, one in lower["b"].items()}}, Resampling())
    assert together is not None
    assert apart is not None
    assert (together.difference.low, together.difference.high) == pytest.approx((0.01, 0.01))
    assert apart.difference.high - apart.difference.low > 0.03
    assert (together.won, together.common, apart.won, apart.common) == (5.0, 5, 0.0, 0)


def test_the_draws_depend_on_the_seed_and_not_on_what_was_asked_before() -> None:
    fresh, used = Resampling(), Resampling()
    compare(SECOND, {"split": SPLIT_A}, used)
    assert compare(FIRST, SECOND, fresh) == compare(FIRST, SECOND, used)
    assert compare(FIRST, SECOND, Resampling(seed=1)) != compare(FIRST, SECOND, fresh)


def test_turned_is_the_other_way_round() -> None:
    made = compare(FIRST, SECOND, Resampling())
    back = compare(SECOND, FIRST, Resampling())
    assert made is not None
    assert back is not None
    turned = made.turned()
    assert (turned.runs, turned.won, turned.common) == (back.runs, back.won, back.common)
    for mine, other in ((turned.improvement, back.improvement), (turned.difference, back.difference)):
        assert (mine.value, mine.low, mine.high) == pytest.approx((other.value, other.low, other.high))


def test_a_seed_of_each_is_too_few() -> None:
    assert compare({"b": {0: 0.9}}, {"b": {0: 0.8}}, Resampling()) is None
    assert compare({"b": {0: 0.9, 1: 0.9}}, {"b": {7: 0.8}}, Resampling()) is None
    assert compare({"b": {0: 0.9, 1: 0.9}}, {"c": {0: 0.8, 1: 0.8}}, Resampling()) is None
