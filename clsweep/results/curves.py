"""Accuracy within the contexts: what a run with `evaluate_every` measures, and what is made of it.

The metrics are those of De Lange, van de Ven & Tuytelaars, "Continual evaluation for lifelong learning: Identifying the
stability gap", ICLR 2023, section 3 (min-ACC and WC-ACC). Whoever measures only after each context misses how far the
accuracy on earlier contexts falls while a new one is learned, if it recovers by its end: the stability gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import pandas as pd

from clsweep.results.metrics import Cell, Matrix

CURVE_FILE: Final = "curve.csv"


@dataclass(frozen=True)
class Point:
    """One accuracy that was measured while a context was learned, or right after it.

    Attributes:
        training_context: the context that was being learned, from 1.
        iteration: the optimizer steps made on it, from 1. At the last one the context has been learned: the accuracy is
            that of `accuracy.csv`.
        overall_iteration: the optimizer steps made on all contexts.
        context: the one that was measured, from 1 to `training_context`.
        split: test or validation.
        accuracy: from 0 to 1.
        n: examples.
    """

    training_context: int
    iteration: int
    overall_iteration: int
    context: int
    split: str
    accuracy: float
    n: int


POINT_COLUMNS: Final = tuple(one.name for one in fields(Point))


def at_end(cells: Sequence[Cell], iteration: int, overall_iteration: int) -> list[Point]:
    """The points of a context's end, from what was measured after it.

    Args:
        cells: of all contexts; those still to come have no points.
        iteration: the steps made on the context.
        overall_iteration: the steps made on all contexts so far.
    """
    return [
        Point(cell.after_context, iteration, overall_iteration, cell.context, cell.split, cell.accuracy, cell.n)
        for cell in cells
        if cell.context <= cell.after_context
    ]


def moments(points: Sequence[Point]) -> list[list[Point]]:
    """Points by the iteration that they were measured at, in order."""
    found: dict[int, list[Point]] = {}
    for point in points:
        found.setdefault(point.overall_iteration, []).append(point)
    return list(found.values())


def curve_table(run_id: str, points: Sequence[Point]) -> pd.DataFrame:
    """The table that `curve.csv` holds.

    Args:
        run_id: the run's.
        points: in the order of the rows.
    """
    table = pd.DataFrame([asdict(point) for point in points], columns=list(POINT_COLUMNS))
    table.insert(0, "run_id", run_id)
    return table


def min_accuracy(curve: pd.DataFrame, contexts: int) -> float:
    """The lowest accuracy on each context but the last, after it was learned: their mean, from 0 to 1.

    min-ACC = (1/(T-1)) sum_{i<T} min_n A(E_i, f_n), where n runs over the iterations that were measured after context i
    was learned, the last one included (De Lange et al., 2023, section 3). The fewer these are, the higher it is: only
    runs that were measured equally often are compared.

    Args:
        curve: of one run, with the columns of `Point`.
        contexts: the number of contexts T.

    Returns:
        NaN for a single context, or where a context wasn't measured after it was learned.
    """
    later = curve[(curve["split"] == "test") & (curve["training_context"] > curve["context"])]
    lowest = later.groupby("context")["accuracy"].min().reindex(range(1, contexts))
    return float(lowest.mean(skipna=False))


def worst_case_accuracy(matrix: Matrix, lowest: float) -> float:
    """The lowest accuracies on earlier contexts and that on the last one at the end, averaged: from 0 to 1.

    WC-ACC = (1/T) A(E_T, f) + (1 - 1/T) min-ACC, of the network f at the end (De Lange et al., 2023, section 3). The
    average accuracy is never less.

    Args:
        matrix: the accuracies after each context, [T + 1, T], see `clsweep.results.metrics`.
        lowest: min-ACC.

    Returns:
        With a single context, the accuracy on it; NaN where something needed wasn't measured.
    """
    contexts = matrix.shape[1]
    last = float(matrix[-1, -1])
    return last if contexts == 1 else last / contexts + (1 - 1 / contexts) * lowest
