"""`clsweep.report.stability`: accuracy within the contexts in the leaderboard and as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trees import curve_points, write_run

from clsweep import results
from clsweep.report import leaderboard, stability
from clsweep.report.plots.iterations import mean_over_seeds
from clsweep.report.sections import section
from clsweep.report.selection import select
from clsweep.report.unit import FRACTION
from clsweep.results.curves import curve_table, min_accuracy


def measured(folder: Path, method: str, seed: int, every: int, shift: float = 0.0) -> None:
    """A run with a curve, whose accuracies are lower by `shift`."""
    curve = [type(one)(**{**vars(one), "accuracy": one.accuracy - shift}) for one in curve_points()]
    lowest = min_accuracy(curve_table("", curve), 3)
    name = folder / f"{method}-{seed}-{every}"
    write_run(name, seed=seed, regularizer=method, curve=curve, evaluate_every=every, min_accuracy=lowest, **WORST)


WORST = {"worst_case_accuracy": 0.5}


def test_only_what_was_measured_as_often_as_most_is_compared(tmp_path: Path) -> None:
    for seed in (0, 1):
        measured(tmp_path, "ewc", seed, 2, 0.01 * seed)
        measured(tmp_path, "si", seed, 2)
    measured(tmp_path, "mas", 0, 3)
    write_run(tmp_path / "l2", regularizer="l2")
    found = results.load(tmp_path)
    assert found.problems == []
    chosen = select(found)
    table = leaderboard.rows(chosen.runs)
    rows = table.set_index("method")
    assert rows.loc["ewc", "min_accuracy"] == pytest.approx((0.35 + 0.34) / 2)
    assert rows["min_accuracy_high"].gt(rows["min_accuracy"])["ewc"]
    assert rows.loc[["mas", "l2"], ["min_accuracy", "worst_case_accuracy", "evaluate_every"]].isna().all(axis=None)
    made = section("slug", "title", table, [], FRACTION)
    assert made.labels[3:5] == ["min-ACC, every 2", "WC-ACC, every 2"]
    shown = {row.method: [str(figure) for figure in row.figures[3:5]] for row in made.rows}
    assert shown["si"][0].startswith("0.3500 ±")
    assert shown["mas"] == shown["l2"] == ["", ""]
    (job,) = stability.figures("slug", "split_mnist", table, chosen.runs, found.curves)
    plot = job()
    assert plot.name == "slug-iterations"
    assert set(plot.data["method"]) == {"ewc", "si"}
    assert len(plot.figure.axes) == 2  # a panel for each
    lines = plot.figure.axes[0].get_lines()
    assert sum(line.get_linewidth() == 0.5 for line in lines) == 2 * 3  # seeds, in each context
    assert plot.png()


def test_without_curves_there_are_neither_columns_nor_a_figure(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    found = results.load(tmp_path)
    chosen = select(found)
    table = leaderboard.rows(chosen.runs)
    assert section("slug", "title", table, [], FRACTION).labels == [
        "average accuracy",
        "forgetting",
        "backward transfer",
        "seconds",
    ]
    assert list(stability.figures("slug", "split_mnist", table, chosen.runs, found.curves)) == []


def test_a_bound_far_below_the_methods_leaves_the_frame(tmp_path: Path) -> None:
    measured(tmp_path, "ewc", 0, 2)
    measured(tmp_path, "none", 0, 2, shift=0.095)
    found = results.load(tmp_path)
    chosen = select(found)
    (job,) = stability.figures("slug", "", leaderboard.rows(chosen.runs), chosen.runs, found.curves)
    plot = job()
    lowest = plot.data.groupby("method")["accuracy"].min()
    low, _ = plot.figure.axes[0].get_ylim()
    assert lowest["none"] < low < lowest["ewc"]


def test_the_mean_over_seeds_is_of_the_moments_that_all_have() -> None:
    first = curve_table("", curve_points()).assign(folder="a")
    second = first.assign(
        folder="b", accuracy=first["accuracy"] + 0.1, overall_iteration=first["overall_iteration"] + 2
    )
    second = second[second["iteration"] != 6]
    mean = mean_over_seeds(pd.concat([first, second]))
    kept = first[first["iteration"] != 6].sort_values(["training_context", "iteration", "context"])
    np.testing.assert_allclose(mean["accuracy"], kept["accuracy"] + 0.05, rtol=0, atol=1e-15)
    np.testing.assert_allclose(mean["overall_iteration"], kept["overall_iteration"] + 1, rtol=0, atol=1e-12)
