"""What stands between the shipped file and joint training on Split-CIFAR100: tables of short runs on held-out data."""

from __future__ import annotations

from typing import Final

import pandas as pd

from evaluation import keeping
from evaluation.experiment import Experiment, Made
from evaluation.tables import markdown

NAME: Final = "cifar_gap"
_FILES: Final = {
    "moving_averages.py": "moving averages",
    "fixed_averages.py": "the first context's averages",
    "fixed_averages_and_partial_traces.py": "the same, and partial traces",
}


def tables(experiment: Experiment, made: Made) -> str:
    """A row for each run, and what the drift of batch norms' averages costs one of them."""
    return f"{_runs(made)}\n\n{_drift()}"


def _runs(made: Made) -> str:
    head = ["batch norms and convolutions", "iterations", "strength", "seed", "accuracy", "when learned", "lost since"]
    lines, cells = [head], made.cells[made.cells["split"] == "validation"]
    for file, said in _FILES.items():
        runs = made.runs[made.runs["regularizer_file"] == file]
        for name, run in runs.sort_values(["iters", "seed", "reg_strength"]).iterrows():
            mine = cells[cells["name"] == name].pivot(index="after_context", columns="context", values="accuracy")
            final = mine.loc[run["contexts"]]
            learned = pd.Series({context: mine.loc[context, context] for context in final.index})
            figures = [f"{one.mean():.4f}" for one in (final, learned, learned - final)]
            lines.append([said, str(run["iters"]), f"{run['reg_strength']:g}", str(run["seed"]), *figures])
    return markdown(lines)


def _drift() -> str:
    rows = pd.read_csv(keeping.MEASURED / "batch_norm_averages.csv")
    means = rows.groupby("averages", sort=False)["validation_accuracy"].mean()
    head = ["the finished network of the first run, with running averages", "accuracy"]
    said = {"final": "as they are", "its own": "estimated anew for each context", "the first context's": "of context 1"}
    return markdown([head, *([said[str(kind)], f"{value:.4f}"] for kind, value in means.items())])
