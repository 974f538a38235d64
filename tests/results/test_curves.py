"""`clsweep.results.curves`: min-ACC and WC-ACC against the paper's definitions, written out naively."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trees import MEASURED, curve_points, write_run

from clsweep import results
from clsweep.results import metrics
from clsweep.results.curves import Point, at_end, curve_table, min_accuracy, moments, worst_case_accuracy
from clsweep.results.metrics import Cell
from clsweep.results.packed import CURVES_TABLE
from clsweep.results.packing import pack

LAST = [0.80, 0.70, 0.92]


def naive_min_accuracy(curve: list[Point], contexts: int) -> float:
    """1/(k-1) sum over i < k of min A(E_i, f_n), over the iterations n after those of task i, up to the latest."""
    total = 0.0
    for i in range(1, contexts):
        learned_at = max(point.overall_iteration for point in curve if point.training_context == i)
        lowest = math.inf
        for point in curve:
            if point.context == i and point.split == "test" and point.overall_iteration > learned_at:
                lowest = min(lowest, point.accuracy)
        total += lowest
    return total / (contexts - 1)


def naive_worst_case(curve: list[Point], contexts: int) -> float:
    """1/k A(E_k, f_t) + (1 - 1/k) min-ACC, at the latest iteration t."""
    now = max(point.overall_iteration for point in curve)
    (last,) = (
        one.accuracy
        for one in curve
        if one.overall_iteration == now and one.context == contexts and one.split == "test"
    )
    return last / contexts + (1 - 1 / contexts) * naive_min_accuracy(curve, contexts)


def matrix(last: list[float]) -> metrics.Matrix:
    made = np.full((len(last) + 1, len(last)), np.nan)
    made[-1] = last
    return made


def test_they_are_the_papers_by_hand() -> None:
    curve = curve_table("run", curve_points())
    assert min_accuracy(curve, 3) == pytest.approx((0.40 + 0.30) / 2, abs=1e-15)
    assert worst_case_accuracy(matrix(LAST), 0.35) == pytest.approx(0.92 / 3 + 2 / 3 * 0.35, abs=1e-15)


def test_they_are_the_papers_on_any_curve() -> None:
    source = np.random.default_rng(3)
    for _ in range(20):
        measured = {moment: source.random(len(old)).tolist() for moment, old in MEASURED.items()}
        held_out = {moment: source.random(len(old)).tolist() for moment, old in MEASURED.items()}
        curve = [*curve_points(measured), *curve_points(held_out, "validation")]
        lowest = min_accuracy(curve_table("run", curve), 3)
        assert lowest == pytest.approx(naive_min_accuracy(curve, 3), abs=1e-15)
        last = measured[3, 3]
        worst = worst_case_accuracy(matrix(last), lowest)
        assert worst == pytest.approx(naive_worst_case(curve, 3), abs=1e-15)
        assert worst <= metrics.average_accuracy(matrix(last)) + 1e-15


def test_what_is_not_defined_is_nan() -> None:
    single = curve_table("run", curve_points({(1, 2): [0.1], (1, 4): [0.95]}))
    assert math.isnan(min_accuracy(single, 1))
    assert worst_case_accuracy(matrix([0.95]), math.nan) == 0.95
    two_of_three = {moment: accuracies for moment, accuracies in MEASURED.items() if moment[0] < 3}
    assert math.isnan(min_accuracy(curve_table("run", curve_points(two_of_three)), 3))
    assert math.isnan(worst_case_accuracy(matrix(LAST), math.nan))


def test_the_end_of_a_context_has_points_of_the_contexts_so_far() -> None:
    cells = [Cell(2, context, "test", 0.1 * context, 50) for context in (1, 2, 3)]
    assert at_end(cells, 6, 10) == [Point(2, 6, 10, 1, "test", 0.1, 50), Point(2, 6, 10, 2, "test", 0.2, 50)]


def test_moments_are_those_of_the_iterations() -> None:
    assert [len(one) for one in moments(curve_points())] == [len(accuracies) for accuracies in MEASURED.values()]


def write(folder: Path) -> Path:
    """A finished run with a curve."""
    made = curve_points()
    lowest = min_accuracy(curve_table("", made), 3)
    return write_run(folder, curve=made, evaluate_every=2, min_accuracy=lowest)


def test_a_curve_is_read_and_packed(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "another")
    found = results.load(tmp_path / "runs")
    assert found.problems == []
    assert len(found.curves) == len(curve_points())
    read = found.curves[["training_context", "iteration", "context", "accuracy"]].to_numpy()
    assert read[3].tolist() == [2, 2, 2, 0.20]
    assert found.runs["evaluate_every"].tolist() == [pd.NA, 2]
    pack(tmp_path / "runs", tmp_path / "packed")
    again = results.load(tmp_path / "packed")
    assert again.problems == []
    places = again.curves["folder"].str.replace("packed", "runs")
    pd.testing.assert_frame_equal(again.curves.assign(folder=places), found.curves)


def test_without_a_curve_none_is_packed(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "one")
    pack(tmp_path / "runs", tmp_path / "packed")
    assert (tmp_path / "packed" / CURVES_TABLE).exists()
    write_run(tmp_path / "others" / "one")
    pack(tmp_path / "others", tmp_path / "packed")
    assert not (tmp_path / "packed" / CURVES_TABLE).exists()
    assert len(results.load(tmp_path / "packed").curves) == 0


def changed(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed(",0.4,", ",1.4,"), "accuracy=1.4; expected a number from 0 to 1"),
        (changed(",0.4,", ",0.45,"), "min_accuracy=0.35"),
        (changed(",0.4,", ",x,"), "accuracy=x; expected a number"),
        (lambda text: "\n".join([*text.splitlines()[:5], *text.splitlines()[6:], ""]), "one accuracy on each context"),
        (lambda text: "\n".join([*text.splitlines()[:9], ""]), "in each of the 3 contexts"),
        (lambda text: text[:-3], "a part of the file is missing"),
        (changed("iteration", "step"), "is not one of a clsweep run"),
    ],
)
def test_a_damaged_curve_is_named(change: Callable[[str], str], problem: str, tmp_path: Path) -> None:
    file = write(tmp_path / "run") / "curve.csv"
    file.write_text(change(file.read_text()))
    found = results.load(tmp_path)
    assert len(found.runs) == len(found.cells) == len(found.curves) == 0
    (named,) = found.problems
    assert problem in named.message


def test_a_missing_curve_is_named(tmp_path: Path) -> None:
    (write(tmp_path / "run") / "curve.csv").unlink()
    found = results.load(tmp_path)
    assert len(found.runs) == 0
    assert found.problems[0].message == "curve.csv is not beside it"


def test_of_a_stream_that_is_learned_in_part_the_learned_contexts_count(tmp_path: Path) -> None:
    file = write(tmp_path / "run") / "summary.csv"
    pd.read_csv(file).assign(contexts=5, first_contexts=3).to_csv(file, index=False)
    assert results.load(tmp_path).problems == []
