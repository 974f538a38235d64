"""The unit that accuracies are written in: fractions of one, or percent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np


@dataclass(frozen=True)
class Unit:
    """How an accuracy, or a difference of two, is written; the numbers themselves stay as they are, from 0 to 1.

    Attributes:
        factor: what a number is multiplied by.
        decimals: of a mean.
        described: for a sentence.
        suffix: after the label of an axis.
        difference: after a difference in a sentence.
    """

    factor: int
    decimals: int
    described: str
    suffix: str = ""
    difference: str = ""

    def text(self, value: float, sign: str = "") -> str:
        """A number; `sign` is "+" where it is a difference."""
        return f"{self.factor * value:{sign}z.{self.decimals}f}"

    def interval(self, mean: float, half_width: float) -> str:
        """A mean and half its interval's width, which is NaN for one seed."""
        text = self.text(mean)
        return text if math.isnan(half_width) else f"{text} ± {self.text(half_width)}"

    def tick(self, value: float, _: object = None) -> str:
        """A number on an axis, as short as it can be."""
        return f"{self.factor * value:.6g}"


FRACTION: Final = Unit(1, 4, "from 0 to 1")
PERCENT: Final = Unit(100, 2, "in percent", " (%)", " percentage points")


def four_digits(value: float) -> str:
    """A hyperparameter as people write it: `17470` and `0.00083`, and with an exponent only what is far from 1."""
    return np.format_float_positional(float(f"{value:.4g}"), trim="-") if 1e-4 <= abs(value) < 1e7 else f"{value:.4g}"
