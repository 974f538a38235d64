"""Metrics of continual learning, pure functions of the accuracy matrix.

Throughout, T is the number of contexts and `matrix` has T + 1 rows and T columns: a_{i,j}, in row i and column j - 1,
is the accuracy on context j after learning contexts 1 to i. Row 0 is the untrained network. What was not measured is
NaN, and a metric that needs it is NaN. Joint training has row 0 and row T only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One measured accuracy; contexts are counted from 1, `after_context=0` is the untrained network."""

    after_context: int
    context: int
    split: str
    accuracy: float
    n: int


def matrix_of(after: npt.ArrayLike, context: npt.ArrayLike, accuracy: npt.ArrayLike, contexts: int) -> Matrix:
    """The matrix of measured accuracies; see the module.

    Args:
        after: after how many contexts each was measured, [N]; one that isn't from 0 to T has no place in it.
        context: on which, [N], from 1; likewise.
        accuracy: from 0 to 1, [N].
        contexts: the number of contexts T.

    Returns:
        float64 [T + 1, T], NaN where nothing was measured.
    """
    rows, columns, values = np.asarray(after, "int64"), np.asarray(context, "int64") - 1, np.asarray(accuracy)
    matrix = np.full((contexts + 1, contexts), np.nan)
    placed = (rows >= 0) & (rows <= contexts) & (columns >= 0) & (columns < contexts)
    matrix[rows[placed], columns[placed]] = values[placed]
    return matrix


def average_accuracy(matrix: Matrix) -> float:
    """Mean accuracy over all contexts after the last one, from 0 to 1.

    A = (1/T) sum_j a_{T,j} (Lopez-Paz & Ranzato, "Gradient episodic memory", NeurIPS 2017, equation 2).

    Args:
        matrix: [T + 1, T], see the module.

    Returns:
        The average, NaN where the last row is not complete.
    """
    return float(np.mean(matrix[-1]))


def learning_accuracy(matrix: Matrix) -> float:
    """Mean accuracy on each context right after it was learned, from 0 to 1.

    LA = (1/T) sum_j a_{j,j} (Riemer et al., "Learning to learn without forgetting", ICLR 2019, section 5).

    Args:
        matrix: [T + 1, T], see the module.

    Returns:
        The average, NaN where the diagonal is not complete.
    """
    return float(np.mean(np.diagonal(matrix, offset=-1)))


def forgetting(matrix: Matrix) -> float:
    """Mean drop from the best accuracy that a context ever had to its last one, from -1 to 1; lower is better.

    F = (1/(T-1)) sum_{j<T} (max_{1<=i<T} a_{i,j} - a_{T,j}) (Chaudhry et al., "Riemannian walk for incremental
    learning", ECCV 2018, section 3).

    Args:
        matrix: [T + 1, T], see the module.

    Returns:
        The average drop, NaN for a single context or an incomplete matrix.
    """
    if matrix.shape[1] < 2:
        return float("nan")
    best = np.max(matrix[1:-1, :-1], axis=0)  # NaN where any row is missing
    return float(np.mean(best - matrix[-1, :-1]))


def backward_transfer(matrix: Matrix) -> float:
    """Mean change of a context's accuracy from right after it was learned to the end, from -1 to 1.

    BWT = (1/(T-1)) sum_{j<T} (a_{T,j} - a_{j,j}) (Lopez-Paz & Ranzato, 2017, equation 3).

    Args:
        matrix: [T + 1, T], see the module.

    Returns:
        The average change, negative where contexts are forgotten; NaN for a single context or an incomplete matrix.
    """
    if matrix.shape[1] < 2:
        return float("nan")
    return float(np.mean(matrix[-1, :-1] - np.diagonal(matrix, offset=-1)[:-1]))
