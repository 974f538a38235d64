"""Print the runs in `outputs/reference/` as the Markdown tables of `docs/results.md`.

    python scripts/results_table.py

Of the folders that its tables name, `runs/` are the runs that are reported, `tuning/` those with held-out data that
hyperparameters were chosen by, `sweeps/` the studies.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from clsweep import results
from clsweep.results import Results, short
from clsweep.results.statistics import estimate

REFERENCE = Path(__file__).resolve().parent.parent / "outputs" / "reference"
SETTING = {
    "benchmark": "benchmark",
    "contexts": "contexts",
    "dataset": "data set",
    "regularizer": "method",
    "iters": "iterations a context",
    "precision": "precision",
    "seed": "seed",
    "reg_strength": "reg_strength",
    "epsilon": "epsilon",
}
REPORTED = {
    "average_accuracy": "average accuracy",
    "learning_accuracy": "learning accuracy",
    "forgetting": "forgetting",
}
TUNING = {"validation_average_accuracy": "average accuracy, validation"}


def read(found: Results, name: str) -> pd.DataFrame:
    """The summaries of all finished runs below the folder `name`, one row each."""
    runs = found.runs[found.runs["folder"].str.startswith(f"{short(REFERENCE / name)}/")]
    return runs[runs["status"] == results.FINISHED].sort_values("folder", kind="stable")


def markdown(runs: pd.DataFrame, figures: dict[str, str]) -> str:
    """The runs as a Markdown table, the best of the first of `figures` first within each benchmark and budget."""
    columns = SETTING | figures
    best = next(iter(figures))
    shown = runs.sort_values(["benchmark", "contexts", "iters", "dataset", best], ascending=[*[True] * 4, False])
    shown = shown[list(columns)].astype({"reg_strength": object, "epsilon": object})
    shown.loc[shown["regularizer"].isin(["joint", "none"]), ["reg_strength", "epsilon"]] = ""
    shown.loc[~shown["regularizer"].isin(["si", "rwalk"]), "epsilon"] = ""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[_cell(name, value) for name, value in row.items()] for _, row in shown.iterrows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sweeps(found: Results) -> str:
    """The studies of sweeps as a Markdown table: the best trial, the final runs of its values and the default ones."""
    head = ["sweep", "benchmark", "method", "trials", "pruned", "best values", "validation: best", "default"]
    lines = [[*head, "test: tuned (seeds)", "default (seeds)"]]
    lines.append(["---"] * len(lines[0]))
    for study in sorted(found.studies.to_dict("records"), key=lambda study: Path(study["study"])):
        trials, final = (frame[frame["study"] == study["study"]] for frame in (found.trials, found.finals))
        if len(final):
            lines.append([Path(study["study"]).parent.name, *_study(study, trials, final)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _study(study: dict[Any, Any], trials: pd.DataFrame, final: pd.DataFrame) -> list[str]:
    finished = trials[trials["state"].isin(["COMPLETE", "PRUNED"])]
    best = finished.loc[[finished["validation_average_accuracy"].idxmax()]]
    tuned, default = (final[final["setting"] == setting] for setting in ("tuned", "default"))
    names = list(study["space"])
    # The first trial has the default values, unless they are outside of what is searched.
    first = trials[names].iloc[0]
    outside = not default.empty and (default[names].iloc[0] != first).any()
    same = (finished[names] == first).all(axis=1)
    return [
        study["benchmark"],
        study["method"],
        str(len(finished)),
        str((finished["state"] == "PRUNED").sum()),
        ", ".join(f"{name} {tuned[name].iloc[0]:.4g}" for name in names),
        f"{best['validation_average_accuracy'].item():.4f}",
        "" if outside else f"{finished[same]['validation_average_accuracy'].iloc[0]:.4f}",
        *(_interval(runs["test_average_accuracy"].tolist()) for runs in (tuned, default)),
    ]


def _interval(values: list[float]) -> str:
    if not values:
        return ""
    made = estimate(values)
    half_width = "" if math.isnan(made.half_width) else f" ± {made.half_width:.4f}"
    return f"{made.mean:.4f}{half_width} ({len(values)})"


def _cell(name: object, value: object) -> str:
    """A figure with four decimals, a hyperparameter as short as it is; empty for what doesn't apply."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}" if name in SETTING else f"{value:.4f}"
    return str(value)


if __name__ == "__main__":
    everything = results.load(REFERENCE)
    print(markdown(read(everything, "runs"), REPORTED))
    print()
    print(markdown(read(everything, "tuning"), TUNING))
    print()
    print(sweeps(everything))
