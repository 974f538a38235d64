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
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clsweep.report.plots.style import INK, Look, Plot, grid_lines, legend, legend_columns, panels, shortened, styled
from clsweep.results import ACCURACY_FILE, write_bytes

_HEAT = "viridis"  # readable without colours, and for the colour-blind
_PANELS_A_ROW = 5
_MOST_TICKS = 14
_MOST_ANNOTATED = 600  # numbers in a figure: more take longer than all else, and nobody reads them
JOINT = "joint"
BOUNDS = ("none", JOINT)


@styled
def accuracy_curves(name: str, curves: pd.DataFrame, where: str, looks: Mapping[str, Look]) -> Plot:
    """Mean accuracy over the contexts learned so far, a line for each method.

    Args:
        name: of the files.
        curves: columns `method`, `after_context` (from 1), `mean`, `low`, `high` (of the 95 % interval, NaN for one
            seed) and `seeds`. Joint training has its last context only: a horizontal line.
        where: the benchmark, for the title.
        looks: of the methods.
    """
    methods = list(dict.fromkeys(curves["method"]))
    beside = legend_columns(methods, 4.4)
    figure, axes = panels(1, 1, (4.4, 2.6), legend_lines=math.ceil(len(methods) / beside))
    plain = axes[0, 0]
    last = int(curves["after_context"].max())
    for method in methods:
        mine = curves[curves["method"] == method]
        if method == JOINT:
            mine = mine.loc[mine.index.repeat(2)].assign(after_context=[1, last])
        _line(plain, mine, looks[method])
    plain.set_xlabel("contexts learned")
    plain.set_ylabel("mean test accuracy")
    _finish(plain, last, ticks=10)
    _look_at_methods(plain, curves)
    legend(figure, _handles(methods, looks), beside)
    return Plot(
        name,
        f"Accuracy over contexts: {where}",
        "Mean test accuracy over the contexts learned so far; lines are means over seeds, bands 95 % intervals "
        "(Student's t). Joint training sees all contexts at once. A bound or an interval may leave the frame.",
        figure,
        curves,
    )


@styled
def forgetting_curves(name: str, curves: pd.DataFrame, where: str, looks: Mapping[str, Look]) -> Plot:
    """What becomes of the accuracy on each context while the later ones are learned: a panel for each context.

    Args:
        name: of the files.
        curves: columns `method`, `context`, `after_context` (from the context on), `mean`, `low`, `high`, `seeds`.
        where: the benchmark, for the title.
        looks: of the methods.
    """
    methods = list(dict.fromkeys(curves["method"]))
    contexts = sorted(set(curves["context"]))
    columns = min(_PANELS_A_ROW, len(contexts))
    rows = math.ceil(len(contexts) / columns)
    beside = legend_columns(methods, 1.6 * columns)
    lines = math.ceil(len(methods) / beside)
    figure, axes = panels(rows, columns, (1.5, 1.25), legend_lines=lines, titled=True, sharex=True, sharey=True)
    by_panel = dict(list(curves.groupby(["context", "method"])))
    for context, plain in zip(contexts, axes.flat, strict=False):
        for method in methods:
            if (context, method) in by_panel:
                _line(plain, by_panel[context, method], looks[method])
        plain.set_title(f"context {context}")
        _finish(plain, int(curves["after_context"].max()), ticks=3)
        plain.yaxis.set_major_locator(MaxNLocator(4))
    _look_at_methods(axes[0, 0], curves)
    for plain in axes.flat[len(contexts) :]:
        plain.remove()
    figure.supxlabel("contexts learned", fontsize=9, y=0.02, va="bottom")
    figure.supylabel("test accuracy", fontsize=9, x=0.01, ha="left")
    legend(figure, _handles(methods, looks), beside)
    return Plot(
        name,
        f"Forgetting: {where}",
        "Test accuracy on each context, from when it was learned to the end; lines are means over seeds, bands 95 % "
        "intervals (Student's t); a bound or an interval may leave the frame.",
        figure,
        curves,
    )


@styled
def matrices(name: str, cells: pd.DataFrame, where: str) -> Plot:
    """The accuracy matrix of each method as a heat map.

    Args:
        name: of the files.
        cells: columns `method`, `after_context`, `context` and `mean`.
        where: the benchmark, for the title.
    """
    methods = list(dict.fromkeys(cells["method"]))
    columns = min(4, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure, axes = panels(rows, columns, (1.75, 1.75), titled=True)
    learned = cells[cells["context"] <= cells["after_context"]]
    scale = Normalize(float(learned["mean"].min()), float(learned["mean"].max()))
    annotated = len(learned) <= _MOST_ANNOTATED
    for method, plain in zip(methods, axes.flat, strict=False):
        left, bottom = plain in axes[:, 0], plain in axes.flat[max(0, len(methods) - columns) : len(methods)]
        table = _pivoted(learned[learned["method"] == method])
        _heat_map(plain, table, scale, 5.5 if annotated else 0, (left, bottom))
        plain.set_title(shortened(method) if len(method) <= 20 else f"{method[:19]}…")
    for plain in axes.flat[len(methods) :]:
        plain.remove()
    if not annotated:
        _colour_bar(figure, axes, scale)
    figure.supxlabel("context", fontsize=9, y=0.02, va="bottom")
    figure.supylabel("contexts learned", fontsize=9, x=0.01, ha="left")
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
    shades = colormaps[_HEAT](np.linspace(0, 0.9, len(contexts)))
    for context, shade in zip(contexts, shades, strict=True):
        mine = learned[learned["context"] == context]
        plain.plot(mine["after_context"], mine["accuracy"], color=shade, marker="o", alpha=0.8, linewidth=1)
        if (context - 1) % math.ceil(len(contexts) / _MOST_TICKS) == 0:
            start = (mine["after_context"].iloc[0], mine["accuracy"].iloc[0])
            plain.annotate(str(context), start, (-9, 0), textcoords="offset points")
    mean = learned.groupby("after_context")["accuracy"].mean()
    plain.plot(mean.index, mean, color=INK, linewidth=2.2)
    plain.set_xlabel("contexts learned")
    plain.set_ylabel("test accuracy")
    plain.set_title("each context (numbered), and the mean of those learned (black)")
    _finish(plain, int(cells["after_context"].max()), ticks=10)
    return figure


@styled
def run_matrix(cells: pd.DataFrame) -> Figure:
    """The accuracy matrix of one run, before training and on contexts still to come included.

    Args:
        cells: its test cells, columns `after_context`, `context`, `accuracy`.
    """
    table = _pivoted(cells.rename(columns={"accuracy": "mean"}))
    side = max(2.6, 0.36 * table.shape[1])
    figure, axes = panels(1, 1, (side, side * table.shape[0] / table.shape[1]), titled=True)
    plain = axes[0, 0]
    _heat_map(
        plain,
        table,
        Normalize(float(table.min().min()), float(table.max().max())),
        7 if table.size <= _MOST_ANNOTATED else 0,
    )
    figure.supxlabel("context", fontsize=9, y=0.02, va="bottom")
    figure.supylabel("contexts learned", fontsize=9, x=0.01, ha="left")
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
    for name, draw in (("accuracy_matrix", run_matrix), ("curves", run_curves)):
        plot = Plot(name, "", "", draw(tested), tested)
        write_bytes(plot.png(), folder / f"{name}.png")


def _line(plain: Axes, curve: pd.DataFrame, look: Look) -> None:
    x = curve["after_context"]
    if curve["low"].notna().any():
        plain.fill_between(x, curve["low"], curve["high"], color=look.colour, alpha=0.16, linewidth=0)
    plain.plot(x, curve["mean"], color=look.colour, linestyle=look.line, marker=look.marker)


def _look_at_methods(plain: Axes, curves: pd.DataFrame) -> None:
    """Leave a bound or an interval far below all methods' means out of sight: the rest would be one thick line."""
    methods = curves[~curves["method"].isin(BOUNDS)]
    if methods.empty:
        return
    lowest, highest = methods["mean"].min(), curves["mean"].max()
    room = max(0.08 * (highest - lowest), 0.001)
    plain.set_ylim(lowest - room, highest + room)


def _handles(methods: Sequence[str], looks: Mapping[str, Look]) -> list[Line2D]:
    handles = []
    for method in methods:
        look = looks[method]
        label = shortened(method)
        handles.append(Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=label))
    return handles


def _finish(plain: Axes, last: int, ticks: int) -> None:
    grid_lines(plain)
    plain.set_xlim(0.6, last + 0.4)
    plain.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=ticks, min_n_ticks=1))


def _pivoted(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.pivot(index="after_context", columns="context", values="mean")


def _heat_map(
    plain: Axes, table: pd.DataFrame, scale: Normalize, fontsize: float, labelled: tuple[bool, bool] = (True, True)
) -> None:
    """A matrix in colours; numbers unless `fontsize` is 0; labels on the left and below where they are wanted."""
    values: npt.NDArray[Any] = table.to_numpy(dtype=float)
    plain.imshow(np.ma.masked_invalid(values), cmap=colormaps[_HEAT], norm=scale, aspect="auto")
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
    decimals = 1 if values.shape[1] <= 5 else 0
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            pale = scale(value) > 0.6
            text = f"{100 * value:.{decimals}f}"
            plain.text(
                column, row, text, ha="center", va="center", fontsize=fontsize, color="black" if pale else "white"
            )


def _colour_bar(figure: Figure, axes: npt.NDArray[Any], scale: Normalize) -> None:
    """What the colours mean, where no numbers are written."""
    shown = [plain for plain in axes.flat if plain.figure is not None]
    figure.colorbar(ScalarMappable(scale, _HEAT), ax=shown, fraction=0.04, pad=0.02, label="test accuracy")
