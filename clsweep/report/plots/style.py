"""How figures look, on paper and on a page: sizes in inches, the palette, one look for each method everywhere."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT

from clsweep.report.unit import Unit
from clsweep.results import csv_text

# Of Okabe & Ito, "Color Universal Design" (2008), told apart by colour-blind readers; their yellow is too pale for
# lines on white, and their black is the text's.
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
GREY: Final = "#808080"
INK: Final = "#1A1B1D"
HEAT: Final = "viridis"  # readable without colours, and for the colour-blind
PNG_DPI: Final = 200
WIDTH: Final = 7.0  # of a figure: the text of a page of two columns, so that no font shrinks in print
MARGINS: Final = {"left": 0.62, "right": 0.14, "bottom": 0.5, "top": 0.1}
TITLE: Final = 0.22
GAPS: Final = {"x": 0.18, "y": 0.36}
LEGEND_LINE: Final = 0.2
_TICK, _SMALL_TICK, _PAD, _LABEL = 3.5, 2.0, 3.5, 19.0  # in points: marks, the gap after them, to an axis' label
_LONGEST_LABEL = 40
_RC: Final[dict[str, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.titley": 1.0,  # else matplotlib looks for room for the title
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.formatter.useoffset": False,  # `ruled` writes values in full: a power or an offset would stand apart
    "axes.formatter.limits": (-300, 300),
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "text.parse_math": False,  # a method may be called $x$
    "pdf.fonttype": 42,  # TrueType, which journals take
    "svg.fonttype": "none",
    "svg.hashsalt": "clsweep",  # the same figure is the same file
}


# Texts take their font when they are made, and SVG files are written by these settings, too.
styled = matplotlib.rc_context(_RC)  # type: ignore[arg-type]


Line = Literal["-", "--", "-.", ":"]


@dataclass(frozen=True)
class Look:
    """How a method's line looks: it is told apart by colour and, printed without colours, by its dashes."""

    colour: str
    line: Line = "-"
    marker: Any = "o"


# Their six and ten more, chosen by computer so that the CIELAB distance of any two is large for readers with normal
# sight, protanopia, deuteranopia and tritanopia (Machado et al., 2009), at a lightness that shows on white and on dark.
PALETTE: Final = (
    *(VERMILLION, BLUE, SKY, GREEN, ORANGE, PURPLE),
    *("#4411FF", "#336644", "#AA88FF", "#AABB66", "#990088", "#AA1111", "#BB33FF", "#6633BB", "#997744", "#774466"),
)
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "d", "h", "8", (4, 1, 0), (3, 1, 0))
LOOKS: Final = {
    "custom": Look(VERMILLION, "-", "o"),
    "ewc": Look(BLUE, "-", "s"),
    "online_ewc": Look(SKY, "-", "^"),
    "si": Look(GREEN, "-", "D"),
    "mas": Look(ORANGE, "-", "v"),
    "kfac_ewc": Look(PURPLE, "-", "P"),
    "rwalk": Look(PALETTE[6], "--", "X"),
    "l2": Look(PALETTE[7], "--", "<"),
    "ewc_separate": Look(PALETTE[8], "--", "*"),
    "lwf": Look(PALETTE[9], "-.", ">"),
    "owm": Look(PALETTE[10], "-.", "p"),
    "gpm": Look(PALETTE[11], "-.", "d"),
    "ncl": Look(PALETTE[12], "-.", "h"),
    "vcl": Look(PALETTE[13], "-.", "8"),
    "none": Look(GREY, ":", "."),
    "joint": Look(GREY, "--", "."),
}
_BUILT_IN: Final = frozenset(look.colour for look in LOOKS.values())
_LINES: Final[tuple[Line, ...]] = ("-", "-.", "--")


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look for each method: its own, or the next free one for a name that is not built in.

    Up to 16 methods beside the bounds have a colour and a marker each; of more, no two have the same pair.

    Args:
        methods: in the order in which free looks are given out.
    """
    named = list(dict.fromkeys(methods))
    used = {LOOKS[method].colour for method in named if method in LOOKS}
    places = [*range(len(PALETTE))]
    free = [place for place in places if PALETTE[place] not in used]
    # Colours that a built-in method may have come last: a stranger keeps away from them as long as it can.
    free.sort(key=lambda place: PALETTE[place] in _BUILT_IN)
    strangers = iter(range(len(named)))
    return {method: LOOKS.get(method) or _stranger(next(strangers), free) for method in named}


def _stranger(number: int, free: Sequence[int]) -> Look:
    if number < len(free):
        place = free[number]
        return Look(PALETTE[place], _LINES[number % len(_LINES)], MARKERS[place])
    turn, place = divmod(number - len(free), len(PALETTE))
    marker = MARKERS[(place + 5 * (turn + 1)) % len(MARKERS)]
    return Look(PALETTE[place], _LINES[place % len(_LINES)], marker)


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """A colour for each of several contexts, from early to late, that shows on white and on dark."""
    return list(colormaps[HEAT](np.linspace(0.25, 0.85, count)))


@dataclass(frozen=True)
class Plot:
    """A figure with what it shows.

    Attributes:
        name: of its files, without an ending.
        title: one line.
        caption: what is to be seen, and how it was computed.
        figure: matplotlib's.
        data: the numbers in it.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame

    def png(self) -> bytes:
        """As a PNG on white, 200 dots an inch."""
        return self._saved("png", dpi=PNG_DPI, facecolor="white", pil_kwargs={"compress_level": 1})

    def svg(self) -> bytes:
        """As an SVG without a background, its text as text."""
        return self._saved("svg", metadata={"Date": None})

    def pdf(self) -> bytes:
        """As a PDF without a background, its text as text."""
        return self._saved("pdf", metadata={"CreationDate": None})

    def csv(self) -> bytes:
        return csv_text(self.data).encode()

    def _saved(self, kind: str, **options: Any) -> bytes:
        content = io.BytesIO()
        with matplotlib.rc_context(_RC):  # type: ignore[arg-type]
            self.figure.savefig(content, format=kind, **options)
        return content.getvalue()


def panels(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    legend_lines: int = 0,
    titled: bool = False,
    left: float = MARGINS["left"],
    **shared: Any,
) -> tuple[Figure, npt.NDArray[Any]]:
    """Equal panels with room for labels around them, and for a legend above.

    The margins are fixed, since matplotlib's search for the best ones takes as long as the drawing.

    Args:
        rows: of panels.
        columns: of panels.
        size: of one panel, width and height in inches.
        legend_lines: how many lines the legend takes.
        titled: whether the panels have titles.
        left: the margin for the labels of the vertical axis, in inches.
        shared: handed on to `Figure.subplots`.

    Returns:
        The figure and its axes [rows, columns].
    """
    top = MARGINS["top"] + LEGEND_LINE * legend_lines + TITLE * titled
    width = left + columns * size[0] + (columns - 1) * GAPS["x"] + MARGINS["right"]
    height = top + rows * size[1] + (rows - 1) * GAPS["y"] + MARGINS["bottom"]
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": left / width,
            "right": 1 - MARGINS["right"] / width,
            "top": 1 - top / height,
            "bottom": MARGINS["bottom"] / height,
            "wspace": GAPS["x"] / size[0],
            "hspace": GAPS["y"] / size[1],
        },
        **shared,
    )
    return figure, np.asarray(axes)


def panel_width(columns: int, most: float = WIDTH) -> float:
    """The width of a panel, in inches, with which the panels of a row make up a figure's width.

    Args:
        columns: how many panels a row has.
        most: what it is at most.
    """
    inside = WIDTH - MARGINS["left"] - MARGINS["right"] - (columns - 1) * GAPS["x"]
    return min(most, inside / columns)


def axis_labels(figure: Figure, below: str = "", left: str = "") -> None:
    """One label for the horizontal axes of all panels, and one for the vertical ones, at the figure's edges."""
    width, height = figure.get_size_inches()
    figure.supxlabel(below, fontsize=9, y=0.05 / height, va="bottom")
    figure.supylabel(left, fontsize=9, x=0.05 / width, ha="left")


def ruled(axes: Axes, *, label: str = "", below: bool = True, left: bool = True, rows: bool = False) -> None:
    """Ticks where the axes' locators want them, what stands at them, and faint lines to read values by.

    To be called once all is drawn and the limits stand. It takes the place of matplotlib's ticks: each is five artists,
    and they take longer than the rest of a figure. What it makes belongs to the figure: the axes hold the data alone.

    Args:
        axes: a panel.
        label: what is along the horizontal axis; empty where one label serves all panels (`axis_labels`).
        below: whether values stand below the panel; marks do.
        left: whether values stand on its left.
        rows: whether there are names on its left, without marks.
    """
    _rule(axes, axes.xaxis, TICKDOWN, below)
    _rule(axes, axes.yaxis, "" if rows else TICKLEFT, left)
    if label:
        axes.annotate(
            label, (0.5, 0), (0, -_LABEL), xycoords="axes fraction", textcoords="offset points", ha="center", va="top"
        )


def _rule(axes: Axes, axis: Axis, mark: Any, named: bool) -> None:
    is_x = axis is axes.xaxis
    figure = axes.get_figure(root=True)
    assert figure is not None  # it isn't removed
    along = axes.get_xaxis_transform() if is_x else axes.get_yaxis_transform()
    places = _seen(axis, axis.get_majorticklocs())
    across = np.tile([0.0, 1.0, np.nan], len(places))
    grid = Line2D(*_turned(across, np.repeat(places, 3), is_x), color=GREY, alpha=0.25, linewidth=0.5)
    lines = [grid]
    for at, size, width in ((places, _TICK, 0.8), (_seen(axis, axis.get_minorticklocs()), _SMALL_TICK, 0.6)):
        if len(at):
            edge = _turned(np.zeros(len(at)), at, is_x)
            lines.append(Line2D(*edge, linestyle="", color=INK, marker=mark, markersize=size, markeredgewidth=width))
    for line in lines:
        line.set(transform=along, zorder=-1)  # behind the axes, whose background is none
        figure.add_artist(line)
    texts = axis.get_major_formatter().format_ticks(places.tolist()) if named else []
    pad = _PAD + (_TICK if mark != "" else 0)
    where, va, ha = axes.get_xaxis_text1_transform(pad) if is_x else axes.get_yaxis_text1_transform(pad)
    for place, text in zip(places, texts, strict=False):
        figure.text(*_turned(0, place, is_x), text, fontsize=8, transform=where, va=va, ha=ha)
    axis.set_visible(False)


def _seen(axis: Axis, places: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Those of the places along an axis that its limits don't cut off."""
    scale = axis.get_transform()
    all_places = np.asarray(places, dtype=np.float64)
    scaled = np.asarray(scale.transform(all_places))
    low, high = np.sort(scale.transform(np.asarray(axis.get_view_interval())))
    slack = 1e-9 * (high - low)
    inside: npt.NDArray[np.float64] = all_places[(scaled >= low - slack) & (scaled <= high + slack)]
    return inside


def _turned(across: Any, along: Any, is_x: bool) -> tuple[Any, Any]:
    """Coordinates (x, y) of places across and along an axis."""
    return (along, across) if is_x else (across, along)


def in_unit(axis: Axis, unit: Unit) -> None:
    """Write the accuracies along an axis in a unit."""
    axis.set_major_formatter(unit.tick)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many entries fit beside each other in a legend.

    Args:
        labels: of the entries; the longest one counts.
        width: of the panels, in inches.
    """
    widest = 0.55 + 0.075 * max(len(shortened(label)) for label in labels)
    return max(1, min(len(labels), int(width / widest)))


def shortened(label: str) -> str:
    """A label that a figure has room for."""
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """A legend above the panels, from the left."""
    width = figure.get_figwidth()
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(MARGINS["left"] / width, 1),
        ncols=columns,
        borderaxespad=0.2,
        borderpad=0,
        columnspacing=1.4,
        handlelength=2.4,
    )
