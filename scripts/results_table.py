"""Print the runs in `outputs/reference/` as the Markdown tables of `docs/results.md`.

    python scripts/results_table.py

`runs/` holds the runs that are reported, `tuning/` those with held-out data that hyperparameters were chosen by.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

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


def read(folder: Path) -> pd.DataFrame:
    """The summaries of all finished runs below `folder`, one row each."""
    runs = pd.concat([pd.read_csv(path) for path in sorted(folder.glob("**/summary.csv"))], ignore_index=True)
    return runs[runs["status"] == "finished"]


def markdown(runs: pd.DataFrame, figures: dict[str, str]) -> str:
    """The runs as a Markdown table, the best of the first of `figures` first within each benchmark and budget."""
    columns = SETTING | figures
    best = next(iter(figures))
    shown = runs.sort_values(["benchmark", "contexts", "iters", "dataset", best], ascending=[*[True] * 4, False])
    shown = shown[list(columns)].astype({"reg_strength": object, "epsilon": object})
    shown.loc[shown["regularizer"].isin(["joint", "none"]), ["reg_strength", "epsilon"]] = ""
    shown.loc[shown["regularizer"] != "si", "epsilon"] = ""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[_cell(name, value) for name, value in row.items()] for _, row in shown.iterrows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(name: object, value: object) -> str:
    """A figure with four decimals, a hyperparameter as short as it is; empty for what doesn't apply."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}" if name in SETTING else f"{value:.4f}"
    return str(value)


if __name__ == "__main__":
    print(markdown(read(REFERENCE / "runs"), REPORTED))
    print()
    print(markdown(read(REFERENCE / "tuning"), TUNING))
