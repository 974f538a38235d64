"""Markdown tables of the runs of an experiment that are made, and a sentence on those that aren't."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution

from clsweep import space
from clsweep.published import published
from clsweep.results.statistics import compare, estimate, holm
from evaluation import variance as components
from evaluation.experiment import Experiment, Made, Method, Run, Setting, Study
from evaluation.names import METHODS, SHIPPED, SHIPPED_RATE

TO_SHIPPED: Final = "difference to the shipped file"
_FEWEST_TESTED: Final = 3  # seeds
_NEAR: Final = 0.1
_OF_OTHERS = ("other seeds", "mean", "standard deviation", "range", "(published - mean) / standard deviation")
_DIFFERENCE = {SHIPPED: TO_SHIPPED, "ewc_exact": "difference to exact"}
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
    parts = [progress(experiment, made)]
    for setting in experiment.settings:
        runs = made.of(setting)
        gap = _share_of_gap(runs) if to_joint else ""
        parts.append(_section(experiment, setting, _compared(setting, runs, reference), gap, _strengths(setting, made)))
    return _joined(parts)


def tuned(experiment: Experiment, made: Made) -> str:
    """Methods whose values a sweep has chosen beside each other: values, accuracies and differences."""
    parts = [progress(experiment, made)]
    for setting in experiment.settings:
        runs = made.of(setting)
        searches = {one.name: made.studies.get(run.name) for one in setting.methods for run in setting.searches(one)}
        studies = {name: study for name, study in searches.items() if study is not None}
        differences = _corrected(setting, runs)
        lines = [["method", "tuned values", "validation accuracy", "seeds", "test accuracy", TO_SHIPPED]]
        for method in setting.methods:
            mine = runs.loc[runs["method"] == method.name, "average_accuracy"].tolist()
            diverged = made.diverged_of(setting, method.name)
            seeds = f"{len(mine)}, {diverged} diverged" if diverged else str(len(mine) or "")
            row = [METHODS[method.name], *_best(studies.get(method.name)), seeds, interval(mine)]
            if mine or method.name in studies:
                lines.append([*row, differences.get(method.name, "")])
        parts.append(_section(experiment, setting, _complete(lines, setting), _searched(studies)))
    return _joined(parts)


def _best(study: Study | None) -> list[str]:
    """The values that a sweep has chosen, and their accuracy on validation data."""
    if study is None:
        return ["", ""]
    values = ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in study.values.items()
    )
    return [values, f"{study.accuracy:.4f}"]


def _corrected(setting: Setting, runs: pd.DataFrame) -> dict[str, str]:
    """By method, its accuracy less the shipped file's, with p-values that are corrected for the number of rivals.

    Where the shipped file has a row with another learning rate, too, methods of a rate of their own are compared with
    that one: otherwise a better rate would count as a better method.
    """
    by_seed = {name: _by_seed(runs[runs["method"] == name]) for name in runs["method"].unique()}
    has_both = any(one.name == SHIPPED_RATE for one in setting.methods)
    others = [one for one in setting.methods if one.name not in (SHIPPED, SHIPPED_RATE)]
    likes = {one.name: SHIPPED_RATE if has_both and _has_own_rate(one) else SHIPPED for one in others}
    compared = {name: compare(by_seed.get(name, {}), by_seed.get(like, {})) for name, like in likes.items()}
    rivals = [one.name for one in others if not one.is_bound]
    tested = [name for name in rivals if compared[name].seeds >= _FEWEST_TESTED]
    p_values = dict(zip(tested, holm([compared[name].p for name in tested]), strict=True))
    return {
        name: _told(one.difference, one.seeds, p_values.get(name, math.nan))
        for name, one in compared.items()
        if one.seeds
    }


def _has_own_rate(method: Method) -> bool:
    return any(one.startswith("optimizer.lr=") for one in (*method.overrides, *method.search))


def _searched(studies: Mapping[str, Study]) -> str:
    """What the sweeps searched; empty where none is there."""
    lines = [["method", "search space", "trials", "pruned", "failed", "best near an end"]]
    for name, study in studies.items():
        ranges = ", ".join(f"{one} `{text}`" for one, text in study.ranges.items())
        counts = [str(study.trials), str(study.pruned), str(study.failed or "")]
        lines.append([METHODS[name], ranges, *counts, ", ".join(_near_an_end(study))])
    return f"The sweeps, with seed 0:\n\n{markdown(lines)}" if studies else ""


def _near_an_end(study: Study) -> list[str]:
    """What has its best value within a tenth of its range from an end."""
    near = []
    for name, distribution in space.parse(study.ranges).items():
        value = study.values[name]
        if isinstance(distribution, FloatDistribution | IntDistribution) and not isinstance(value, str):
            scale = math.log if distribution.log else float
            low, high, mine = (scale(one) for one in (distribution.low, distribution.high, value))
            if min(mine - low, high - mine) < _NEAR * (high - low):
                near.append(name)
    return near


def after_contexts(experiment: Experiment, made: Made, *, counts: Sequence[int]) -> str:
    """The mean accuracy over the contexts learned so far, after some numbers of contexts of the same runs."""
    parts = [progress(experiment, made)]
    for setting in experiment.settings:
        runs = made.of(setting)
        means = made.learned(runs)
        lines = [["method", "strength", "seeds", *(f"{count} contexts" for count in counts)]]
        for name, mine in _by_method(setting, runs):
            values = [means.loc[means.index.isin(mine.index), count].tolist() for count in counts]
            lines.append([METHODS[name], *_strength_and_seeds(mine), *map(interval, values)])
        parts.append(_section(experiment, setting, _complete(lines, setting), _strengths(setting, made)))
    return _joined(parts)


def beside_published(experiment: Experiment, made: Made, *, benchmark: str, best: float) -> str:
    """Published accuracies, those of the same seed here, and their place among other seeds.

    Args:
        experiment: whose runs.
        made: those that are there.
        benchmark: whose.
        best: the best published accuracy, whatever the method, which stands beside the shipped file.
    """
    parts = [progress(experiment, made)]
    for setting in experiment.settings:
        runs, theirs = made.of(setting), published()[benchmark].accuracy
        first, *others = [" ".join(draw) for draw in setting.draws]
        lines = [["method", "strength", "published", first.replace("=", " "), *(_OF_OTHERS if others else ())]]
        for name, mine in _by_method(setting, runs):
            accuracy = mine.set_index("draw")["average_accuracy"]
            rest = accuracy[accuracy.index.isin(others)].tolist()
            figure = best if name == SHIPPED else theirs[name]
            shown = f"{figure:.4f}{' (the best of any method)' if name == SHIPPED else ''}"
            same = interval(accuracy[accuracy.index == first].tolist())
            row = [METHODS[name], _strength_and_seeds(mine)[0], shown, same]
            place = [str(len(rest) or ""), interval(rest), *_spread(rest, figure)]
            lines.append([*row, *(place if others else ())])
        parts.append(_section(experiment, setting, _complete(lines, setting)))
    return _joined(parts)


def variance(experiment: Experiment, made: Made) -> str:
    """Where the spread between runs comes from."""
    parts = [progress(experiment, made)]
    for setting in experiment.settings:
        runs, lines = made.of(setting), [["method", "runs", "mean", "standard deviation", *components.SOURCES]]
        for name, mine in _by_method(setting, runs):
            found = components.of(mine)
            if found is not None:
                lines.append([METHODS[name], *found.told()])
        parts.append(_section(experiment, setting, _complete(lines, setting)))
    return _joined(parts)


def progress(experiment: Experiment, made: Made) -> str:
    """How many runs are made, and what the others take; a sweep counts as one run."""
    runs, missing = experiment.runs(made), experiment.missing(made)
    names = [run.name for run in runs]
    others = int(((made.runs["regularizer_digest"] != "") & ~made.runs.index.isin(names)).sum())
    told = [_made_of(experiment, runs, missing)]
    if missing:
        command = f"`python scripts/experiments.py run {experiment.name}`"
        told.append(f"Not run yet: {_some(len(missing), 'run')}, about {_core_time(missing)}: {command}.")
    if others:
        of_others = f"{_some(others, 'run')} with another version of `custom_regularization.py`"
        told.append(f"The tables leave out {of_others}.")
    return " ".join(part for part in told if part)


def _made_of(experiment: Experiment, runs: Sequence[Run], missing: Sequence[Run]) -> str:
    """How many runs are made, of each title; empty where none is."""
    if not missing:
        return f"All {len(runs)} runs are made."
    if len(missing) == len(runs):
        return ""
    titles = {setting.name: setting.title for setting in experiment.settings}
    all_of, missing_of = (Counter(titles[run.setting] for run in some) for some in (runs, missing))
    each = "; ".join(f"{title}: {count - missing_of[title]} of {count}" for title, count in all_of.items())
    there = len(runs) - len(missing)
    said = f"{there} of {len(runs)} runs {'is' if there == 1 else 'are'} made"
    return f"{said} ({each})." if len(all_of) > 1 else f"{said}."


def _core_time(runs: Iterable[Run]) -> str:
    minutes = sum(run.minutes for run in runs)
    return f"{minutes / 60:.0f} core hours" if minutes >= 90 else _some(max(1, round(minutes)), "core minute")


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _section(experiment: Experiment, setting: Setting, *parts: str) -> str:
    """What there is of a setting, with a heading if the page has several; empty where nothing is."""
    heading = f"### {setting.title}" if len(experiment.settings) > 1 and any(parts) else ""
    return _joined([heading, *parts])


def _by_method(setting: Setting, runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs of each method that has some, in the setting's order."""
    for method in setting.methods:
        mine = runs[runs["method"] == method.name]
        if len(mine):
            yield method.name, mine


def _complete(lines: Sequence[Sequence[str]], setting: Setting) -> str:
    """A table with a row for each method that has runs, and the methods that have none; empty without a row."""
    if len(lines) == 1:
        return ""
    there = {line[0] for line in lines}
    lacking = [METHODS[one.name] for one in setting.methods if METHODS[one.name] not in there]
    return _joined([markdown(lines), f"Not in this table yet: {', '.join(lacking)}." if lacking else ""])


def _compared(setting: Setting, runs: pd.DataFrame, reference: str) -> str:
    lines = [["method", "strength", "seeds", *_ACCURACIES.values(), _DIFFERENCE[reference]]]
    by_seed = {name: _by_seed(mine) for name, mine in _by_method(setting, runs)}
    for name, mine in _by_method(setting, runs):
        values = [interval(mine[column].dropna().tolist()) for column in _ACCURACIES]
        difference = "" if name == reference else _difference(by_seed[name], by_seed.get(reference, {}))
        lines.append([METHODS[name], *_strength_and_seeds(mine), *values, difference])
    return _complete(lines, setting)


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
    of_test = "" if seeds < _FEWEST_TESTED or math.isnan(p) else f", p {p:.2g}"
    return f"{difference:+.4f} ({_some(seeds, 'seed')}{of_test})"


def _share_of_gap(runs: pd.DataFrame) -> str:
    """How much of the gap between the best baseline and joint training the shipped file closes, over common seeds."""
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
    over = f"Over {len(common)} common seeds" if len(common) > 1 else "On the one common seed"
    return (
        f"{over}, the shipped file ({shipped:.4f}) closes {share:.0%} of the gap between the best baseline "
        f"({METHODS[name]}, {best:.4f}) and joint training ({joint:.4f})."
    )


def _strengths(setting: Setting, made: Made) -> str:
    """What was tried on validation data; empty where nothing was."""
    lines = [["method", "strength: validation accuracy", "chosen"]]
    for method in setting.methods:
        tried = [run for run in setting.searches(method) if run.name in made.runs.index]
        values = made.runs["validation_average_accuracy"].reindex([run.name for run in tried])
        accuracies = [f"{run.strength:g}: {value:.4f}" for run, value in zip(tried, values, strict=True)]
        chosen = (setting.chosen(method, made) or {}).get("reg_strength")
        at_end = chosen in method.strengths[:1] + method.strengths[-1:]
        of_all = f"none yet: {len(tried)} of {len(method.strengths)} tried"
        told = of_all if chosen is None else f"{chosen:g}{' (at an end of the grid)' if at_end else ''}"
        if tried:
            lines.append([METHODS[method.name], ", ".join(accuracies), told])
    return f"The strengths that were tried, one run each with seed 0:\n\n{markdown(lines)}" if len(lines) > 1 else ""


def interval(values: Sequence[float], or_else: str = "") -> str:
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
