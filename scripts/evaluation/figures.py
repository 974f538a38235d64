"""Figures of an experiment's runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from clsweep.published import published
from clsweep.report.plots.style import GREY, INK, LEGEND_LINE, LOOKS, Look, Plot, legend_columns, styled
from evaluation import variance as components
from evaluation.experiment import Experiment, Made, Setting
from evaluation.names import METHODS, SHIPPED

_SIZE = (4.5, 2.8)  # of a panel with its labels, in inches
_SHIPPED = "shipped file"
_SPREAD = 3  # runs
_OF_RUN = ["setting", "method", "draw", "average_accuracy"]


@styled
def over_contexts(experiment: Experiment, made: Made) -> Plot | None:
    """The mean accuracy over the contexts learned so far: a panel for each setting, a line for each method."""
    settings = [one for one in experiment.settings if len(made.of(one))]
    if not settings:
        return None
    curves = pd.concat([_curves(setting, made) for setting in settings], ignore_index=True)
    methods = [one for one in METHODS if one in set(curves["method"])]
    figure, axes = _panels(1, len(settings), _SIZE)
    for setting, plain in zip(settings, axes, strict=True):
        for method in methods:
            mine = curves[(curves["setting"] == setting.name) & (curves["method"] == method)]
            _curve(plain, mine, _look(method))
        plain.set_title(setting.title)
        plain.set_xlabel("contexts learned")
        plain.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("mean test accuracy")
    _legend(figure, [_handle(one) for one in methods])
    return Plot(
        experiment.name,
        f"{experiment.title}, accuracy over contexts",
        "Mean test accuracy over the contexts learned so far. Lines are means over seeds; bands span the lowest to the "
        "highest seed.",
        figure,
        curves,
    )


def _curves(setting: Setting, made: Made) -> pd.DataFrame:
    """A row for each run and each number of contexts learned; joint training has none."""
    runs = made.of(setting)
    sequential = runs[runs["stream"] != "joint"]
    means = made.learned(sequential).assign(method=sequential["method"])
    long = means.melt(id_vars="method", var_name="after_context", value_name="accuracy").dropna()
    return long.assign(setting=setting.name)


def _curve(plain: Axes, mine: pd.DataFrame, look: Look) -> None:
    seeds = mine.astype({"after_context": int}).groupby("after_context")["accuracy"].agg(["mean", "min", "max"])
    every = max(1, len(seeds) // 10)
    plain.plot(seeds["mean"], color=look.colour, linestyle=look.line, marker=look.marker, markevery=every)
    plain.fill_between(seeds.index, seeds["min"], seeds["max"], color=look.colour, alpha=0.2, linewidth=0)


@styled
def beside_published(experiment: Experiment, made: Made, *, benchmark: str, best: float) -> Plot | None:
    """The runs of each method as dots, its published accuracy as a line across them: a panel for each setting.

    A setting that has fewer runs of every method says nothing of their spread, and has no panel.
    """
    settings = [one for one in experiment.settings if made.of(one)["method"].value_counts().max() >= _SPREAD]
    if not settings:
        return None
    figure, axes = _panels(len(settings), 1, (5.4, 2.2), sharex=True)
    first = " ".join(experiment.settings[0].draws[0])
    for setting, plain in zip(settings, axes, strict=True):
        _dots(plain, setting, made.of(setting), published()[benchmark].accuracy | {SHIPPED: best})
        plain.set_title(setting.title if len(settings) > 1 else "")
    axes[-1].set_xlabel("average accuracy")
    handles = [
        Line2D([], [], color=INK, label="published"),
        Line2D([], [], color=GREY, marker="D", linestyle="", label=first.replace("=", " ")),
        Line2D([], [], color=GREY, marker="o", linestyle="", label="other seeds"),
    ]
    _legend(figure, handles)
    return Plot(
        experiment.name,
        f"{experiment.title}, runs beside the published accuracies",
        "Each dot is a run. The vertical line is the method's published accuracy; for the shipped file it is the best "
        "accuracy that was published for any method.",
        figure,
        pd.concat([made.of(one).assign(setting=one.name) for one in settings])[_OF_RUN],
    )


def _dots(plain: Axes, setting: Setting, runs: pd.DataFrame, theirs: Mapping[str, float]) -> None:
    first = " ".join(setting.draws[0])
    methods = _present(setting, runs)
    for row, method in enumerate(methods):
        mine = runs[runs["method"] == method]
        others, same = (mine[(mine["draw"] == first) == is_first] for is_first in (False, True))
        colour = _look(method).colour
        plain.plot(others["average_accuracy"], [row] * len(others), "o", color=colour, alpha=0.6)
        plain.plot(same["average_accuracy"], [row] * len(same), "D", color=colour, markersize=5)
        plain.plot([theirs[method]] * 2, [row - 0.35, row + 0.35], color=INK)
    plain.set_yticks(range(len(methods)), [_label(one) for one in methods])
    plain.invert_yaxis()


@styled
def errors(experiment: Experiment, made: Made) -> Plot | None:
    """The average error of each run, on a logarithmic scale, and each method's mean: a panel for each setting."""
    settings = [one for one in experiment.settings if len(made.of(one))]
    if not settings:
        return None
    most = max(len(_present(one, made.of(one))) for one in settings)
    figure, axes = _panels(1, len(settings), (4.2, 0.24 * most + 0.7))
    for setting, plain in zip(settings, axes, strict=True):
        runs = made.of(setting)
        methods = _present(setting, runs)
        for row, method in enumerate(methods):
            error = 1 - runs.loc[runs["method"] == method, "average_accuracy"]
            plain.plot(error, [row] * len(error), "o", color=_colour(method), alpha=0.4)
            plain.plot([error.mean()] * 2, [row - 0.35, row + 0.35], color=INK)
        plain.set_yticks(range(len(methods)), [_label(one) for one in methods])
        plain.invert_yaxis()
        plain.set_xscale("log")
        plain.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plain.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # matplotlib's has formulas, which aren't parsed
        plain.xaxis.set_minor_formatter(NullFormatter())
        plain.set_xlabel("average error (1 - average accuracy)")
        plain.set_title(setting.title if len(experiment.settings) > 1 else "")
    return Plot(
        experiment.name,
        f"{experiment.title}, errors",
        "Each dot is a run on a fresh seed, each line a mean. Lower error, to the left, is better. The scale is "
        "logarithmic.",
        figure,
        pd.concat([made.of(one).assign(setting=one.name) for one in settings])[_OF_RUN],
    )


def _colour(method: str) -> str:
    name = "custom" if method == SHIPPED else method
    return LOOKS[name].colour if name in LOOKS else GREY


@styled
def variance(experiment: Experiment, made: Made) -> Plot | None:
    """The accuracies by class order, those of one initialisation connected: a panel for each method."""
    setting = experiment.settings[0]
    runs = made.of(setting)
    methods = _present(setting, runs)
    if not methods:
        return None
    figure, axes = _panels(1, len(methods), _SIZE)
    for method, plain in zip(methods, axes, strict=True):
        crossed = components.table(runs[runs["method"] == method])
        crossed = crossed.loc[crossed.mean(axis=1).sort_values().index]
        places = np.arange(1, len(crossed) + 1)
        for init in crossed:
            plain.plot(places, crossed[init], color=_look(method).colour, alpha=0.4, marker="o", linewidth=0.8)
        plain.set_xticks(places, [str(order) for order in crossed.index], rotation=90)
        plain.set_title(_label(method))
        plain.set_xlabel("class order")
    axes[0].set_ylabel("average accuracy")
    return Plot(
        experiment.name,
        f"{experiment.title}, accuracies by class order",
        f"{setting.title}: each line is one initialization, over the class orders (`seed_order`) from the "
        "worst to the best. Lines that rise together show the effect of the order, gaps between them that of the "
        "initialization.",
        figure,
        runs[["method", "draw", "average_accuracy"]],
    )


def _present(setting: Setting, runs: pd.DataFrame) -> list[str]:
    """The methods that have runs, in the setting's order."""
    return [one.name for one in setting.methods if (runs["method"] == one.name).any()]


def grid_lines(axes: Axes) -> None:
    """Faint lines to read values by."""
    axes.grid(True, color=GREY, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def _panels(rows: int, columns: int, size: tuple[float, float], *, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, row by row, each of a size in inches with its labels."""
    figure = Figure(figsize=(columns * size[0], rows * size[1] + LEGEND_LINE), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex)
    for plain in axes.flat:
        grid_lines(plain)
    return figure, list(axes.flat)


def _legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Entries above the panels, in as many lines as they take; the figure grows by all but the first."""
    columns = legend_columns([str(one.get_label()) for one in handles], figure.get_figwidth())
    lines = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + (lines - 1) * LEGEND_LINE)
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, columnspacing=1.2)


def _look(method: str) -> Look:
    return LOOKS["custom" if method == SHIPPED else method]


def _label(method: str) -> str:
    """A method's name; figures have no code."""
    return _SHIPPED if method == SHIPPED else METHODS[method]


def _handle(method: str) -> Line2D:
    look = _look(method)
    return Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=_label(method))
