"""Accuracy within contexts (`evaluate_every`) in the report: two metrics and a figure, of runs measured equally often.

The more often a run is measured, the lower is the lowest accuracy that is found. So under each protocol only the runs
that were measured as often as most of them have these metrics, and are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import pandas as pd

from clsweep.report.plots.iterations import accuracy_over_iterations
from clsweep.report.plots.style import Plot
from clsweep.report.unit import FRACTION, Unit

EVERY: Final = "evaluate_every"
METRICS: Final = {"min_accuracy": True, "worst_case_accuracy": True}  # more is better


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs whose metrics of accuracy within the contexts can be compared under each protocol.

    Args:
        runs: of `clsweep.report.selection.select`.

    Returns:
        The same, without these metrics where a run was measured more or less often than most under its protocol. If
        two values of `evaluate_every` are equally common, the smaller one counts.
    """
    usual = {protocol: _usual(mine[EVERY]) for protocol, mine in runs.groupby("protocol")}
    others = runs[EVERY].fillna(0) != runs["protocol"].map(usual)
    return runs.assign(**{name: runs[name].mask(others) for name in (EVERY, *METRICS)})


def _usual(every: pd.Series) -> int:
    counts = every.value_counts()
    return -1 if counts.empty else int(counts[counts == counts.max()].index.min())


def labels(table: pd.DataFrame) -> dict[str, str]:
    """What the columns are called, by metric; none where no run of a protocol has a curve.

    Args:
        table: the protocol's rows of the leaderboard.
    """
    every = table[EVERY].dropna()
    if every.empty:
        return {}
    often = f"every {int(every.iloc[0])}"
    return {"min_accuracy": f"min-ACC, {often}", "worst_case_accuracy": f"WC-ACC, {often}"}


def figures(
    slug: str, where: str, table: pd.DataFrame, runs: pd.DataFrame, curves: pd.DataFrame, unit: Unit = FRACTION
) -> Iterator[partial[Plot]]:
    """The figure of one protocol, where there are curves.

    Args:
        slug: the beginning of the file's name.
        where: the protocol's name for the title.
        table: its rows of the leaderboard; the main ones are drawn.
        runs: its runs.
        curves: of `Results`.
        unit: of accuracies.
    """
    shown = table.loc[table["main"], ["method", "setting"]].reset_index(drop=True).reset_index(names="order")
    alike = comparable(runs)
    chosen = alike[alike[EVERY].notna()].merge(shown, on=["method", "setting"])
    measured = curves[curves["split"] == "test"].merge(chosen[["folder", "method", "order"]], on="folder")
    if len(measured):
        ordered = measured.sort_values(["order", "folder", "overall_iteration"], kind="stable")
        yield partial(accuracy_over_iterations, f"{slug}-iterations", ordered.drop(columns="order"), where, unit)
