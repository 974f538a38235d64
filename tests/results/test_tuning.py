"""The best of n trials, and how flat a search is, beside naive versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from clsweep.results.tuning import SHARE, Values, best_of, flat

TRIALS = [0.91, 0.55, 0.97, 0.55, 0.93, 0.2]


def plug_in(values: Values) -> Values:
    """The expected best of n draws with replacement, n = 1, ..., N."""
    size = len(values)
    n, rank = np.arange(1, size + 1)[:, None], np.arange(1, size + 1)
    return np.asarray(((rank / size) ** n - ((rank - 1) / size) ** n) @ np.sort(values))


def test_the_expected_best_is_the_mean_over_all_subsets() -> None:
    made = best_of(TRIALS)
    for n in range(1, len(TRIALS) + 1):
        naive = np.mean([max(chosen) for chosen in itertools.combinations(TRIALS, n)])
        assert made.mean[n - 1] == pytest.approx(naive, abs=1e-12)
    assert made.mean[-1] == pytest.approx(max(TRIALS))


def test_the_band_holds_its_share_of_all_draws_with_replacement() -> None:
    made = best_of(TRIALS)
    for n in range(1, 5):
        bests = np.sort([max(drawn) for drawn in itertools.product(TRIALS, repeat=n)])
        for end, level in ((made.low, (1 - SHARE) / 2), (made.high, (1 + SHARE) / 2)):
            assert (bests <= end[n - 1]).mean() >= level - 1e-9
            assert (bests < end[n - 1]).mean() < level


def test_the_expected_best_is_unbiased_where_the_plug_in_is_too_low() -> None:
    source = np.random.default_rng(0)
    drawn = source.beta(5, 1, (4_000, 8))
    truth = 5 * np.arange(1, 9) / (5 * np.arange(1, 9) + 1)  # of the largest of n, whose density is 5n x^(5n - 1)
    error = np.mean([best_of(one).mean for one in drawn], axis=0) - truth
    assert np.abs(error).max() < 4 * 0.14 / math.sqrt(len(drawn))  # a trial's standard deviation is 0.14
    assert (np.mean([plug_in(one) for one in drawn], axis=0) - truth)[1:].max() < -0.008


def test_trials_needed_are_counted_from_one() -> None:
    made = best_of([0.5, 0.9, 0.9, 0.9])
    assert list(made.mean) == pytest.approx([0.8, 0.9, 0.9, 0.9])
    assert [made.needed(within) for within in (0.0, 0.05, 0.1, 1.0)] == [2, 2, 1, 1]


def test_one_trial_is_its_own_best() -> None:
    made = best_of([0.7])
    assert (made.mean.tolist(), made.low.tolist(), made.high.tolist()) == ([0.7], [0.7], [0.7])
    assert made.needed(0.005) == 1


def test_many_trials_are_exact_enough() -> None:
    made = best_of(np.linspace(0, 1, 1_000))
    assert made.mean[-1] == pytest.approx(1, abs=1e-9)
    assert made.mean[0] == pytest.approx(0.5, abs=1e-9)
    assert (np.diff(made.mean) >= -1e-12).all()


@pytest.mark.parametrize("values", [[], [0.5, math.nan]])
def test_a_value_for_each_trial_is_expected(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected one for each trial"):
        best_of(values)


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ([0.1, 0.9, 0.904, 0.9, 0.2], (10, 1000, 3, False, False)),
        ([0.9, 0.9, 0.904, 0.9, 0.9], (1, 10_000, 5, True, True)),
        ([0.9, 0.5, 0.904, 0.9, math.nan], (100, 1000, 2, False, False)),  # a good one beyond a bad one doesn't count
        ([math.nan, math.nan, 0.5, math.nan, math.nan], (100, 100, 1, False, False)),
        ([0.1, 0.2, 0.3, 0.4, 0.9], (10_000, 10_000, 1, False, True)),
    ],
)
def test_flat_is_the_range_of_good_trials_around_the_best(
    accuracy: list[float], expected: tuple[float, float, int, bool, bool]
) -> None:
    tried = [1.0, 10.0, 100.0, 1000.0, 10_000.0]
    order = [3, 0, 4, 1, 2]
    made = flat([tried[one] for one in order], [accuracy[one] for one in order], 0.005)
    assert (made.low, made.high, made.trials, made.open_below, made.open_above) == expected
    assert made.best == tried[int(np.nanargmax(accuracy))]
    assert made.decades == pytest.approx(math.log10(made.high / made.low))


def test_a_value_is_good_where_one_of_its_trials_is() -> None:
    made = flat([1, 1, 2, 3, 3], [0.9, 0.1, 0.5, 0.1, 0.2], 0.005)
    assert (made.low, made.high, made.trials, made.open_below) == (1, 1, 1, True)


def test_flatness_needs_an_accuracy() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        flat([1.0, 2.0], [math.nan, math.nan], 0.005)
