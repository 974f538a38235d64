from __future__ import annotations

import math

import numpy as np
import pytest

from clsweep.results import metrics
from clsweep.results.metrics import Matrix

NAN = math.nan

# Rows: untrained, after context 1, 2, 3. The untrained row holds the best value of context 1: it must not count.
THREE = np.array(
    [
        [0.99, 0.20, 0.30],
        [0.90, 0.85, 0.20],
        [0.92, 0.80, 0.40],
        [0.50, 0.60, 0.95],
    ]
)
IMPROVING = np.array([[0.10, 0.10], [0.50, 0.10], [0.70, 0.90]])
SINGLE = np.array([[0.10], [0.90]])
JOINT = np.array([[0.1, 0.2, 0.3], [NAN, NAN, NAN], [NAN, NAN, NAN], [0.9, 0.8, 0.4]])


def with_gap(row: int, column: int) -> Matrix:
    matrix = THREE.copy()
    matrix[row, column] = NAN
    return matrix


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (THREE, (0.5 + 0.6 + 0.95) / 3),
        (IMPROVING, 0.8),
        (SINGLE, 0.9),
        (JOINT, 0.7),
        (with_gap(1, 0), (0.5 + 0.6 + 0.95) / 3),
        (with_gap(3, 1), NAN),
    ],
)
def test_average_accuracy_is_the_mean_of_the_last_row(matrix: Matrix, expected: float) -> None:
    assert metrics.average_accuracy(matrix) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (THREE, (0.9 + 0.8 + 0.95) / 3),
        (IMPROVING, 0.7),
        (SINGLE, 0.9),
        (JOINT, NAN),
        (with_gap(1, 1), (0.9 + 0.8 + 0.95) / 3),
        (with_gap(2, 1), NAN),
    ],
)
def test_learning_accuracy_is_the_mean_right_after_each_context(matrix: Matrix, expected: float) -> None:
    assert metrics.learning_accuracy(matrix) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (THREE, ((0.92 - 0.5) + (0.85 - 0.6)) / 2),
        (IMPROVING, -0.2),
        (SINGLE, NAN),
        (JOINT, NAN),
        (with_gap(0, 0), ((0.92 - 0.5) + (0.85 - 0.6)) / 2),
        (with_gap(1, 0), NAN),
        (with_gap(3, 0), NAN),
    ],
)
def test_forgetting_is_the_mean_drop_from_the_best_accuracy_after_learning_began(
    matrix: Matrix, expected: float
) -> None:
    assert metrics.forgetting(matrix) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (THREE, ((0.5 - 0.9) + (0.6 - 0.8)) / 2),
        (IMPROVING, 0.2),
        (SINGLE, NAN),
        (JOINT, NAN),
        (with_gap(2, 0), ((0.5 - 0.9) + (0.6 - 0.8)) / 2),
        (with_gap(2, 1), NAN),
        (with_gap(3, 0), NAN),
    ],
)
def test_backward_transfer_is_the_mean_change_since_each_context_was_learned(matrix: Matrix, expected: float) -> None:
    assert metrics.backward_transfer(matrix) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("contexts", [2, 3, 7])
def test_all_metrics_agree_with_loops_over_their_equations(contexts: int) -> None:
    a = np.random.default_rng(contexts).random((contexts + 1, contexts))
    last, earlier = contexts, range(1, contexts)
    average = sum(a[last, j - 1] for j in range(1, contexts + 1)) / contexts
    learning = sum(a[j, j - 1] for j in range(1, contexts + 1)) / contexts
    drops = [max(a[i, j - 1] for i in range(1, contexts)) - a[last, j - 1] for j in earlier]
    changes = [a[last, j - 1] - a[j, j - 1] for j in earlier]
    assert metrics.average_accuracy(a) == pytest.approx(average)
    assert metrics.learning_accuracy(a) == pytest.approx(learning)
    assert metrics.forgetting(a) == pytest.approx(sum(drops) / len(drops))
    assert metrics.backward_transfer(a) == pytest.approx(sum(changes) / len(changes))
