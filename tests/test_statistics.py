from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from clsweep.statistics import estimate


def test_an_estimate_is_the_mean_with_students_interval() -> None:
    values = [0.90, 0.92, 0.97]
    made = estimate(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert made.mean == pytest.approx(np.mean(values))
    assert made.mean - made.half_width == pytest.approx(low)
    assert made.mean + made.half_width == pytest.approx(high)
    assert math.isnan(estimate([0.9]).half_width)
