"""Figures of accuracy over iterations, within the contexts: of one run, and of a method's seeds (`evaluate_every`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clsweep.report.plots.contexts import look_at_methods
from clsweep.report.plots.style import (
    GREY,
    Plot,
    axis_labels,
    in_unit,
    legend,
    legend_columns,
    panels,
    ruled,
    shades,
    shortened,
    styled,
)
from clsweep.report.unit import FRACTION, Unit
from clsweep.results import CURVE_FILE, write_bytes
from clsweep.results.writing import ITERATIONS_FIGURE

_MOST_NAMED = 14
_MOMENT = ["training_context", "iteration", "context"]


@styled
def accuracy_over_iterations(name: str, curves: pd.DataFrame, where: str, unit: Unit = FRACTION) -> Plot:
    """Accuracy on each context over the iterations of all: a panel for each method, its seeds as thin lines.

    Args:
        name: of the files.
        curves: points of test accuracy, the columns of `clsweep.results.Point`, `method` and `folder` (of the run);
            all measured equally often.
        where: the benchmark, for the title.
        unit: of accuracies.
    """
    methods = list(dict.fromkeys(curves["method"]))
    contexts = sorted(set(curves["context"]))
    figure, axes = panels(
        len(methods), 1, (5.6, 1.5), legend_lines=_lines(contexts), titled=True, sharex=True, sharey=True
    )
    in_unit(axes[0, 0].yaxis, unit)  # all share its axes
    for method, plain in zip(methods, axes.flat, strict=True):
        _draw(plain, curves[curves["method"] == method], contexts)
        plain.set_title(shortened(method))
    look_at_methods(axes[0, 0], curves.rename(columns={"accuracy": "mean"}), curves)
    for plain in axes.flat:
        ruled(plain, below=plain is axes.flat[-1])
    _label(figure, contexts, unit)
    return Plot(
        name,
        f"Accuracy over iterations: {where}",
        "Test accuracy on each context from when its training begins, measured on the way. Thin lines are seeds, thick "
        "ones their mean; a dotted line is the end of a context. A drop where the next one begins, from which the "
        "accuracy recovers, is the stability gap: accuracy after each context alone doesn't show it. A bound may leave "
        "the frame.",
        figure,
        curves,
    )


@styled
def run_over_iterations(curve: pd.DataFrame) -> Figure:
    """Of one run: the accuracy on each context over the iterations of all.

    Args:
        curve: its points of test accuracy, the columns of `clsweep.results.Point`.
    """
    contexts = sorted(set(curve["context"]))
    figure, axes = panels(1, 1, (5.6, 2.6), legend_lines=_lines(contexts))
    _draw(axes[0, 0], curve.assign(folder=""), contexts)
    ruled(axes[0, 0])
    _label(figure, contexts)
    return figure


def draw_run(folder: Path) -> None:
    """Write `iterations.png` of one run, where it was measured within its contexts.

    Args:
        folder: the run's.

    Raises:
        OSError: the file can't be written.
    """
    if not (folder / CURVE_FILE).exists():
        return
    curve = pd.read_csv(folder / CURVE_FILE)
    tested = curve[curve["split"] == "test"]
    write_bytes(Plot("iterations", "", "", run_over_iterations(tested), tested).png(), folder / ITERATIONS_FIGURE)


def mean_over_seeds(curves: pd.DataFrame) -> pd.DataFrame:
    """The mean accuracy at each moment that every run was measured at.

    Args:
        curves: points of several runs with the same number of contexts, which may differ in length.

    Returns:
        Columns `training_context`, `iteration`, `context`, `overall_iteration` and `accuracy`, both means.
    """
    moments = curves.groupby(_MOMENT)
    means = moments[["overall_iteration", "accuracy"]].mean()
    return means[moments["folder"].nunique() == curves["folder"].nunique()].reset_index()


def _draw(plain: Axes, curves: pd.DataFrame, contexts: Sequence[int]) -> None:
    """Runs of one method into one panel."""
    several = curves["folder"].nunique() > 1
    for context, shade in zip(contexts, shades(len(contexts)), strict=True):
        mine = curves[curves["context"] == context]
        for _, run in mine.groupby("folder") if several else []:
            plain.plot(run["overall_iteration"], run["accuracy"], color=shade, linewidth=0.5, alpha=0.45)
        mean = mean_over_seeds(mine)
        plain.plot(mean["overall_iteration"], mean["accuracy"], color=shade, linewidth=1.4)
    ends = mean_over_seeds(curves).groupby("training_context")["overall_iteration"].max()
    for end in ends.iloc[:-1]:
        plain.axvline(end, color=GREY, linewidth=0.7, linestyle=":")
    plain.set_xlim(0, ends.max())


def _named(contexts: Sequence[int]) -> list[int]:
    """The places of the contexts in the legend: of many only some."""
    return list(range(0, len(contexts), -(-len(contexts) // _MOST_NAMED)))


def _columns(contexts: Sequence[int]) -> int:
    return legend_columns([_label_of(contexts[place]) for place in _named(contexts)], 5.6)


def _lines(contexts: Sequence[int]) -> int:
    return -(-len(_named(contexts)) // _columns(contexts))


def _label_of(context: int) -> str:
    return f"context {context}"


def _label(figure: Figure, contexts: Sequence[int], unit: Unit = FRACTION) -> None:
    colours = shades(len(contexts))
    handles = [Line2D([], [], color=colours[at], label=_label_of(contexts[at])) for at in _named(contexts)]
    axis_labels(figure, "iterations over all contexts", f"test accuracy{unit.suffix}")
    legend(figure, handles, _columns(contexts))
