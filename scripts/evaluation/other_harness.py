"""The shipped file in a harness that knows nothing of clsweep, from the rows that `tests/stand_in.py --rows` leaves."""

from __future__ import annotations

import hashlib
from typing import Final

import pandas as pd

from evaluation import keeping
from evaluation.experiment import ROOT, Experiment, Made
from evaluation.names import BENCHMARKS
from evaluation.tables import interval, markdown

NAME: Final = "other_harness"
# The classes' order in the published comparison, where it is known: the permutation that seed 42 gives in NumPy.
_ORDER: Final = {"split_mnist": "1 3 5 8 7 2 9 4 0 6"}
# The strength of every method there, and the best figure of all that were published.
PUBLISHED: Final = {"split_mnist": (5_000, 0.9870), "perm_mnist": (10_000, 0.8935), "split_cifar100": (100, 0.5463)}


def table(experiment: Experiment, made: Made) -> str:
    """The average accuracy of the file as it is now, by benchmark, class order and strength, beside the best figure.

    Args:
        experiment: this one.
        made: of no use: these are no runs of clsweep.
    """
    rows = _rows()
    head = ["benchmark", "class order", "iterations", "precision", "strength", "seeds"]
    lines = [[*head, "average accuracy", "best published"]]
    for benchmark, (strength, best) in PUBLISHED.items():
        mine = rows[rows["benchmark"] == benchmark]
        for key, same in mine.groupby(["contexts", "classes", "iterations", "precision", "strength"]):
            contexts, classes, iterations, precision, used = key
            part = "" if contexts == mine["contexts"].max() else f", {contexts} contexts"
            beside = f"{best:.4f}" if used == strength else ""
            values = same["average_accuracy"].tolist()
            how = [_order(benchmark, str(classes)), f"{iterations:,}", str(precision), f"{used:g}", str(len(values))]
            lines.append([BENCHMARKS[benchmark] + part, *how, interval(values), beside])
    lacking = [name for benchmark, name in BENCHMARKS.items() if benchmark not in set(rows["benchmark"])]
    return markdown(lines) + (f"\n\nNot run yet: {', '.join(lacking)}." if lacking else "")


def at_published_strength(benchmark: str) -> list[float]:
    """The average accuracies of the file as it is now at the published strength and class order, one a seed."""
    rows, (strength, _) = _rows(), PUBLISHED[benchmark]
    like = (rows["strength"] == strength) & (rows["classes"] == _ORDER.get(benchmark, ""))
    mine = rows[(rows["benchmark"] == benchmark) & like]
    whole = mine[mine["contexts"] == mine["contexts"].max()]
    return [float(value) for value in whole["average_accuracy"]]


def _order(benchmark: str, classes: str) -> str:
    """Which class order runs had, in words; empty where the published one isn't known, or there is none."""
    if benchmark not in _ORDER:
        return ""
    return "published" if classes == _ORDER[benchmark] else "each seed's own"


def _rows() -> pd.DataFrame:
    """Those of the file as it is now."""
    file = keeping.MEASURED / f"{NAME}.csv"
    columns = ["digest", "benchmark", "strength", "classes", "contexts", "average_accuracy"]
    rows = (
        pd.read_csv(file, dtype={"classes": str}).fillna({"classes": ""})
        if file.exists()
        else pd.DataFrame(columns=columns)
    )
    current = hashlib.sha256((ROOT / "custom_regularization.py").read_bytes()).hexdigest()[:12]
    return rows[rows["digest"] == current].drop_duplicates()
