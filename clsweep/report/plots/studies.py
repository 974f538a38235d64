"""Figures of a sweep's study: how its search went, and what it found."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.transforms
import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from clsweep.hyperparameters import STANDARD
from clsweep.report.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    Plot,
    axis_labels,
    in_unit,
    legend,
    panel_width,
    panels,
    ruled,
    styled,
)
from clsweep.report.trials import (
    ACCURACY,
    COMPLETE,
    FAILED,
    PRUNED,
    WITHIN,
    attempts,
    best_of_trials,
    best_trial,
    failed_itself,
    last_measured,
)
from clsweep.report.unit import FRACTION, Unit
from clsweep.results.tuning import SHARE_TEXT, BestOf

_HEIGHT, _NARROWEST = 2.3, 1.3
_TEST = "test_average_accuracy"
_FEW_POINTS = 25  # more are no dots, but a line
_FARTHEST = 4.0  # times the distance from the best trial to the median
_FEW_DECADES = 2.0
_FEWEST_TRIALS = 4  # PED-ANOVA compares the best tenth of the trials, at least two, with all of them


@styled
def search(
    name: str, trials: pd.DataFrame, space: Mapping[str, BaseDistribution], study: str, unit: Unit = FRACTION
) -> Plot:
    """Each trial's accuracy in the order in which they began, and the best of n of them.

    Args:
        name: of the files.
        trials: the study's rows of `Results.trials`.
        space: what was searched.
        study: its name, for the title.
        unit: of accuracies.
    """
    data = _reached(trials[(trials["state"] != FAILED) | failed_itself(trials)], space)
    best = best_of_trials(trials, list(space))
    figure, axes = panels(1, 1 if best is None else 2, (panel_width(2), _HEIGHT), legend_lines=2, sharey=True)
    first = axes[0, 0]
    _scatter(first, data, "number", "accuracy")
    star = _star(first, best_trial(trials, list(space)))
    complete = data[data["state"] == COMPLETE]
    first.step(
        complete["number"], complete["accuracy"].cummax(), where="post", color=VERMILLION, linewidth=1.2, zorder=1
    )
    in_unit(first.yaxis, unit)
    handles = [*_handles(data), *star, Line2D([], [], color=VERMILLION, linewidth=1.2, label="best so far")]
    if best is not None:
        data = data.merge(_expected(trials, space, best), on="number", how="left")
        handles += _draw_best_of(axes[0, 1], best)
    for plain, label in zip(axes[0], ("trial", "number of trials n"), strict=False):
        plain.xaxis.set_major_locator(MaxNLocator(integer=True))
        ruled(plain, label=label, left=plain is first)
    axis_labels(figure, left=f"validation accuracy{unit.suffix}")
    legend(figure, handles, 3)
    return Plot(
        name,
        f"Search: {study}",
        "Left: validation accuracy over the learned contexts, a point for each trial in the order of the search, a "
        "star for the best. A pruned trial stands where it was stopped, after fewer contexts, and may stand high. "
        "Right: the best of n of these trials, expected over which they are (Tang et al. 2020), and where it lies in "
        f"{SHARE_TEXT} of searches (Dodge et al. 2019). There a pruned trial counts as complete ones that stood where "
        "it was stopped. Trials count as independent, though those of a sampler that learns get better.",
        figure,
        data,
    )


def _draw_best_of(plain: Axes, best: BestOf) -> list[Artist]:
    n = np.arange(1, len(best.mean) + 1)
    band = plain.fill_between(n, best.low, best.high, color=GREEN, alpha=0.18, linewidth=0)
    (line,) = plain.plot(n, best.mean, color=GREEN, marker="." if len(n) <= _FEW_POINTS else "", zorder=2)
    line.set_label("best of n, expected")
    band.set_label(f"in {SHARE_TEXT} of searches")
    return [line, band]


def _expected(trials: pd.DataFrame, space: Mapping[str, BaseDistribution], best: BestOf) -> pd.DataFrame:
    """The right panel's numbers beside the trials that count: the n-th of them in its row."""
    numbers = attempts(trials, list(space))["number"]
    n = range(1, len(best.mean) + 1)
    values = {"n": n, "best_of_n": best.mean, "best_of_n_low": best.low, "best_of_n_high": best.high}
    return pd.DataFrame({"number": numbers.to_numpy()} | values)


@styled
def sensitivity(
    name: str, trials: pd.DataFrame, space: Mapping[str, BaseDistribution], study: str, unit: Unit = FRACTION
) -> Plot | None:
    """Validation and test accuracy over each hyperparameter that was searched, a panel each.

    Args:
        name: of the files.
        trials: the study's rows of `Results.trials`.
        space: what was searched.
        study: its name, for the title.
        unit: of accuracies.

    Returns:
        None where no trial is complete.
    """
    best = best_trial(trials, list(space))
    if best is None:
        return None
    mine = attempts(trials, list(space))
    accuracies = [column for column in (ACCURACY, _TEST) if column in mine]
    data = mine[["number", "state", *(one for one in space if one in mine), *accuracies]].copy()
    data[accuracies] = data[accuracies].where(data["state"] == COMPLETE)
    frame = frame_of(data[accuracies].to_numpy(dtype=float))
    width = max(_NARROWEST, panel_width(len(space), most=4.4))
    figure, axes = panels(1, len(space), (width, _HEIGHT), legend_lines=1, sharey=True)
    for plain, column in zip(axes[0], space, strict=True):
        _over(plain, data, column, best, frame.bottom, connected=len(space) == 1)
        if getattr(space[column], "log", False):
            logarithmic(plain, data[column])
    first = axes[0, 0]  # all share its vertical axis
    first.set_ylim(frame.bottom - 0.2 * frame.height, frame.top + 0.08 * frame.height)
    in_unit(first.yaxis, unit)
    for plain, column in zip(axes[0], space, strict=True):
        ruled(plain, label=column, left=plain is first)
    axis_labels(figure, left=f"accuracy{unit.suffix}")
    legend(figure, _sensitivity_handles(data), 5)
    lower = " A triangle is a trial that is worse than the frame shows." if frame.hides else ""
    return Plot(
        name,
        f"Sensitivity: {study}",
        "Validation and test accuracy over each hyperparameter that was searched, a point for each complete trial. The "
        f"ring is the best on validation data, the shade within {WITHIN} of it; test accuracy chooses nothing. Crosses "
        "(pruned) and bars (failed) at the lower edge say what was tried; what it would have reached isn't "
        f"known.{lower}",
        figure,
        data,
    )


@dataclass(frozen=True)
class Frame:
    """Which accuracies a sensitivity curve shows: a few very bad trials would flatten the rest.

    Attributes:
        bottom: the lowest accuracy that stands where it is.
        top: the best.
        hides: whether there are worse ones.
    """

    bottom: float
    top: float
    hides: bool

    @property
    def height(self) -> float:
        """From the lowest to the best, enough to draw."""
        return max(self.top - self.bottom, WITHIN)


def frame_of(accuracies: npt.NDArray[np.float64]) -> Frame:
    """The frame around some accuracies, at least one of them no NaN."""
    top, middle, lowest = float(np.nanmax(accuracies)), float(np.nanmedian(accuracies)), float(np.nanmin(accuracies))
    bottom = max(lowest, top - max(_FARTHEST * (top - middle), 4 * WITHIN))
    return Frame(bottom, top, lowest < bottom)


def _over(plain: Axes, data: pd.DataFrame, column: str, best: pd.Series, bottom: float, *, connected: bool) -> None:
    """Accuracies over one hyperparameter; connected where it is the only one, as nothing else differs then."""
    complete = data[data["state"] == COMPLETE].sort_values(column, kind="stable")
    at_the_edge = matplotlib.transforms.blended_transform_factory(plain.transData, plain.transAxes)
    for accuracy, colour, face in ((_TEST, PURPLE, "none"), (ACCURACY, BLUE, BLUE)):
        if accuracy not in complete:
            continue
        seen, low = complete[complete[accuracy] >= bottom], complete[complete[accuracy] < bottom]
        dots: dict[str, Any] = {"color": colour, "markerfacecolor": face, "markersize": 4}
        plain.plot(seen[column], seen[accuracy], "o", linestyle="-" if connected else "", linewidth=0.8, **dots)
        plain.plot(low[column], np.full(len(low), 0.12), "v", transform=at_the_edge, **dots)
    plain.plot([best[column]], [best[ACCURACY]], "o", color=VERMILLION, markersize=9, markerfacecolor="none")
    plain.axhspan(best[ACCURACY] - WITHIN, best[ACCURACY], color=BLUE, alpha=0.12, linewidth=0, zorder=0)
    for state, _, colour, marker in _MARKS[1:]:
        stopped = data[data["state"] == state]
        height = np.full(len(stopped), 0.04)
        plain.scatter(stopped[column], height, s=18, color=colour, marker=marker, transform=at_the_edge, linewidths=1.2)


def _sensitivity_handles(data: pd.DataFrame) -> list[Artist]:
    complete = int((data["state"] == COMPLETE).sum())
    dots: list[Artist] = [
        Line2D([], [], linestyle="", color=BLUE, marker="o", markersize=4, label=f"validation ({complete})"),
        Line2D([], [], linestyle="", color=VERMILLION, marker="o", markersize=8, markerfacecolor="none", label="best"),
    ]
    if _TEST in data:
        test = {"color": PURPLE, "marker": "o", "markersize": 4, "markerfacecolor": "none"}
        dots.insert(1, Line2D([], [], linestyle="", label="test", **test))  # type: ignore[arg-type]
    return [*dots, *_handles(data[data["state"] != COMPLETE])]


@styled
def importances(name: str, trials: pd.DataFrame, space: Mapping[str, BaseDistribution], study: str) -> Plot | None:
    """How much the accuracy depends on each hyperparameter.

    Args:
        name: of the files.
        trials: the study's rows of `Results.trials`.
        space: what was searched.
        study: its name, for the title.

    Returns:
        None where there is nothing to tell: fewer than two hyperparameters, or too few complete trials.
    """
    complete = trials[(trials["state"] == COMPLETE) & trials["validation_average_accuracy"].notna()]
    complete = complete[[all(_fits(space[name], row[name]) for name in space) for row in complete.to_dict("records")]]
    if len(space) < 2 or len(complete) < _FEWEST_TRIALS:
        return None
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # takes a second to import

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(direction="maximize")
    made.add_trials([_trial(row, space) for row in complete.to_dict("records")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna's note that the evaluator is new
        values = get_param_importances(made, evaluator=PedAnovaImportanceEvaluator())
    data = pd.DataFrame({"hyperparameter": list(values), "importance": list(values.values())})
    data = data.assign(evaluator="PED-ANOVA", complete_trials=len(complete))
    figure, axes = panels(1, 1, (3.4, 0.32 * len(data) + 0.2), left=1.0)
    plain = axes[0, 0]
    plain.barh(data["hyperparameter"], data["importance"], color=BLUE, height=0.6)
    plain.invert_yaxis()
    plain.set_xlim(0, 1)
    ruled(plain, label=f"importance (PED-ANOVA, {len(complete)} complete trials)")
    return Plot(
        name,
        f"Importance of the hyperparameters: {study}",
        f"PED-ANOVA (Watanabe et al., IJCAI 2023) over {len(complete)} complete trials; pruned ones don't count. "
        "With few trials the order may be chance.",
        figure,
        data,
    )


def _trial(row: Mapping[Hashable, Any], space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    params = {name: row[name] for name in space}
    widened = {name: _reaching(distribution, params[name]) for name, distribution in space.items()}
    value = row["validation_average_accuracy"]
    return create_trial(state=TrialState.COMPLETE, params=params, distributions=widened, value=value)


def _fits(distribution: BaseDistribution, value: float) -> bool:
    """Whether a value can be one of a distribution's: the choices may have been others when it was tried."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(distribution, IntDistribution) and not float(value).is_integer():
        return False
    return math.isfinite(value) and (value > 0 or not getattr(distribution, "log", False))


def _reaching(distribution: BaseDistribution, value: float) -> BaseDistribution:
    """An interval widened to hold a value that was tried before it was moved, or a default outside of it."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = min(distribution.low, value), max(distribution.high, value)
    if isinstance(distribution, IntDistribution):
        return IntDistribution(int(low), int(high), log=distribution.log)
    return FloatDistribution(low, high, log=distribution.log)


def _reached(trials: pd.DataFrame, space: Iterable[str]) -> pd.DataFrame:
    """The trials with `accuracy`: the final one, or for a pruned trial the last that was measured."""
    accuracy = trials[ACCURACY].where(trials["state"] == COMPLETE, last_measured(trials))
    values = dict.fromkeys([*STANDARD, *space])
    columns = ["number", "state", "accuracy", *values, "seconds", "reason"]
    return trials.assign(accuracy=accuracy)[columns].sort_values("number", kind="stable")


_MARKS: Sequence[tuple[str, str, str, str]] = (
    (COMPLETE, "complete", BLUE, "o"),
    (PRUNED, "pruned", ORANGE, "x"),
    (FAILED, "failed", GREY, "|"),
)


def _power(value: float, _: object) -> str:
    """A label on a logarithmic axis; matplotlib's own take longer to typeset than the rest of the figure to draw."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def logarithmic(plain: Axes, values: pd.Series) -> None:
    """A logarithmic horizontal axis with labels, whatever the range of the values on it."""
    positive = values[values > 0]
    decades = math.log10(positive.max() / positive.min()) if len(positive) else 0.0
    plain.set_xscale("log")
    plain.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < _FEW_DECADES else (1.0,)))
    plain.xaxis.set_major_formatter(_power)
    plain.xaxis.set_minor_formatter(NullFormatter())


def _scatter(plain: Axes, data: pd.DataFrame, column: str, accuracy: str) -> None:
    at_the_bottom = matplotlib.transforms.blended_transform_factory(plain.transData, plain.transAxes)
    for state, _, colour, marker in _MARKS:
        mine = data[data["state"] == state]
        if state == FAILED:
            low = np.full(len(mine), 0.02)
            plain.scatter(mine[column], low, s=30, color=colour, marker=marker, transform=at_the_bottom)
        else:
            # Pruned trials are many and may stand high: small, pale and behind, they hide no complete one.
            size, alpha, order = (10, 0.6, 1.5) if state == PRUNED else (18, 1.0, 2.0)
            look: dict[str, Any] = {"color": colour, "marker": marker, "s": size, "alpha": alpha, "zorder": order}
            plain.scatter(mine[column], mine[accuracy], linewidths=0.8, **look)


def _star(plain: Axes, best: pd.Series | None) -> list[Artist]:
    """Mark the best complete trial, and return what a legend shows of it; nothing where no trial is complete."""
    if best is None:
        return []
    plain.scatter([best["number"]], [best[ACCURACY]], s=110, color=VERMILLION, marker="*", linewidths=0, zorder=3)
    return [Line2D([], [], linestyle="", color=VERMILLION, marker="*", markersize=8, label="best")]


def _handles(data: pd.DataFrame) -> list[Artist]:
    counts = data["state"].value_counts()
    handles = (_handle(state, counts) for state, *_ in _MARKS)
    return [handle for handle in handles if handle is not None]


def _handle(state: str, counts: pd.Series) -> Artist | None:
    """A state's mark with the number of its trials; None where there are none."""
    label, colour, marker = next(tuple(rest) for one, *rest in _MARKS if one == state)
    if state not in counts:
        return None
    text = f"{label} ({counts[state]})"
    return Line2D([], [], linestyle="", color=colour, marker=marker, markersize=5, label=text)
