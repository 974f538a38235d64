"""How many seeds a difference needs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from clsweep.results.power import MOST_SEEDS, POWER, deviation_interval, needed, power, seeds_needed


def naive_power(n: int, spread: float, paired: bool) -> float:
    """P(|T| > t) of T = (Z + d) / sqrt(V / f), integrated over the chi-square distribution of V."""
    degrees = n - 1 if paired else 2 * n - 2
    shift = math.sqrt(n if paired else n / 2) / spread
    bound = stats.t.ppf(0.975, degrees)

    def rejected(v: float) -> float:
        edge = bound * math.sqrt(v / degrees)
        return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)) * stats.chi2.pdf(v, degrees))

    ends = [float(stats.chi2.ppf(level, degrees)) for level in (1e-12, 0.5, 1 - 1e-12)]
    return math.fsum(integrate.quad(rejected, low, high, limit=200)[0] for low, high in itertools.pairwise(ends))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("n", "spread"), [(2, 0.3), (3, 1.0), (5, 0.7), (20, 2.0), (60, 2.5), (10, 50.0)])
def test_power_is_that_of_the_t_test(n: int, spread: float, paired: bool) -> None:
    made = power(np.array([float(n)]), np.array([spread]), paired=paired)
    assert made[0] == pytest.approx(naive_power(n, spread, paired), abs=1e-6)


def test_power_is_how_often_a_paired_t_test_rejects() -> None:
    source = np.random.default_rng(0)
    differences = source.normal(0.005, 0.006, (20_000, 14))
    rejected = np.mean(np.asarray(stats.ttest_1samp(differences, 0, axis=1).pvalue) < 0.05)
    made = power(np.array([14.0]), np.array([0.006 / 0.005]), paired=True)[0]
    assert rejected == pytest.approx(made, abs=4 * math.sqrt(0.25 / 20_000))


@pytest.mark.parametrize(
    ("effect", "paired", "expected"),  # Cohen's d; the numbers that G*Power and textbooks have
    [(0.2, True, 199), (0.5, True, 34), (0.8, True, 15), (0.2, False, 394), (0.5, False, 64), (0.8, False, 26)],
)
def test_known_sample_sizes(effect: float, paired: bool, expected: int) -> None:
    assert seeds_needed(np.array([1 / effect]), paired=paired)[0] == expected


@pytest.mark.parametrize("paired", [True, False])
def test_seeds_needed_are_the_fewest(paired: bool) -> None:
    spread = np.geomspace(0.05, 40, 60)
    made = seeds_needed(spread, paired=paired)
    assert (power(made, spread, paired=paired) >= POWER).all()
    fewer = made > 2
    assert (power(made[fewer] - 1, spread[fewer], paired=paired) < POWER).all()
    assert (np.diff(made) >= 0).all()


def test_extreme_spreads_have_an_answer() -> None:
    assert seeds_needed(np.array([1e-9, 1e12]), paired=True).tolist() == [2, MOST_SEEDS]


def test_the_deviations_interval_is_chi_square() -> None:
    low, high = deviation_interval(0.01, 4)
    expected = 0.01 * np.sqrt(4 / stats.chi2.ppf([0.975, 0.025], 4))
    assert (low, high) == pytest.approx(tuple(expected))
    source = np.random.default_rng(0)
    ends = [deviation_interval(float(source.normal(0, 0.01, 5).std(ddof=1)), 4) for _ in range(4_000)]
    assert np.mean([low <= 0.01 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.014)


def test_common_seeds_are_paired() -> None:
    first, second = {0: 0.91, 1: 0.93, 2: 0.92, 7: 0.1}, {2: 0.90, 1: 0.925, 0: 0.90, 9: 0.99}
    made = needed(first, second, 0.005)
    assert made is not None
    deviation = float(np.std([0.01, 0.005, 0.02], ddof=1))
    assert (made.paired, made.seeds) == (True, 3)
    assert made.deviation == pytest.approx(deviation)
    low, high = deviation_interval(deviation, 2)
    expected = seeds_needed(np.array([deviation, low, high]) / 0.005, paired=True)
    assert (made.needed, made.low, made.high) == tuple(expected)
    assert made.low < made.needed < made.high
    assert made.high > 10 * made.needed  # three seeds tell little


def test_other_seeds_are_two_samples_of_one_variance() -> None:
    first, second = {0: 0.91, 1: 0.93, 2: 0.92}, {10: 0.90, 11: 0.85}
    made = needed(first, second, 0.005)
    assert made is not None
    pooled = math.sqrt((2 * np.var([0.91, 0.93, 0.92], ddof=1) + np.var([0.90, 0.85], ddof=1)) / 3)
    assert (made.paired, made.seeds) == (False, 5)
    assert made.deviation == pytest.approx(pooled)
    assert made.needed == seeds_needed(np.array([pooled / 0.005]), paired=False)[0]


def test_one_common_seed_falls_back_to_two_samples() -> None:
    made = needed({0: 0.91, 1: 0.93}, {1: 0.90, 2: 0.85}, 0.005)
    assert made is not None
    assert (made.paired, made.seeds) == (False, 4)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({0: 0.5}, {0: 0.4}),
        ({}, {0: 0.4, 1: 0.5}),
        ({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5}),
        ({0: 0.5, 1: 0.5}, {3: 0.5}),
    ],
)
def test_without_a_variance_nothing_is_said(first: dict[int, float], second: dict[int, float]) -> None:
    assert needed(first, second, 0.005) is None
