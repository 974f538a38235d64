"""Markdown tables of an experiment's runs; what has not been run says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from clsweep.published import published
from clsweep.results.statistics import compare, estimate, holm
from evaluation import variance as components
from evaluation.experiment import Experiment, Made, Method, Setting, Study
from evaluation.names import METHODS, SETTINGS, SHIPPED

NOT_RUN = "not run yet"
_OF_OTHERS = ("other seeds", "standard deviation", "range", "published less mean, in standard deviations")
_LESS = {SHIPPED: "shipped file less it", "ewc_exact": "exact less it"}
_TIMES = {"training": "train_seconds", "importance": "importance_seconds"}
_ACCURACIES = {
    "average_accuracy": "average accuracy",
    "learning_accuracy": "learning accuracy",
    "forgetting": "forgetting",
}


def comparison(experiment: Experiment, made: Made, *, to_joint: bool = False, reference: str = SHIPPED) -> str:
    """Methods beside each other, and their strengths.

    Args:
        experiment: whose runs.
        made: those that are there.
        to_joint: whether it is said how much of the distance to joint training the shipped file closes.
        reference: the method that the others are compared with.
    """
    parts = [_count(experiment, made)]
    for setting in experiment.settings:
        runs = made.of(setting)
        parts += [_heading(experiment, setting), _compared(setting, runs, reference)]
        if to_joint:
            parts.append(_share_of_distance(runs))
        parts.append(_strengths(setting, made))
    return _joined(parts)


def tuned(experiment: Experiment, made: Made) -> str:
    """Methods whose values a sweep has chosen beside each other: values, accuracies, differences and times."""
    parts = [_count(experiment, made)]
    for setting in experiment.settings:
        runs = made.of(setting)
        studies = {one.name: made.studies.get(run.name) for one in setting.methods for run in setting.searches(one)}
        differences, times = _corrected(setting, runs), _times(runs)
        lines = [["method", "best values", "validation accuracy", "seeds", "test accuracy", _LESS[SHIPPED], *_TIMES]]
        for method in setting.methods:
            mine = runs.loc[runs["method"] == method.name, "average_accuracy"].tolist()
            row = [METHODS[method.name], *_best(method, studies), str(len(mine) or ""), interval(mine)]
            lines.append([*row, differences.get(method.name, ""), *times.get(method.name, ["", ""])])
        parts += [_heading(experiment, setting), markdown(lines), _searched(studies)]
    return _joined(parts)


def _best(method: Method, studies: Mapping[str, Study | None]) -> list[str]:
    """The values that a sweep has chosen, and their accuracy on validation data."""
    study = studies.get(method.name)
    if study is None:
        return ["" if method.is_bound else NOT_RUN, ""]
    values = ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in study.values.items()
    )
    return [values, f"{study.accuracy:.4f}"]


def _corrected(setting: Setting, runs: pd.DataFrame) -> dict[str, str]:
    """By method, the shipped file's accuracy less its, with p-values that are corrected for the number of rivals."""
    by_seed = {name: _by_seed(runs[runs["method"] == name]) for name in runs["method"].unique()}
    others = [one for one in setting.methods if one.name != SHIPPED]
    compared = {one.name: compare(by_seed.get(SHIPPED, {}), by_seed.get(one.name, {})) for one in others}
    rivals = [one.name for one in others if not one.is_bound]
    p_values = dict(zip(rivals, holm([compared[name].p for name in rivals]), strict=True))
    return {
        name: _told(one.difference, one.seeds, p_values.get(name, math.nan))
        for name, one in compared.items()
        if one.seeds
    }


def _times(runs: pd.DataFrame) -> dict[str, list[str]]:
    """By method, training and importance in the training time of no penalty: medians of the common seeds' ratios."""
    by_seed = {name: runs[runs["method"] == name].set_index("seed") for name in runs["method"].unique()}
    if "none" not in by_seed:
        return {}
    plain = by_seed["none"]["train_seconds"]
    medians = {name: [(mine[one] / plain).median() for one in _TIMES.values()] for name, mine in by_seed.items()}
    return {str(name): ["" if math.isnan(one) else f"{one:.2f}" for one in both] for name, both in medians.items()}


def _searched(studies: Mapping[str, Study | None]) -> str:
    """What the sweeps searched; empty where none is there."""
    lines = [["method", "searched", "trials", "of these stopped early"]]
    for name, study in studies.items():
        if study is not None:
            ranges = ", ".join(f"{one} `{text}`" for one, text in study.ranges.items())
            lines.append([METHODS[name], ranges, str(study.trials), str(study.pruned)])
    return f"What the sweeps searched, seed 0:\n\n{markdown(lines)}" if len(lines) > 1 else ""


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
    runs = experiment.runs(made)
    there, names = sum(made.has(run) for run in runs), [run.name for run in runs]
    others = made.runs[(made.runs["regularizer_digest"] != "") & ~made.runs.index.isin(names)]
    said = f"{there} of {len(runs)} runs are made."
    if len(others):
        said += f" {len(others)} more are of other versions of `custom_regularization.py` and not in the tables."
    return said


def _heading(experiment: Experiment, setting: Setting) -> str:
    return f"### {SETTINGS[setting.name]}" if len(experiment.settings) > 1 else ""


def _compared(setting: Setting, runs: pd.DataFrame, reference: str) -> str:
    lines = [["method", "strength", "seeds", *_ACCURACIES.values(), _LESS[reference]]]
    by_seed = {name: _by_seed(runs[runs["method"] == name]) for name in runs["method"].unique()}
    for method in setting.methods:
        mine = runs[runs["method"] == method.name]
        values = [interval(mine[column].dropna().tolist(), or_else="") for column in _ACCURACIES]
        values[0] = values[0] or NOT_RUN
        difference = _difference(by_seed.get(reference, {}), by_seed.get(method.name, {}))
        difference = "" if method.name == reference else difference
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
    return _told(made.difference, made.seeds, made.p) if made.seeds else ""


def _told(difference: float, seeds: int, p: float) -> str:
    of_test = "" if seeds < 3 or math.isnan(p) else f", p {p:.2g}"
    return f"{difference:+.4f} ({seeds} seed{'s' if seeds > 1 else ''}{of_test})"


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
    over = f"Over the {len(common)} seeds" if len(common) > 1 else "On the one seed"
    return (
        f"{over} that all three have, the shipped file ({shipped:.4f}) closes {share:.0%} of the "
        f"distance from the best baseline ({METHODS[name]}, {best:.4f}) to joint training ({joint:.4f})."
    )


def _strengths(setting: Setting, made: Made) -> str:
    """What was tried on held-out data; empty where nothing was."""
    lines = [["method", "strength: average accuracy on held-out data", "chosen"]]
    for method in setting.methods:
        tried = [run for run in setting.searches(method) if run.name in made.runs.index]
        values = made.runs["validation_average_accuracy"].reindex([run.name for run in tried])
        accuracies = [f"{run.strength:g}: {value:.4f}" for run, value in zip(tried, values, strict=True)]
        chosen = (setting.chosen(method, made) or {}).get("reg_strength")
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
