"""Figures of an experiment's runs."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from clsweep.published import published
from clsweep.report.plots.style import GREY, INK, LOOKS, Look, Plot, grid_lines, legend, legend_columns, panels, styled
from evaluation.experiment import Experiment, Made, Setting
from evaluation.names import METHODS, SETTINGS, SHIPPED

_SIZE = (3.1, 2.4)


@styled
def over_contexts(experiment: Experiment, made: Made) -> Plot | None:
    """The mean accuracy over the contexts learned so far: a panel for each setting, a line for each method."""
    settings = [one for one in experiment.settings if len(made.of(one))]
    if not settings:
        return None
    methods = [one.name for one in experiment.settings[0].methods]
    labels = [_label(one) for one in methods]
    columns = legend_columns(labels, _SIZE[0] * len(settings))
    lines = -(-len(methods) // columns)
    figure, axes = panels(1, len(settings), _SIZE, legend_lines=lines, titled=len(settings) > 1)
    curves = pd.concat([_curves(setting, made) for setting in settings], ignore_index=True)
    for setting, plain in zip(settings, axes[0], strict=True):
        for method in methods:
            mine = curves[(curves["setting"] == setting.name) & (curves["method"] == method)]
            _curve(plain, mine, _look(method))
        _finish(plain, setting, "contexts learned", titled=len(settings) > 1)
    axes[0, 0].set_ylabel("mean test accuracy")
    legend(figure, [_handle(one) for one in methods], columns)
    return Plot(
        experiment.name,
        f"{experiment.title}: accuracy over contexts",
        "Mean test accuracy over the contexts learned so far; lines are means over seeds, bands from the lowest to the "
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
def beside_published(experiment: Experiment, made: Made, *, best: float) -> Plot | None:
    """The runs of each method as dots, the published figure as a line across them."""
    (setting,) = experiment.settings
    runs = made.of(setting)
    if runs.empty:
        return None
    figure, axes = panels(1, 1, (4.4, 0.45 * len(setting.methods)), legend_lines=1, left=1.9)
    plain, theirs = axes[0, 0], published()[setting.name].accuracy
    first = " ".join(setting.draws[0])
    for row, method in enumerate(setting.methods):
        mine = runs[runs["method"] == method.name]
        others, same = (mine[(mine["draw"] == first) == is_first] for is_first in (False, True))
        colour = _look(method.name).colour
        plain.plot(others["average_accuracy"], [row] * len(others), "o", color=colour, alpha=0.6)
        plain.plot(same["average_accuracy"], [row] * len(same), "D", color=colour, markersize=5)
        figure_of = best if method.name == SHIPPED else theirs[method.name]
        plain.plot([figure_of] * 2, [row - 0.35, row + 0.35], color=INK)
    plain.set_yticks(range(len(setting.methods)), [_label(one.name) for one in setting.methods])
    plain.invert_yaxis()
    plain.set_xlabel("average accuracy")
    grid_lines(plain)
    handles = [
        Line2D([], [], color=INK, label="published"),
        Line2D([], [], color=GREY, marker="D", linestyle="", label=first.replace("=", " ")),
        Line2D([], [], color=GREY, marker="o", linestyle="", label="other seeds"),
    ]
    legend(figure, handles, 3)
    return Plot(
        experiment.name,
        f"{experiment.title}: runs beside the published figures",
        "Each dot is a run. Published is the method's own figure; beside the shipped file the best of all that were "
        "published for the benchmark.",
        figure,
        runs[["method", "draw", "average_accuracy"]],
    )


def _finish(plain: Axes, setting: Setting, label: str, *, titled: bool) -> None:
    if titled:
        plain.set_title(SETTINGS[setting.name])
    plain.set_xlabel(label)
    grid_lines(plain)


def _look(method: str) -> Look:
    return LOOKS["custom" if method == SHIPPED else method]


def _label(method: str) -> str:
    """As figures have it: without Markdown."""
    return METHODS[method].replace("EWC with whole Kronecker factors (`kfac_ewc`)", "kfac_ewc").replace("`", "")


def _handle(method: str) -> Line2D:
    look = _look(method)
    return Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=_label(method))
