"""The tuned comparison: tables of the kept sweeps on each benchmark, and of the bounds on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable
from functools import cache
from typing import Any, Final

import pandas as pd

from clsweep import results
from clsweep.paths import short
from clsweep.published import published
from clsweep.results import FINISHED, Results
from clsweep.results.statistics import compare
from evaluation import other_harness
from evaluation.experiment import Experiment, Made
from evaluation.keeping import REFERENCE
from evaluation.names import BENCHMARKS, METHODS, SHIPPED
from evaluation.tables import TO_SHIPPED, interval, markdown

NAME: Final = "tuned"
_SWEEPS: Final = {
    "split_mnist-full": "Split-MNIST, full budget, 15 trials",
    "perm_mnist-full": "Permuted-MNIST, full budget, bf16, 5 trials",
    "split_cifar100-quick": "Split-CIFAR100, a tenth of the budget, bf16, 5 trials",
    "perm_mnist-short": "Permuted-MNIST, 600 iterations with ten times the learning rate, bf16, 8 trials",
    "split_cifar100-short": "Split-CIFAR100, 250 iterations, bf16, 4 trials",
    "split_cifar100-narrow": "Split-CIFAR100, 100 iterations, hidden layers of 500, 5 trials",
}
_WITH_BOUNDS: Final = {
    "split_mnist-full": "split_mnist",
    "perm_mnist-full": "perm_mnist",
    "split_cifar100-quick": "split_cifar100",
}
_COMPARED: Final = (SHIPPED, "kfac_ewc", "si", "online_ewc", "ewc")
_BOUNDS: Final = ("joint", "none")
_HYPERPARAMETERS: Final = ("reg_strength", "gamma", "epsilon")
_Accuracies = dict[int, float]


def tables(experiment: Experiment, made: Made) -> str:
    """A table for each sweep: a row for each method, the best validation accuracy first, and the bounds."""
    return "\n\n".join(f"### {title}\n\n{_table(sweep)}" for sweep, title in _SWEEPS.items())


def overview() -> str:
    """README's table: tuned methods, the bounds, and some methods at one strength for all."""
    benchmarks = list(_WITH_BOUNDS.values())
    head = ["average accuracy after the last context", *(BENCHMARKS[benchmark] for benchmark in benchmarks)]
    tuned = [_tuned(sweep) for sweep in _WITH_BOUNDS]
    lines = [[METHODS[name], *(_mean(one.get(name, {}).values()) for one in tuned)] for name in _COMPARED]
    lines += [[METHODS[name], *(_mean(_bound(one, name).values()) for one in benchmarks)] for name in _BOUNDS]
    for name in ("ewc", "si"):
        figures = [f"{published()[benchmark].accuracy[name]:.4f}" for benchmark in benchmarks]
        lines.append([f"one strength for all, as published: {METHODS[name]}", *figures])
    untuned = [_mean(other_harness.at_published_strength(benchmark)) for benchmark in benchmarks]
    return markdown([head, *lines, [f"the same strength: {METHODS[SHIPPED]}", *untuned]])


def _mean(values: Collection[float]) -> str:
    return interval(list(values)) or "not run"


def _tuned(sweep: str) -> dict[str, _Accuracies]:
    """Each method's final runs with tuned values; a search that has none is an earlier one of the same method."""
    studies = _studies(sweep)
    made = [(str(row["method"]), _finals(row["study"])) for row in studies.to_dict("records")]
    return {SHIPPED if name == "custom" else name: accuracies for name, accuracies in made if accuracies}


@cache
def _found() -> Results:
    return results.load(REFERENCE)


def _table(sweep: str) -> str:
    lines = [["method", "tuned values", "validation accuracy", "seeds", "test accuracy", TO_SHIPPED]]
    studies = _studies(sweep)
    shipped = next(filter(None, map(_finals, studies.loc[studies["method"] == "custom", "study"])))
    for study in studies.to_dict("records"):
        name = SHIPPED if study["method"] == "custom" else str(study["method"])
        accuracies = _finals(study["study"])
        if not accuracies:  # an earlier search of the same method
            continue
        difference = "" if name == SHIPPED else _difference(accuracies, shipped)
        validation = f"{study['validation']:.4f}"
        lines.append([METHODS[name], _values(study), validation, *_shown(accuracies), difference])
    for bound in _BOUNDS:
        accuracies = _bound(_WITH_BOUNDS.get(sweep, ""), bound)
        if accuracies:
            lines.append([METHODS[bound], "", "", *_shown(accuracies), _difference(accuracies, shipped)])
    return markdown(lines)


def _studies(sweep: str) -> pd.DataFrame:
    """The studies of a sweep with their best complete trial, the best one first."""
    found, start = _found(), f"{short(REFERENCE / 'sweeps' / sweep)}/"
    complete = found.trials[found.trials["state"] == "COMPLETE"].dropna(subset=["validation_average_accuracy"])
    best = complete.loc[complete.groupby("study")["validation_average_accuracy"].idxmax()]
    best = best.rename(columns={"validation_average_accuracy": "validation"})
    studies = found.studies[found.studies["study"].str.startswith(start)]
    return studies.merge(best[["study", "validation", *_HYPERPARAMETERS]], on="study").sort_values(
        "validation", ascending=False, kind="stable"
    )


def _values(study: dict[Hashable, Any]) -> str:
    searched = [name for name in _HYPERPARAMETERS if name in study["space"]]
    return ", ".join(f"{name} {study[name]:.4g}" for name in searched)


def _finals(study: str) -> _Accuracies:
    finals = _found().finals
    mine = finals[(finals["study"] == study) & (finals["setting"] == "tuned")].dropna(subset=["test_average_accuracy"])
    return _by_seed(mine, "test_average_accuracy")


def _bound(benchmark: str, name: str) -> _Accuracies:
    runs = _found().runs
    start = f"{short(REFERENCE / 'bounds')}/{benchmark}-{name}-"
    mine = runs[runs["folder"].str.startswith(start) & (runs["status"] == FINISHED)] if benchmark else runs[:0]
    return _by_seed(mine, "average_accuracy")


def _by_seed(runs: pd.DataFrame, column: str) -> _Accuracies:
    return {int(seed): float(value) for seed, value in zip(runs["seed"], runs[column], strict=True)}


def _shown(accuracies: _Accuracies) -> list[str]:
    """The number of seeds, and their mean with its interval."""
    return [str(len(accuracies)), interval(list(accuracies.values()))]


def _difference(first: _Accuracies, second: _Accuracies) -> str:
    made = compare(first, second)
    if math.isnan(made.low):
        return f"{made.difference:+.4f}"
    return f"{made.difference:+.4f} [{made.low:+.4f}, {made.high:+.4f}], p {made.p:.2g}"
