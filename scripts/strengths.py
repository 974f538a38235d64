"""Write the tables and figures of `docs/strengths.md`, on which strength to start from, from `outputs/reference`.

python scripts/strengths.py
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from evaluation.experiment import ROOT
from evaluation.figures import grid_lines
from evaluation.pages import renew, replaced, tell
from evaluation.tables import markdown
from hydra.utils import get_class
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf

from clsweep import config as settings
from clsweep import defaults, hyperparameters, results, targets
from clsweep.paths import config_dir
from clsweep.protocol import Protocol
from clsweep.report.names import BENCHMARKS, METHODS
from clsweep.report.plots.studies import frame_of, logarithmic
from clsweep.report.plots.style import BLUE, GREY, VERMILLION, Plot, styled
from clsweep.report.selection import USUAL_OPTIONS
from clsweep.report.trials import ACCURACY, COMPLETE, PRUNED, WITHIN, attempts, flatness
from clsweep.results import Results

REFERENCE: Final = ROOT / "outputs" / "reference"
PAGE: Final = ROOT / "docs" / "strengths.md"
FIGURES: Final = ROOT / "docs" / "figures"
BEGIN: Final = "<!-- from here on written by scripts/strengths.py -->"
STRENGTH: Final = "reg_strength"
TUNED: Final = ("split_mnist", "perm_mnist", "split_cifar100")
_CLOSE: Final = 0.06  # a value that is rounded to two digits is the same
_COLUMNS: Final = 3
_WIDTH: Final = 115  # of a line of the page
_FEW_IMAGES: Final = 20_000
_RATE: Final = "learning rate"
_RATES: Final = {"optimizer.lr", "benchmark.lr"}
_MOVES: Final = "The best strength of each search, and in parentheses the number of values that were tried."


@dataclass(frozen=True)
class Search:
    """Values of one method's hyperparameters that were tried on validation data, all under one protocol.

    Attributes:
        benchmark: where.
        method: whose.
        setting: the iterations of each context, and what is unusual about the protocol, as text.
        iters: optimizer steps of each context.
        unusual: whether more than the iterations is.
        trials: a row each, with `number`, `state`, `reason`, the values and `validation_average_accuracy`.
        searched: the hyperparameters.
    """

    benchmark: str
    method: str
    setting: str
    iters: int
    unusual: bool
    trials: pd.DataFrame
    searched: tuple[str, ...]

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """Those that say something about their values."""
        return attempts(self.trials, self.searched)

    @cached_property
    def complete(self) -> pd.DataFrame:
        """Those with an accuracy."""
        mine = self.attempts
        return mine[mine["state"] == COMPLETE]

    @cached_property
    def best(self) -> pd.Series[Any]:
        """The one with the highest accuracy, the earliest of several."""
        return self.complete.sort_values(ACCURACY, ascending=False, kind="stable").iloc[0]

    def at(self, values: Mapping[str, float]) -> float:
        """The accuracy of the complete trial with these values; NaN where none has them."""
        mine = self.complete
        for name in self.searched:
            if name in values:
                mine = mine[np.isclose(mine[name].astype(float), values[name], rtol=_CLOSE)]
        return float(mine[ACCURACY].max())


@cache
def searches() -> tuple[Search, ...]:
    """All that were kept and say something, the most telling ones of a benchmark and method first."""
    found = [results.load(folder) for folder in (REFERENCE, *sorted((REFERENCE / "experiments").glob("*/")))]
    made = [*_recorded(), *(one for some in found for one in (*_studies(some), *_scans(some)))]
    telling = [one for one in made if len(one.complete) and one.attempts[STRENGTH].nunique() > 1]
    return tuple(
        sorted(
            telling,
            key=lambda one: (one.unusual, -one.iters, not _has_start(one), -len(one.attempts), one.setting),
        )
    )


def _has_start(search: Search) -> bool:
    """Whether it tried the values to start from."""
    return not math.isnan(search.at(starts(search.benchmark).get(search.method, {})))


def _studies(found: Results) -> Iterator[Search]:
    """Sweeps; those of one name are one, some of them not pruned."""
    runs = {str(study): mine.iloc[0].to_dict() for study, mine in found.runs.groupby("study") if study}
    of_streams = found.studies[
        found.studies["tune_on"] == settings.ON_STREAM
    ]  # others tried values on other contexts or data
    for _, same in of_streams.groupby("name", sort=False):
        study = same.iloc[0]
        if not isinstance(study["space"], dict) or STRENGTH not in study["space"] or study["method"] not in METHODS:
            continue
        searched = tuple(study["space"])
        mine = found.trials[found.trials["study"].isin(same["study"])]
        best_first = mine.assign(place=mine["state"].map({COMPLETE: 0, PRUNED: 1}).fillna(2)).sort_values(
            ["place", "number"], kind="stable"
        )
        known = next((runs[name] for name in same["study"] if name in runs), None)
        trials = best_first.drop_duplicates(list(searched)).drop(columns="place")
        yield _search(study["benchmark"], study["method"], int(study["iters"]), known, trials, searched)


def _scans(found: Results) -> Iterator[Search]:
    """Single runs by hand with held-out data: those that differ in strength alone, or in little else.

    Another estimator of the Fisher information has strengths of its own: its runs say nothing of the usual one's.
    """
    runs = found.runs[(found.runs["role"] == "single") & (found.runs["status"] == results.FINISHED)]
    runs = runs[(runs["validation_fraction"] > 0) & runs[STRENGTH].notna()]
    runs = runs[runs["method_options"].isin(USUAL_OPTIONS)]
    runs = runs.assign(protocol=[Protocol.of_row(row).digest for row in runs.to_dict("records")])
    for _, mine in runs.groupby(["benchmark", "regularizer", "regularizer_digest", "protocol", "seed"], sort=False):
        row = mine.iloc[0].to_dict()
        used = [name for name in str(row["hyperparameters"]).split() if name in mine and mine[name].nunique() > 1]
        searched = tuple(dict.fromkeys([STRENGTH, *used]))
        trials = mine.assign(number=range(len(mine)), state=COMPLETE, reason="")
        yield _search(row["benchmark"], row["regularizer"], int(row["iters"]), row, trials, searched)


def _recorded() -> Iterator[Search]:
    """The grids of `scripts/compare_search.py`."""
    for file in sorted((REFERENCE / "search").glob("*-seed0.csv")):
        benchmark, method, _ = file.stem.split("-")
        grid = pd.read_csv(file)
        searched = tuple(name for name in grid if name in (STRENGTH, "epsilon"))
        last = [str(name) for name in grid if str(name).startswith("validation_after_")][-1]
        trials = grid.rename(columns={last: ACCURACY}).assign(number=range(len(grid)), state=COMPLETE, reason="")
        iters = defaults.usual(benchmark).benchmark.iters_by_budget["quick"]
        made = _search(benchmark, method, iters, None, trials, searched)
        small = benchmark == "perm_mnist"  # recorded on the images that come with clsweep
        yield replace(made, setting=f"{made.setting}, 3,600 training images", unusual=True) if small else made


def _search(
    benchmark: str,
    method: str,
    iters: int,
    run: Mapping[Any, Any] | None,
    trials: pd.DataFrame,
    searched: tuple[str, ...],
) -> Search:
    words = [] if run is None else _unusual(run)
    if _RATES & set(searched):
        words = [*(word for word in words if not word.startswith(_RATE)), f"{_RATE} searched"]
    return Search(benchmark, method, ", ".join([f"{iters:,} iterations", *words]), iters, bool(words), trials, searched)


def _unusual(run: Mapping[Any, Any]) -> list[str]:
    """What a reader of a strength must know, but for the iterations; older files don't say all of it."""
    protocol, usual = Protocol.of_row(run), Protocol.of(defaults.usual(str(run["benchmark"])))
    words = [] if protocol.first_contexts is None else [f"the first {protocol.first_contexts} contexts"]
    if protocol.network not in (None, usual.network):
        words.append(f"network {protocol.network}")
    if protocol.optimizer not in (None, usual.optimizer):
        words.append(f"optimizer {protocol.optimizer}")
    if protocol.lr != usual.lr:
        words.append(f"{_RATE} {protocol.lr:g}")
    if protocol.contexts not in (None, usual.contexts):
        words.append(f"{protocol.contexts} contexts")
    elif run["n_train"] < _FEW_IMAGES:
        words.append(f"{run['n_train']:,} training images")
    return words


@cache
def starts(benchmark: str) -> dict[str, dict[str, float]]:
    """What `conf/tuned` has for a benchmark, by method."""
    made: dict[str, dict[str, float]] = {}
    for file in sorted((config_dir() / "tuned" / benchmark).glob("*.yaml")):
        values: Any = OmegaConf.to_container(OmegaConf.load(file))
        made[file.stem] = {name: float(value) for name, value in values.items() if name != "space"}
    return made


def untuned() -> dict[str, str]:
    """Methods without a value in `conf/tuned`, with what they take by default."""
    tuned = {method for benchmark in TUNED for method in starts(benchmark)}
    made = {}
    for method, file in targets.files("regularizer").items():
        if method in tuned:
            continue
        declared = hyperparameters.of_class(get_class(file[targets.TARGET]))
        numbers = {name: one.default for name, one in declared.items() if name in hyperparameters.names(declared)}
        if numbers:
            made[method] = _values(numbers)
    return made


def tables() -> str:
    """What the page has between the comments."""
    parts = [_overview()]
    for benchmark in TUNED:
        parts += [
            f"## {BENCHMARKS[benchmark]}: `{benchmark}`",
            _searched(benchmark),
            f"![{BENCHMARKS[benchmark]}: validation accuracy over strength](figures/strengths-{benchmark}.svg)",
        ]
    return "\n\n".join([*parts, "## How the best strength moves", _MOVES, _moves()])


def _overview() -> str:
    methods = list(dict.fromkeys(method for benchmark in TUNED for method in starts(benchmark)))
    lines = [["method", *(f"`{benchmark}`" for benchmark in TUNED)]]
    for method in methods:
        lines.append([f"`{method}`", *(_values(starts(benchmark).get(method, {})) for benchmark in TUNED)])
    others = ", ".join(f"`{method}` ({values})" for method, values in untuned().items())
    text = f"`conf/tuned` has no value for these methods; they start from their own defaults: {others}."
    return f"{markdown(lines)}\n\n{textwrap.fill(text, _WIDTH, break_on_hyphens=False)}"


def _searched(benchmark: str) -> str:
    lines = [["method", "search", "best trial", "its accuracy", "at the start", f"within {WITHIN} of the best"]]
    for method, values in starts(benchmark).items():
        mine = of(benchmark, method)
        if not mine:
            lines.append([f"`{method}`", _borrowed(benchmark, method), *[""] * 4])
            continue
        first = mine[0]
        start = first.at(values)
        at_start = "not tried" if math.isnan(start) else f"{start:.4f}"
        search = f"{first.setting}; {_count(first)}"
        lines.append([f"`{method}`", search, _best(first), f"{first.best[ACCURACY]:.4f}", at_start, _flat(first)])
    return markdown(lines)


def _moves() -> str:
    """The best strength of every setting that a method was searched in, and the trials of the search."""
    methods = sorted({one.method for one in searches()})
    lines = [["setting", *(f"`{method}`" for method in methods)]]
    for benchmark in TUNED:
        mine = [one for one in searches() if one.benchmark == benchmark]
        for setting in dict.fromkeys(one.setting for one in mine):
            found: dict[str, str] = {}
            for one in mine:  # the most telling one first
                if one.setting == setting:
                    found.setdefault(one.method, f"{_number(one.best[STRENGTH])} ({len(one.attempts)})")
            lines.append([f"`{benchmark}`, {setting}", *(found.get(method, "") for method in methods)])
    return markdown(lines)


def of(benchmark: str, method: str) -> list[Search]:
    """The searches of a method on a benchmark, the most telling one first."""
    return [one for one in searches() if (one.benchmark, one.method) == (benchmark, method)]


def _borrowed(benchmark: str, method: str) -> str:
    others = [one for one, values in starts(benchmark).items() if one != method and of(benchmark, one)]
    same = next((one for one in others if starts(benchmark)[one] == starts(benchmark)[method]), None)
    return "none is kept" if same is None else f"that of `{same}`"


def _best(search: Search) -> str:
    return _values({name: float(search.best[name]) for name in search.searched})


def _count(search: Search) -> str:
    mine = search.attempts
    pruned = int((mine["state"] == PRUNED).sum())
    return f"{len(mine)} trials, {pruned} pruned" if pruned else f"{len(mine)} trials"


def _flat(search: Search) -> str:
    """The range of strengths; of trials that differ in more, one that fails may have done so for another reason."""
    around = flatness(search.trials, STRENGTH, search.searched)
    if around is None:
        return ""
    if around.low == around.high:
        return f"{_number(around.low)} alone"
    least = "at least " if len(search.searched) > 1 and len(search.complete) < 30 else ""
    edges = {(True, True): "all that were tried, ", (True, False): "up to ", (False, True): "from "}
    ends = {
        (True, False): _number(around.high),
        (False, True): _number(around.low),
    }.get((around.open_below, around.open_above), f"{_number(around.low)} to {_number(around.high)}")
    return f"{least}{edges.get((around.open_below, around.open_above), '')}{ends} ({around.decades:.1f} decades)"


def _values(values: Mapping[str, Any]) -> str:
    """The strength first, as it is typed; the others by name."""
    texts = [_number(values[STRENGTH])] if STRENGTH in values else []
    return ", ".join(texts + [f"{name} {_number(value)}" for name, value in values.items() if name != STRENGTH])


def _number(value: object) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    text = f"{value:.3g}"
    return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


@styled
def draw(benchmark: str) -> Plot:
    """Validation accuracy over strength, a panel for each method."""
    methods = [method for method in starts(benchmark) if of(benchmark, method)]
    rows = math.ceil(len(methods) / _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * 2.9, rows * 2.2 + 0.5), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for method, plain in zip(methods, axes.flat, strict=False):
        _panel(plain, of(benchmark, method), starts(benchmark)[method])
        plain.set_title(method)
    for plain in axes.flat[len(methods) :]:
        plain.remove()
    figure.supxlabel("reg_strength", fontsize=9)
    figure.supylabel("validation accuracy", fontsize=9)
    dots: dict[str, Any] = {"linestyle": "", "markersize": 4}
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="the search of the table", **dots),
        Line2D([], [], color=GREY, marker="o", markerfacecolor="none", label="other searches", **dots),
        Line2D([], [], color=BLUE, marker="x", label="pruned", **dots),
        Line2D([], [], color=VERMILLION, linestyle="--", label="start from"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    data = [one.complete.assign(method=one.method, setting=one.setting) for one in searches()]
    title = f"{BENCHMARKS[benchmark]}: validation accuracy over strength"
    return Plot(f"strengths-{benchmark}", title, "", figure, pd.concat(data))


def _panel(plain: Axes, mine: Sequence[Search], values: Mapping[str, float]) -> None:
    first = mine[0]
    frame = frame_of(first.complete[ACCURACY].to_numpy(dtype=float))
    for other in mine[1:]:
        plain.plot(other.complete[STRENGTH], other.complete[ACCURACY], "o", color=GREY, markersize=3, fillstyle="none")
    trials = first.complete.sort_values(STRENGTH, kind="stable")
    line = "-" if len(first.searched) == 1 else ""
    plain.plot(trials[STRENGTH], trials[ACCURACY], "o", linestyle=line, linewidth=0.8, color=BLUE, markersize=4)
    pruned = first.attempts[first.attempts["state"] == PRUNED]
    edge = plain.get_xaxis_transform()
    plain.plot(pruned[STRENGTH], np.full(len(pruned), 0.05), "x", color=BLUE, markersize=4, transform=edge)
    plain.axvline(values[STRENGTH], color=VERMILLION, linestyle="--", linewidth=1, zorder=0)
    logarithmic(plain, pd.concat([one.attempts[STRENGTH] for one in mine]))
    plain.set_ylim(frame.bottom - 0.25 * frame.height, frame.top + 0.12 * frame.height)
    plain.yaxis.set_major_locator(MaxNLocator(5))
    grid_lines(plain)


def write(page: Path = PAGE, figures: Path = FIGURES) -> None:
    """Write the tables into the page, and the figures beside it; prints what has changed."""
    plots = [draw(benchmark) for benchmark in TUNED]
    drawn = [replaced(figures / f"{plot.name}.svg", plot.svg()) for plot in plots]
    tell([renew(page, tables(), BEGIN), *drawn])


if __name__ == "__main__":
    write()
