"""Print the runs in `outputs/reference/` as the Markdown table of `docs/results.md`.

python scripts/results_table.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

REFERENCE = Path(__file__).resolve().parent.parent / "outputs" / "reference"
COLUMNS = {
    "benchmark": "benchmark",
    "dataset": "data set",
    "regularizer": "method",
    "budget": "budget",
    "precision": "precision",
    "seed": "seed",
    "reg_strength": "reg_strength",
    "average_accuracy": "average accuracy",
    "learning_accuracy": "learning accuracy",
    "forgetting": "forgetting",
    "iters_per_second": "it/s",
}


def read(folder: Path) -> pd.DataFrame:
    """The summaries of all runs below `folder`, one row each, sorted as they are shown."""
    runs = pd.concat([pd.read_csv(path) for path in sorted(folder.glob("**/summary.csv"))])
    runs = runs[runs["status"] == "finished"]
    return runs.sort_values(["benchmark", "budget", "dataset", "average_accuracy"], ascending=[True, True, True, False])


def cell(value: object) -> str:
    """A number with the digits that mean something; an empty cell for what doesn't apply."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4f}" if abs(value) < 1 else f"{value:g}"
    return str(value)


def markdown(runs: pd.DataFrame) -> str:
    """The runs as a Markdown table."""
    shown = runs[list(COLUMNS)].copy()
    shown["iters_per_second"] = shown["iters_per_second"].round().astype(int)
    shown.loc[shown["regularizer"].isin(["joint", "none"]), "reg_strength"] = float("nan")
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[cell(value) for value in row] for row in shown.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    if not any(REFERENCE.glob("**/summary.csv")):
        sys.exit(f"{REFERENCE}: holds no runs.")
    print(markdown(read(REFERENCE)))
