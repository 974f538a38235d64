from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clsweep.results.statistics import all_differ, compare, estimate, estimates, holm


def test_an_estimate_is_the_mean_with_students_interval() -> None:
    values = [0.90, 0.92, 0.97]
    made = estimate(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert made.mean == pytest.approx(np.mean(values))
    assert made.mean - made.half_width == pytest.approx(low)
    assert made.mean + made.half_width == pytest.approx(high)
    assert math.isnan(estimate([0.9]).half_width)


def test_estimates_are_an_estimate_for_each_group() -> None:
    values = pd.DataFrame({"method": ["b", "a", "b", "a", "c"], "x": [0.5, 0.9, 0.7, 0.8, 0.1]})
    made = estimates(values, ["method"], "x")
    assert list(made["method"]) == ["b", "a", "c"]
    for row in made.to_dict("records"):
        mine = list(values[values["method"] == row["method"]]["x"])
        expected = estimate(mine)
        assert row["mean"] == pytest.approx(expected.mean)
        assert row["seeds"] == len(mine)
        assert row["high"] - row["mean"] == pytest.approx(expected.half_width, nan_ok=True)
        assert row["mean"] - row["low"] == pytest.approx(expected.half_width, nan_ok=True)


def test_a_comparison_is_the_paired_t_test_over_common_seeds() -> None:
    first = {0: 0.91, 1: 0.93, 2: 0.92, 7: 0.1}
    second = {2: 0.90, 1: 0.925, 0: 0.90, 9: 0.99}
    made = compare(first, second)
    test = stats.ttest_rel([0.91, 0.93, 0.92], [0.90, 0.925, 0.90])
    interval = test.confidence_interval(0.95)
    assert made.seeds == 3
    assert made.difference == pytest.approx(np.mean([0.01, 0.005, 0.02]))
    assert (made.low, made.high, made.p) == pytest.approx((interval.low, interval.high, test.pvalue))


def test_without_enough_common_seeds_there_is_nothing_to_tell() -> None:
    assert compare({0: 0.5}, {1: 0.5}).seeds == 0
    one = compare({0: 0.5}, {0: 0.25})
    assert (one.seeds, one.difference) == (1, 0.25)
    assert math.isnan(one.low)
    assert math.isnan(one.p)


@pytest.mark.parametrize("difference", [0.0, 0.25])
def test_seeds_that_agree_entirely_prove_nothing(difference: float) -> None:
    made = compare({0: 0.5, 1: 0.75}, {0: 0.5 - difference, 1: 0.75 - difference})
    assert (made.seeds, made.difference) == (2, difference)
    assert all(math.isnan(one) for one in (made.low, made.high, made.p))


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.049], True),
        ([0.051], False),
        ([0.024, 0.049], True),  # 0.05 / 2, then 0.05 / 1
        ([0.026, 0.03], False),
        ([0.01, 0.02, 0.049], True),
        ([0.01, 0.026, 0.04], False),
        ([0.001, math.nan], False),
    ],
)
def test_all_differ_by_holms_procedure(p_values: list[float], expected: bool) -> None:
    assert all_differ(p_values) is expected


def test_holms_corrected_values_are_the_largest_so_far_times_those_left() -> None:
    assert holm([0.03, 0.01, math.nan, 0.02]) == pytest.approx([0.04, 0.03, math.nan, 0.04], nan_ok=True)
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
