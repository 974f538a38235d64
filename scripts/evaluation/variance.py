"""How much of the spread between runs comes from the order of the classes, and how much from the initialization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chi2

SOURCES: Final = ("class order", "initialization", "remainder")
_DRAWS: Final = 4000
_ENDS: Final = (2.5, 97.5)
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """What was found.

    Attributes:
        values: of the runs.
        shares: of each of `SOURCES`, as text.
    """

    values: Values
    shares: tuple[str, str, str]

    def told(self) -> list[str]:
        """As the cells of a row: runs, mean, standard deviation, and the share of each source."""
        return [str(self.values.size), f"{self.values.mean():.4f}", f"{self.values.std(ddof=1):.4f}", *self.shares]


def of(runs: pd.DataFrame) -> Components | None:
    """The components of a method's runs.

    Args:
        runs: with `seed_order`, `seed_init` in `draw`, and `average_accuracy`.

    Returns:
        None where too few are there. Of all orders crossed with all initial parameters, the shares of an analysis of
        variance, of the largest square of runs that is complete; of orders with one initialisation and the other way
        round, their standard deviations.
    """
    if runs.empty:
        return None
    crossed = table(runs)
    square = largest_square(crossed)
    if square is not None:
        return Components(square, _shares(square))
    orders, inits = crossed.iloc[:, 0].dropna(), crossed.iloc[0].dropna()
    if min(len(orders), len(inits)) < 3:
        return None
    values: Values = np.concatenate([orders.to_numpy(), inits.to_numpy()[1:]])
    return Components(values, (_deviation(orders), _deviation(inits), ""))


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """The average accuracies, a row for each class order, a column for each initialisation."""
    seeds = runs["draw"].str.extract(r"seed_order=(?P<order>\d+) seed_init=(?P<init>\d+)").astype(int)
    return runs.assign(**seeds).pivot(index="order", columns="init", values="average_accuracy")


def largest_square(crossed: pd.DataFrame) -> Values | None:
    """The first k orders with the first k initialisations, k as large as possible; None below three."""
    for k in range(min(crossed.shape), 2, -1):
        square = crossed.iloc[:k, :k].to_numpy()
        if not np.isnan(square).any():
            return np.asarray(square, dtype=np.float64)
    return None


def two_way(values: Values) -> Values:
    """Variance components of a two-way layout without replication, rows and columns random.

    With one value in each cell the interaction is part of the remainder. The estimates are those of the analysis of
    variance (Searle, Casella & McCulloch, "Variance Components", 1992, chapter 4), negative ones taken for 0.

    Args:
        values: [rows, columns].

    Returns:
        [3]: of rows, columns and the remainder.
    """
    rows, columns = values.shape
    mean = values.mean()
    of_rows, of_columns = values.mean(1, keepdims=True) - mean, values.mean(0, keepdims=True) - mean
    remainder = ((values - mean - of_rows - of_columns) ** 2).sum() / ((rows - 1) * (columns - 1))
    between_rows = columns * (of_rows**2).sum() / (rows - 1)
    between_columns = rows * (of_columns**2).sum() / (columns - 1)
    found = [(between_rows - remainder) / columns, (between_columns - remainder) / rows, remainder]
    return np.asarray(np.maximum(found, 0), dtype=np.float64)


def intervals(values: Values, seed: int = 0) -> Values:
    """95 % intervals of the components' shares by a parametric bootstrap.

    Layouts of normal effects with the estimated components are drawn, and their shares estimated in the same way.

    Args:
        values: [rows, columns].
        seed: of the draws.

    Returns:
        [3, 2]: the ends.
    """
    rows, columns = values.shape
    deviations = np.sqrt(two_way(values))
    source = np.random.default_rng(seed)
    shares = []
    for _ in range(_DRAWS):
        sizes = ((rows, 1), (1, columns), (rows, columns))
        drawn = sum(one * source.standard_normal(size) for one, size in zip(deviations, sizes, strict=True))
        found = two_way(np.asarray(drawn))
        shares.append(found / found.sum())
    ends: Values = np.percentile(np.array(shares), _ENDS, axis=0).T
    return ends


def _shares(values: Values) -> tuple[str, str, str]:
    found = two_way(values)
    if not found.sum():
        return "", "", ""
    first, second, third = (
        f"{share:.0%} ({low:.0%} to {high:.0%})"
        for share, (low, high) in zip(found / found.sum(), intervals(values), strict=True)
    )
    return first, second, third


def _deviation(values: pd.Series[float]) -> str:
    """A standard deviation with its 95 % interval, of normal values."""
    deviation, degrees = float(values.std(ddof=1)), len(values) - 1
    low, high = (deviation * float(np.sqrt(degrees / chi2.ppf(end / 100, degrees))) for end in reversed(_ENDS))
    return f"standard deviation {deviation:.4f} ({low:.4f} to {high:.4f}; {len(values)} runs)"
