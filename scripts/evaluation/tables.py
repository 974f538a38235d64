"""Markdown tables of an experiment's runs; what has not been run says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from clsweep.published import published
from clsweep.results.statistics import compare, estimate
from evaluation import variance as components
from evaluation.experiment import Experiment, Made, Setting
from evaluation.names import METHODS, SETTINGS, SHIPPED

NOT_RUN = "not run yet"
_OF_OTHERS = ("other seeds", "standard deviation", "range", "published less mean, in standard deviations")
_ACCURACIES = {
    "average_accuracy": "average accuracy",
    "learning_accuracy": "learning accuracy",
    "forgetting": "forgetting",
}


def comparison(experiment: Experiment, made: Made, *, to_joint: bool = False) -> str:
    """Methods beside each other, and their strengths.

    Args:
        experiment: whose runs.
        made: those that are there.
        to_joint: whether it is said how much of the distance to joint training the shipped file closes.
    """
    parts = [_count(experiment, made)]
    for setting in experiment.settings:
        runs = made.of(setting)
        parts += [_heading(experiment, setting), _compared(setting, runs)]
        if to_joint:
            parts.append(_share_of_distance(runs))
        parts.append(_strengths(setting, made))
    return _joined(parts)


def after_contexts(experiment: Experiment, made: Made, *, counts: Sequence[int]) -> str:
    """The mean accuracy over the contexts learned so far, after some numbers of contexts of the same runs."""
    parts = [_count(experiment, made)]
    for setting in experiment.settings:
        runs = made.of(setting)
        means = made.learned(runs)
        lines = [["method", "strength", "seeds", *(f"{count} contexts" for count in counts)]]
        for method in setting.methods:
            mine = runs[runs["method"] == method.name]
            values = [means.loc[means.index.isin(mine.index), count].tolist() if len(mine) else [] for count in counts]
            lines.append([METHODS[method.name], *_strength_and_seeds(mine), *map(interval, values)])
        parts += [_heading(experiment, setting), markdown(lines), _strengths(setting, made)]
    return _joined(parts)


def beside_published(experiment: Experiment, made: Made, *, benchmark: str, best: float) -> str:
    """Published figures, their seed here, and their place among other seeds.

    Args:
        experiment: whose runs.
        made: those that are there.
        benchmark: whose figures.
        best: the best published figure, whatever the method, which stands beside the shipped file.
    """
    parts = [_count(experiment, made)]
    for setting in experiment.settings:
        runs, theirs = made.of(setting), published()[benchmark].accuracy
        first, *others = [" ".join(draw) for draw in setting.draws]
        lines = [["method", "strength", "published", first.replace("=", " "), *_OF_OTHERS]]
        for method in setting.methods:
            mine = runs[runs["method"] == method.name]
            accuracy = mine.set_index("draw")["average_accuracy"]
            rest = accuracy[accuracy.index.isin(others)].tolist()
            figure = best if method.name == SHIPPED else theirs[method.name]
            shown = f"{figure:.4f}{' (the best, of any method)' if method.name == SHIPPED else ''}"
            same = interval(accuracy[accuracy.index == first].tolist())
            strength = _strength_and_seeds(mine)[0]
            lines.append([METHODS[method.name], strength, shown, same, interval(rest), *_spread(rest, figure)])
        parts += [_heading(experiment, setting), markdown(lines)]
    return _joined(parts)


def variance(experiment: Experiment, made: Made) -> str:
    """Where the spread between runs comes from."""
    parts = [_count(experiment, made)]
    for setting in experiment.settings:
        runs, lines = made.of(setting), [["method", "runs", "mean", "standard deviation", *components.SOURCES]]
        for method in setting.methods:
            mine = runs[runs["method"] == method.name]
            found = components.of(mine)
            told = [NOT_RUN, *[""] * 5] if found is None else found.told()
            lines.append([METHODS[method.name], *told])
        parts += [_heading(experiment, setting), markdown(lines)]
    return _joined(parts)


def _count(experiment: Experiment, made: Made) -> str:
    names = [run.name for run in experiment.runs(made.runs)]
    there = sum(name in made.runs.index for name in names)
    others = made.runs[(made.runs["regularizer_digest"] != "") & ~made.runs.index.isin(names)]
    said = f"{there} of {len(names)} runs are made."
    if len(others):
        said += f" {len(others)} more are of other versions of `custom_regularization.py` and not in the tables."
    return said


def _heading(experiment: Experiment, setting: Setting) -> str:
    return f"### {SETTINGS[setting.name]}" if len(experiment.settings) > 1 else ""


def _compared(setting: Setting, runs: pd.DataFrame) -> str:
    lines = [["method", "strength", "seeds", *_ACCURACIES.values(), "shipped file less it"]]
    by_seed = {name: _by_seed(runs[runs["method"] == name]) for name in runs["method"].unique()}
    for method in setting.methods:
        mine = runs[runs["method"] == method.name]
        values = [interval(mine[column].dropna().tolist(), or_else="") for column in _ACCURACIES]
        values[0] = values[0] or NOT_RUN
        difference = _difference(by_seed.get(SHIPPED, {}), by_seed.get(method.name, {}))
        difference = "" if method.name == SHIPPED else difference
        lines.append([METHODS[method.name], *_strength_and_seeds(mine), *values, difference])
    return markdown(lines)


def _strength_and_seeds(mine: pd.DataFrame) -> list[str]:
    is_bound = mine["hyperparameters"].eq("")
    strengths = mine.loc[~is_bound, "reg_strength"].unique()
    return [", ".join(f"{one:g}" for one in strengths), str(len(mine) or "")]


def _by_seed(mine: pd.DataFrame) -> dict[int, float]:
    return {int(seed): float(value) for seed, value in zip(mine["seed"], mine["average_accuracy"], strict=True)}


def _difference(first: dict[int, float], second: dict[int, float]) -> str:
    """The mean difference over common seeds, and from three on the p-value of a paired t-test."""
    made = compare(first, second)
    if not made.seeds:
        return ""
    p = "" if made.seeds < 3 or math.isnan(made.p) else f", p {made.p:.2g}"
    return f"{made.difference:+.4f} ({made.seeds} seed{'s' if made.seeds > 1 else ''}{p})"


def _share_of_distance(runs: pd.DataFrame) -> str:
    """How much of the distance from the best baseline to joint training the shipped file closes, over common seeds."""
    by_seed = runs.pivot(index="seed", columns="method", values="average_accuracy")
    baselines = by_seed.columns.difference([SHIPPED, "none", "joint"])
    if baselines.empty or not {SHIPPED, "joint"} <= set(by_seed.columns):
        return ""
    name = str(by_seed[baselines].mean().idxmax())
    common = by_seed[[name, SHIPPED, "joint"]].dropna()
    if common.empty:
        return ""
    best, shipped, joint = common.mean()
    share = (shipped - best) / (joint - best)
    return (
        f"Over the {len(common)} seeds that all three have, the shipped file ({shipped:.4f}) closes {share:.0%} of the "
        f"distance from the best baseline ({METHODS[name]}, {best:.4f}) to joint training ({joint:.4f})."
    )


def _strengths(setting: Setting, made: Made) -> str:
    """What was tried on held-out data; empty where nothing was."""
    lines = [["method", "strength: average accuracy on held-out data", "chosen"]]
    for method in setting.methods:
        tried = [run for run in setting.searches(method) if run.name in made.runs.index]
        values = made.runs["validation_average_accuracy"].reindex([run.name for run in tried])
        accuracies = [f"{run.strength:g}: {value:.4f}" for run, value in zip(tried, values, strict=True)]
        chosen = setting.chosen(method, made.runs)
        at_end = chosen in method.strengths[:1] + method.strengths[-1:]
        told = "" if chosen is None else f"{chosen:g}{' (an end of what was tried)' if at_end else ''}"
        if method.strengths:
            lines.append([METHODS[method.name], ", ".join(accuracies) or NOT_RUN, told])
    return f"Strengths, seed 0, one run each:\n\n{markdown(lines)}" if len(lines) > 1 else ""


def interval(values: Sequence[float], or_else: str = NOT_RUN) -> str:
    """The mean of some seeds with its 95 % interval; of two the values themselves, as an interval says little."""
    if not values:
        return or_else
    if len(values) == 2:
        return f"{sum(values) / 2:.4f} ({min(values):.4f}, {max(values):.4f})"
    made = estimate(values)
    return f"{made.mean:.4f}" if math.isnan(made.half_width) else f"{made.mean:.4f} ± {made.half_width:.4f}"


def _spread(values: Sequence[float], figure: float) -> list[str]:
    """Standard deviation, range, and a figure's place among the values."""
    if len(values) < 3:
        return ["", "", ""]
    column = pd.Series(values)
    deviation = float(column.std())
    place = "" if not deviation else f"{(figure - column.mean()) / deviation:+.1f}"
    return [f"{deviation:.4f}", f"{column.min():.4f} to {column.max():.4f}", place]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of cells; the first line is its head."""
    head, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)
