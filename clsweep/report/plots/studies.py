"""Figures of a sweep's study: how its search went, and what it found."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.transforms
import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from clsweep.hyperparameters import STANDARD
from clsweep.report.plots.style import BLUE, GREY, ORANGE, VERMILLION, Plot, grid_lines, legend, panels, styled

COMPLETE, PRUNED, FAILED = "COMPLETE", "PRUNED", "FAIL"
_SIZE = (2.9, 2.3)
_FEW_DECADES = 2.0
_FEWEST_TRIALS = 4  # PED-ANOVA compares the best tenth of the trials, at least two, with all of them


@styled
def search(name: str, trials: pd.DataFrame, space: Mapping[str, BaseDistribution], study: str) -> Plot:
    """Each trial's accuracy in the order in which they began, and against each hyperparameter that was searched.

    Args:
        name: of the files.
        trials: the study's rows of `Results.trials`.
        space: what was searched.
        study: its name, for the title.
    """
    data = _reached(trials, space)
    figure, axes = panels(1, 1 + len(space), _SIZE, legend_lines=1, sharey=True)
    for plain, column in zip(axes[0], ("number", *space), strict=True):
        _scatter(plain, data, column)
        if getattr(space.get(column), "log", False):
            _logarithmic(plain, data[column])
        plain.set_xlabel(column)
        grid_lines(plain)
    first = axes[0, 0]
    complete = data[data["state"] == COMPLETE]
    first.step(
        complete["number"], complete["accuracy"].cummax(), where="post", color=VERMILLION, linewidth=1.2, zorder=1
    )
    first.set_xlabel("trial")
    first.set_ylabel("validation accuracy")
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, [*_handles(data), Line2D([], [], color=VERMILLION, linewidth=1.2, label="best so far")], 4)
    return Plot(
        name,
        f"Search: {study}",
        "Mean validation accuracy over the learned contexts, a point for each trial: in the order of the search, and "
        "against each hyperparameter. A pruned trial stands where it was stopped, after fewer contexts than the "
        "others, which is why it may stand high.",
        figure,
        data,
    )


@styled
def importances(name: str, trials: pd.DataFrame, space: Mapping[str, BaseDistribution], study: str) -> Plot | None:
    """How much the accuracy hangs on each hyperparameter.

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
    plain.set_xlabel(f"importance (PED-ANOVA, {len(complete)} complete trials)")
    grid_lines(plain)
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
    """Whether a value can be one of a distribution's: a choice may have been another one when it was tried."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(distribution, IntDistribution) and not float(value).is_integer():
        return False
    return math.isfinite(value) and (value > 0 or not getattr(distribution, "log", False))


def _reaching(distribution: BaseDistribution, value: float) -> BaseDistribution:
    """An interval that holds a value tried before it was moved, or a default outside of it."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = min(distribution.low, value), max(distribution.high, value)
    if isinstance(distribution, IntDistribution):
        return IntDistribution(int(low), int(high), log=distribution.log)
    return FloatDistribution(low, high, log=distribution.log)


def _reached(trials: pd.DataFrame, space: Iterable[str]) -> pd.DataFrame:
    """The trials with `accuracy`: the final one, or for a pruned trial the last that was measured."""
    measured = [column for column in trials if str(column).startswith(("validation_after_", "seed_"))]
    last = trials[measured].ffill(axis=1).iloc[:, -1] if measured else np.nan
    accuracy = trials["validation_average_accuracy"].where(trials["state"] == COMPLETE, last)
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


def _logarithmic(plain: Axes, values: pd.Series) -> None:
    positive = values[values > 0]
    decades = math.log10(positive.max() / positive.min()) if len(positive) else 0.0
    plain.set_xscale("log")
    plain.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < _FEW_DECADES else (1.0,)))
    plain.xaxis.set_major_formatter(_power)
    plain.xaxis.set_minor_formatter(NullFormatter())


def _scatter(plain: Axes, data: pd.DataFrame, column: str) -> None:
    at_the_bottom = matplotlib.transforms.blended_transform_factory(plain.transData, plain.transAxes)
    for state, _, colour, marker in _MARKS:
        mine = data[data["state"] == state]
        if state == FAILED:
            low = np.full(len(mine), 0.02)
            plain.scatter(mine[column], low, s=30, color=colour, marker=marker, transform=at_the_bottom)
        else:
            plain.scatter(mine[column], mine["accuracy"], s=22, color=colour, marker=marker, linewidths=1.2, zorder=2)


def _handles(data: pd.DataFrame) -> list[Line2D]:
    counts = data["state"].value_counts()
    return [
        Line2D([], [], linestyle="", color=colour, marker=marker, markersize=5, label=f"{label} ({counts[state]})")
        for state, label, colour, marker in _MARKS
        if state in counts
    ]
