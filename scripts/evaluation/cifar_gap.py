"""The gap between the shipped file and joint training on Split-CIFAR100: tables of short runs on validation data."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from clsweep.results import metrics
from evaluation import keeping
from evaluation.experiment import Experiment, Made
from evaluation.tables import markdown

NAME: Final = "cifar_gap"
_FILES: Final = {
    "moving_averages.py": "moving averages",
    "fixed_averages.py": "fixed averages",
    "fixed_averages_and_partial_traces.py": "fixed averages, partial traces",
}

_METRICS: Final = {
    "average accuracy": metrics.average_accuracy,
    "learning accuracy": metrics.learning_accuracy,
    "forgetting": metrics.forgetting,
}


def tables(experiment: Experiment, made: Made) -> str:
    """A row for each run, and what the drift of batch norms' averages costs one of them."""
    return f"{_runs(made)}\n\n{_drift()}"


def _runs(made: Made) -> str:
    lines = [["version", "iterations", "strength", "seed", *_METRICS]]
    cells = made.cells[made.cells["split"] == "validation"]
    for file, said in _FILES.items():
        runs = made.runs[made.runs["regularizer_file"] == file]
        for name, run in runs.sort_values(["iters", "seed", "reg_strength"]).iterrows():
            mine = cells[cells["name"] == name].pivot(index="after_context", columns="context", values="accuracy")
            matrix = mine.reindex(range(run["contexts"] + 1)).to_numpy(dtype=np.float64)
            figures = [f"{metric(matrix):.4f}" for metric in _METRICS.values()]
            lines.append([said, str(run["iters"]), f"{run['reg_strength']:g}", str(run["seed"]), *figures])
    return markdown(lines)


def _drift() -> str:
    rows = pd.read_csv(keeping.MEASURED / "batch_norm_averages.csv")
    means = rows.groupby("averages", sort=False)["validation_accuracy"].mean()
    head = ["running averages of the first run's network", "average accuracy"]
    said = {
        "final": "as trained",
        "its own": "estimated anew from each context",
        "the first context's": "estimated from the first context",
    }
    return markdown([head, *([said[str(kind)], f"{value:.4f}"] for kind, value in means.items())])
