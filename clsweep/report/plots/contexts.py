"""Figures of accuracy over contexts: of methods beside each other, and of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clsweep.report.plots.style import (
    HEAT,
    INK,
    MARGINS,
    WIDTH,
    Look,
    Plot,
    axis_labels,
    in_unit,
    legend,
    legend_columns,
    panel_width,
    panels,
    ruled,
    shades,
    shortened,
    styled,
)
from clsweep.report.unit import FRACTION, PERCENT, Unit
from clsweep.results import ACCURACY_FILE, write_bytes
from clsweep.results.writing import CURVES_FIGURE, MATRIX_FIGURE

_PANELS_A_ROW = 5
_MOST_PANELS = 10
_MOST_TICKS = 14
_MOST_ANNOTATED = 1000  # numbers in a figure: more take longer than all else, and nobody reads them
_MOST_SINGLES, _MOST_SINGLES_OF_A_SMALL = 40, 12  # lines of single seeds in a panel: among more, nothing can be seen
_MOST_MARKERS = 12
_FARTHEST = 1.25  # how far an interval may reach outside of all seeds, relative to what these span
_SMALLEST, _LARGEST = 6.0, 8.0  # of numbers in a cell, in points: smaller ones can't be read in print
_DIGIT = 0.64  # a digit's width by the size of its font, in DejaVu Sans
JOINT = "joint"
BOUNDS = ("none", JOINT)


@styled
def accuracy_curves(
    name: str,
    curves: pd.DataFrame,
    seeds: pd.DataFrame,
    where: str,
    looks: Mapping[str, Look],
    unit: Unit = FRACTION,
) -> Plot:
    """Mean accuracy over the contexts learned so far, and what is left of it at the end.

    Args:
        name: of the files.
        curves: columns `method`, `after_context` (from 1), `mean`, `low`, `high` (of the 95 % interval, NaN for one
            seed) and `seeds`. Joint training has its last context only: a horizontal line.
        seeds: the same of each single run: columns `method`, `folder`, `after_context` and `accuracy`.
        where: the benchmark, for the title.
        looks: of the methods.
        unit: of accuracies.
    """
    methods = list(dict.fromkeys(curves["method"]))
    last = int(curves["after_context"].max())
    figure, left, right = _curves_and_ends(methods)
    for method in methods:
        mine = curves[curves["method"] == method]
        if method == JOINT:
            mine = mine.loc[mine.index.repeat(2)].assign(after_context=[1, last])
        _line(left, mine, looks[method])
    singles = _singles(left, seeds[seeds["method"] != JOINT], looks, _MOST_SINGLES)
    in_unit(left.yaxis, unit)
    _over_contexts(left, last, ticks=10)
    look_at_methods(left, curves, singles)
    ruled(left, label="contexts learned")
    ends = curves[curves["after_context"] == last]
    _ends(right, ends.set_index("method"), seeds[seeds["after_context"] == last], looks, unit)
    ruled(right, label=f"after the last context{unit.suffix}", rows=True)
    axis_labels(figure, left=f"mean test accuracy{unit.suffix}")
    return Plot(
        name,
        f"Accuracy over contexts: {where}",
        "Left: mean test accuracy over the contexts learned so far; lines with markers are means over seeds, thin "
        "lines single seeds where they are few. Right: the same after the last context; bars are 95 % intervals "
        "(Student's t), rings single seeds. Joint training sees all contexts at once. A bound, or an interval of two "
        "seeds, may leave the frame; a number at its edge is a mean that does.",
        figure,
        curves,
    )


def _curves_and_ends(methods: Sequence[str]) -> tuple[Figure, Axes, Axes]:
    """A panel for curves, and one with a row for each method; the names between the two are the legend of both."""
    names = 0.3 + 0.075 * max(len(shortened(method)) for method in methods)
    inside = WIDTH - MARGINS["left"] - 2 * MARGINS["right"] - names  # twice: the last tick's label is long
    height = max(2.4, 0.19 * len(methods))
    whole = height + MARGINS["top"] + MARGINS["bottom"]
    figure = Figure(figsize=(WIDTH, whole))
    width = 0.58 * inside
    begin = MARGINS["left"] + width + names
    bottom, tall = MARGINS["bottom"] / whole, height / whole
    left = figure.add_axes((MARGINS["left"] / WIDTH, bottom, width / WIDTH, tall))
    right = figure.add_axes((begin / WIDTH, bottom, (inside - width) / WIDTH, tall))
    return figure, left, right


def _ends(axes: Axes, ends: pd.DataFrame, seeds: pd.DataFrame, looks: Mapping[str, Look], unit: Unit) -> None:
    """A row for each method: its mean, its interval as a bar, and its seeds.

    Args:
        axes: where to draw.
        ends: of `accuracy_curves`, a row for each method, by its name.
        seeds: of `accuracy_curves`, after the last context.
        looks: of the methods.
        unit: of accuracies.
    """
    low, high = _range_of_ends(ends, seeds)
    axes.set_xlim(low, high)
    axes.set_ylim(len(ends) - 0.4, -0.6)
    for row, (method, end) in enumerate(ends.iterrows()):
        look = looks[str(method)]
        mine = seeds.loc[seeds["method"] == method, "accuracy"]
        if len(mine) > 1:
            axes.scatter(mine, [row] * len(mine), s=9, facecolors="none", edgecolors=look.colour, linewidths=0.6)
        axes.plot([end["low"], end["high"]], [row, row], color=look.colour, linewidth=1.4, solid_capstyle="butt")
        shown = min(max(end["mean"], low), high)
        axes.plot([shown], [row], color=look.colour, marker=look.marker, markersize=5, clip_on=False)
        if shown != end["mean"]:
            side = 1 if shown == low else -1
            axes.annotate(
                unit.text(end["mean"]),
                (shown, row),
                (6 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=7,
            )
    axes.set_yticks(range(len(ends)), [shortened(str(method)) for method in ends.index])
    axes.xaxis.set_major_locator(MaxNLocator(3))
    in_unit(axes.xaxis, unit)


def _range_of_ends(ends: pd.DataFrame, seeds: pd.DataFrame) -> tuple[float, float]:
    """From the lowest seed of a method to the highest, with the highest mean of a bound, and with the intervals.

    Intervals reach at most `_FARTHEST` times as far outside as all of that spans. One of three seeds never gets there:
    of 0, 0 and 1 it begins at 1/3 - 4.30 sd / sqrt(3) = -1.10, and of no other three further out. One of two does, and
    would leave nothing to be seen of the rest.
    """
    is_bound = ends.index.isin(BOUNDS)
    methods = ends[~is_bound] if (~is_bound).any() else ends
    singles = seeds.loc[seeds["method"].isin(methods.index), "accuracy"]
    lowest = min(methods["mean"].min(), singles.min())
    highest = max(ends["mean"].max(), singles.max())
    farthest = _FARTHEST * max(highest - lowest, 0.002)
    low = max(min([lowest, *methods["low"].dropna()]), lowest - farthest)
    high = min(max([highest, *methods["high"].dropna()]), highest + farthest)
    margin = 0.04 * (high - low) if high > low else 0.01
    return low - margin, high + margin


@styled
def forgetting_curves(
    name: str,
    curves: pd.DataFrame,
    seeds: pd.DataFrame,
    where: str,
    looks: Mapping[str, Look],
    unit: Unit = FRACTION,
) -> Plot:
    """What becomes of the accuracy on each context while the later ones are learned: a panel for each context.

    Of many contexts, ten are drawn, from the first to the last; the data has all of them.

    Args:
        name: of the files.
        curves: columns `method`, `context`, `after_context` (from the context on), `mean`, `low`, `high`, `seeds`.
        seeds: the same of each single run: columns `method`, `folder`, `context`, `after_context` and `accuracy`.
        where: the benchmark, for the title.
        looks: of the methods.
        unit: of accuracies.
    """
    methods = list(dict.fromkeys(curves["method"]))
    every = sorted(set(curves["context"]))
    contexts = _spread(every, _MOST_PANELS)
    columns = min(_PANELS_A_ROW, len(contexts))
    rows = math.ceil(len(contexts) / columns)
    beside = legend_columns(methods, WIDTH - MARGINS["left"])
    lines = math.ceil(len(methods) / beside)
    size = (panel_width(columns, most=2.2), 1.25)
    figure, axes = panels(rows, columns, size, legend_lines=lines, titled=True, sharex=True, sharey=True)
    by_panel = dict(list(curves.groupby(["context", "method"])))
    singles: list[pd.DataFrame] = []
    for context, plain in zip(contexts, axes.flat, strict=False):
        for method in methods:
            if (context, method) in by_panel:
                _line(plain, by_panel[context, method], looks[method], small=True)
        singles.append(_singles(plain, seeds[seeds["context"] == context], looks, _MOST_SINGLES_OF_A_SMALL))
        plain.set_title(f"context {context}")
    first = axes[0, 0]  # all share its axes
    _over_contexts(first, int(curves["after_context"].max()), ticks=3)
    first.yaxis.set_major_locator(MaxNLocator(4))
    in_unit(first.yaxis, unit)
    look_at_methods(first, curves, pd.concat(singles))
    for place, plain in enumerate(axes.flat):
        if place < len(contexts):
            ruled(plain, below=place + columns >= len(contexts), left=place % columns == 0)
        else:
            plain.remove()
    axis_labels(figure, "contexts learned", f"test accuracy{unit.suffix}")
    legend(figure, _handles(methods, looks), beside)
    some = f" {len(contexts)} of {len(every)} contexts are drawn." if len(contexts) < len(every) else ""
    return Plot(
        name,
        f"Forgetting: {where}",
        "Test accuracy on each context, from when it was learned to the end; lines with markers are means over seeds, "
        f"thin lines single seeds where they are few; a bound may leave the frame.{some}",
        figure,
        curves,
    )


def _spread(contexts: Sequence[int], most: int) -> list[int]:
    """At most `most` of the contexts, evenly spread, with the first and the last."""
    if len(contexts) <= most:
        return list(contexts)
    return [contexts[int(place)] for place in np.linspace(0, len(contexts) - 1, most).round()]


@styled
def matrices(name: str, cells: pd.DataFrame, where: str) -> Plot:
    """The accuracy matrix of each method as a heat map.

    Args:
        name: of the files.
        cells: columns `method`, `after_context`, `context` and `mean`.
        where: the benchmark, for the title.
    """
    methods = list(dict.fromkeys(cells["method"]))
    learned = cells[cells["context"] <= cells["after_context"]]
    contexts = int(learned["context"].max())
    across = 4 if contexts <= _PANELS_A_ROW else 3  # more contexts need larger panels for numbers to be read
    columns = min(across, len(methods))
    rows = math.ceil(len(methods) / columns)
    side = panel_width(across)
    figure, axes = panels(rows, columns, (side, side), titled=True)
    scale = Normalize(float(learned["mean"].min()), float(learned["mean"].max()))
    annotated = len(learned) <= _MOST_ANNOTATED
    fontsize = _fitting(learned["mean"], side / contexts, _decimals(contexts)) if annotated else 0.0
    for method, plain in zip(methods, axes.flat, strict=False):
        left, bottom = plain in axes[:, 0], plain in axes.flat[max(0, len(methods) - columns) : len(methods)]
        table = _pivoted(learned[learned["method"] == method])
        _heat_map(plain, table, scale, fontsize, (left, bottom))
        plain.set_title(shortened(method) if len(method) <= 20 else f"{method[:19]}…")
    for plain in axes.flat[len(methods) :]:
        plain.remove()
    if not fontsize:
        _colour_bar(figure, axes, scale)
    axis_labels(figure, "context", "contexts learned")
    return Plot(
        name,
        f"Accuracy matrices: {where}",
        "Test accuracy on each context (column) after each context that was learned (row), in percent; means over "
        "seeds. One scale of colours for all methods.",
        figure,
        cells,
    )


@styled
def run_curves(cells: pd.DataFrame) -> Figure:
    """Of one run: the accuracy on each context while later ones are learned, and the mean of those learned.

    Args:
        cells: its test cells, columns `after_context`, `context`, `accuracy`.
    """
    figure, axes = panels(1, 1, (4.4, 2.6), titled=True)
    plain = axes[0, 0]
    learned = cells[(cells["context"] <= cells["after_context"])]
    contexts = sorted(set(learned["context"]))
    for context, shade in zip(contexts, shades(len(contexts)), strict=True):
        mine = learned[learned["context"] == context]
        plain.plot(mine["after_context"], mine["accuracy"], color=shade, marker="o", alpha=0.8, linewidth=1)
        if (context - 1) % math.ceil(len(contexts) / _MOST_TICKS) == 0:
            start = (mine["after_context"].iloc[0], mine["accuracy"].iloc[0])
            plain.annotate(str(context), start, (-9, 0), textcoords="offset points")
    mean = learned.groupby("after_context")["accuracy"].mean()
    plain.plot(mean.index, mean, color=INK, linewidth=2.2)
    plain.set_title("each context (numbered), and the mean of those learned (black)")
    _over_contexts(plain, int(cells["after_context"].max()), ticks=10)
    ruled(plain)
    axis_labels(figure, "contexts learned", "test accuracy")
    return figure


@styled
def run_matrix(cells: pd.DataFrame) -> Figure:
    """The accuracy matrix of one run, before training and on contexts still to come included.

    Args:
        cells: its test cells, columns `after_context`, `context`, `accuracy`.
    """
    table = _pivoted(cells.rename(columns={"accuracy": "mean"}))
    side = min(max(2.6, 0.36 * table.shape[1]), 2 * WIDTH)
    figure, axes = panels(1, 1, (side, side * table.shape[0] / table.shape[1]), titled=True)
    plain = axes[0, 0]
    scale = Normalize(float(table.min().min()), float(table.max().max()))
    values = pd.Series(table.to_numpy().ravel()).dropna()
    cell = side / table.shape[1]
    fontsize = _fitting(values, cell, _decimals(table.shape[1])) if table.size <= _MOST_ANNOTATED else 0.0
    _heat_map(plain, table, scale, fontsize)
    if not fontsize:
        _colour_bar(figure, axes, scale)
    axis_labels(figure, "context", "contexts learned")
    plain.set_title("test accuracy in percent")
    return figure


def draw_run(folder: Path) -> None:
    """Write `accuracy_matrix.png` and `curves.png` of one run.

    Args:
        folder: the run's, with its `accuracy.csv`.

    Raises:
        OSError: a file can't be written.
    """
    cells = pd.read_csv(folder / ACCURACY_FILE)
    tested = cells[cells["split"] == "test"]
    for name, draw in ((MATRIX_FIGURE, run_matrix), (CURVES_FIGURE, run_curves)):
        write_bytes(Plot(name, "", "", draw(tested), tested).png(), folder / name)


def _line(plain: Axes, curve: pd.DataFrame, look: Look, small: bool = False) -> None:
    plain.plot(
        curve["after_context"],
        curve["mean"],
        color=look.colour,
        linestyle=look.line,
        linewidth=1.1 if small else 1.5,
        marker=look.marker,
        markersize=2.5 if small else 4.5,
        markevery=math.ceil(len(curve) / _MOST_MARKERS),
    )


def _singles(plain: Axes, seeds: pd.DataFrame, looks: Mapping[str, Look], most: int) -> pd.DataFrame:
    """A thin line for each run, unless a method has but one or all are too many to be told apart.

    Returns:
        The rows of `seeds` that are drawn.
    """
    runs: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for method, folder, context, accuracy in zip(
        *(seeds[column] for column in ("method", "folder", "after_context", "accuracy")), strict=True
    ):
        runs.setdefault(method, {}).setdefault(folder, []).append((context, accuracy))
    several = {method: lines for method, lines in runs.items() if len(lines) > 1}
    if sum(map(len, several.values())) > most:
        return seeds.iloc[:0]
    for method, lines in several.items():
        look: dict[str, Any] = {"colors": looks[method].colour, "linewidths": 0.5, "alpha": 0.45, "zorder": 1}
        plain.add_collection(LineCollection(list(lines.values()), **look), autolim=False)
    return seeds[seeds["method"].isin(list(several))]


def look_at_methods(plain: Axes, curves: pd.DataFrame, singles: pd.DataFrame) -> None:
    """Leave a bound far below all methods out of sight: the rest would be one thick line.

    Args:
        plain: the panel.
        curves: the means that are drawn.
        singles: the single seeds that are.
    """
    methods, seeds = (rows[~rows["method"].isin(BOUNDS)] for rows in (curves, singles))
    if methods.empty:
        methods, seeds = curves, singles
    shown = [*methods["mean"], *seeds["accuracy"]]
    lowest, highest = min(shown), max(*shown, curves["mean"].max())
    room = max(0.08 * (highest - lowest), 0.001)
    plain.set_ylim(lowest - room, highest + room)


def _handles(methods: Sequence[str], looks: Mapping[str, Look]) -> list[Line2D]:
    handles = []
    for method in methods:
        look = looks[method]
        label = shortened(method)
        handles.append(Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=label))
    return handles


def _over_contexts(plain: Axes, last: int, ticks: int) -> None:
    plain.set_xlim(0.6, last + 0.4)
    plain.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=ticks, min_n_ticks=1))


def _pivoted(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.pivot(index="after_context", columns="context", values="mean")


def _heat_map(
    plain: Axes, table: pd.DataFrame, scale: Normalize, fontsize: float, labelled: tuple[bool, bool] = (True, True)
) -> None:
    """A matrix in colours; numbers unless `fontsize` is 0; labels on the left and below where they are wanted."""
    values: npt.NDArray[Any] = table.to_numpy(dtype=float)
    plain.imshow(np.ma.masked_invalid(values), cmap=colormaps[HEAT], norm=scale, aspect="auto")
    # Texts, not ticks, which take longer to draw than all else.
    plain.set_axis_off()
    across, down = (math.ceil(size / _MOST_TICKS) for size in (table.shape[1], table.shape[0]))
    if labelled[0]:
        for row in range(0, table.shape[0], down):
            plain.text(-0.7, row, str(table.index[row]), ha="right", va="center", fontsize=8)
    if labelled[1]:
        for column in range(0, table.shape[1], across):
            plain.text(column, table.shape[0] - 0.3, str(table.columns[column]), ha="center", va="top", fontsize=8)
    if fontsize == 0:
        return
    decimals = _decimals(values.shape[1])
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            pale = scale(value) > 0.6
            text = f"{100 * value:.{decimals}f}"
            plain.text(
                column, row, text, ha="center", va="center", fontsize=fontsize, color="black" if pale else "white"
            )


def _decimals(contexts: int) -> int:
    """The decimals of percentages: there is room for one where contexts are few."""
    return 1 if contexts <= _PANELS_A_ROW else 0


def _fitting(values: pd.Series, cell: float, decimals: int) -> float:
    """The size of font, in points, with which every number fits into its cell; 0 where none is large enough to be read.

    Args:
        values: from 0 to 1, which are written in percent.
        cell: its width, in inches.
        decimals: of the numbers.
    """
    longest = max(len(f"{100 * value:.{decimals}f}") for value in values)
    size = 72 * cell * 0.92 / (_DIGIT * longest)
    return min(size, _LARGEST) if size >= _SMALLEST else 0.0


def _colour_bar(figure: Figure, axes: npt.NDArray[Any], scale: Normalize) -> None:
    """What the colours mean, where no numbers are written."""
    shown = [plain for plain in axes.flat if plain.figure is not None]
    bar = figure.colorbar(ScalarMappable(scale, HEAT), ax=shown, fraction=0.04, pad=0.02, label="test accuracy (%)")
    in_unit(bar.ax.yaxis, PERCENT)
