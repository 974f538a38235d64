"""Checks of the values that were read, all at once: one at a time takes longer than reading them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from clsweep.ranges import DIGITS
from clsweep.results import metrics
from clsweep.results.curves import CURVE_FILE, min_accuracy
from clsweep.results.writing import ACCURACY_FILE, FINISHED, SUMMARY_FILE

_TEST, _VALIDATION = "test", "validation"
# By split, the columns of a summary that follow from its accuracies, in the order in which they are checked.
_METRICS = {
    _TEST: {
        "average_accuracy": metrics.average_accuracy,
        "learning_accuracy": metrics.learning_accuracy,
        "forgetting": metrics.forgetting,
        "backward_transfer": metrics.backward_transfer,
    },
    _VALIDATION: {"validation_average_accuracy": metrics.average_accuracy},
}
# Without these a finished run is no result.
_REQUIRED_OF_FINISHED = (
    *("benchmark", "scenario", "stream", "dataset", "regularizer", "precision"),
    *("seed", "contexts", "iters", "batch_size", "lr", "validation_fraction", "average_accuracy"),
)
_WHOLE_NUMBER = rf"[+-]?\d{{1,{DIGITS}}}"
_ROUNDING = 1e-9
_TRUTH = {"True": True, "False": False, "": None}

Broken = dict[str, tuple[str, str]]  # by folder: the file, and what is wrong with it


class UnreadableError(Exception):
    """A file that cannot be used; its message says why."""


def incomplete(runs: pd.DataFrame) -> Broken:
    """Finished runs without what makes a result.

    Args:
        runs: the runs, of their columns' types.

    Returns:
        What is wrong with them.
    """
    finished = runs[runs["status"] == FINISHED]
    return {
        folder: (SUMMARY_FILE, f"{name} is empty, but the run is finished")
        for name in _REQUIRED_OF_FINISHED
        for folder in finished.loc[finished[name].isna() | finished[name].astype(str).eq(""), "folder"]
    }


def inconsistent(runs: pd.DataFrame, cells: pd.DataFrame) -> Broken:
    """Runs whose accuracies are out of range, missing or given twice.

    Args:
        runs: the runs, of their columns' types.
        cells: their accuracies.

    Returns:
        What is wrong with them.
    """
    broken: Broken = {}
    for folder, value in cells.loc[~cells["accuracy"].between(0, 1), ["folder", "accuracy"]].to_numpy():
        broken.setdefault(folder, (ACCURACY_FILE, f"accuracy={value}; expected a number from 0 to 1"))
    place = ["folder", "after_context", "context", "split"]
    for folder in cells.loc[cells.duplicated(place), "folder"]:
        broken.setdefault(folder, (ACCURACY_FILE, "an accuracy is given twice"))
    counts = cells[cells["split"] == _TEST].groupby("folder").size()
    for folder, stream, contexts in _finished(runs)[["folder", "stream", "contexts"]].to_numpy():
        expected = contexts * (2 if stream == "joint" else contexts + 1)
        if counts.get(folder, 0) != expected or contexts < 1:
            message = f"{counts.get(folder, 0)} accuracies on test data; expected {expected}"
            broken.setdefault(folder, (ACCURACY_FILE, message))
    return broken


def contradicting(runs: pd.DataFrame, cells: pd.DataFrame) -> Broken:
    """Runs with a metric in the summary that their accuracies don't give; but for the average, it may be missing.

    Args:
        runs: the runs, of their columns' types, none of them incomplete or inconsistent.
        cells: their accuracies.

    Returns:
        What is wrong with them.
    """
    broken: Broken = {}
    rows = cells.groupby(["folder", "split"]).indices
    after, context = (cells[name].fillna(-1).to_numpy("int64") for name in ("after_context", "context"))
    accuracy = cells["accuracy"].to_numpy()
    for run in _finished(runs).to_dict("records"):
        for split, by_name in _METRICS.items():
            own = rows.get((run["folder"], split), np.empty(0, "int64"))
            matrix = metrics.matrix_of(after[own], context[own], accuracy[own], int(run["contexts"]))
            for name, metric in by_name.items():
                given, found = run[name], metric(matrix)
                if not (abs(found - given) < _ROUNDING or (math.isnan(given) and name != "average_accuracy")):
                    message = f"{name}={given}, but {ACCURACY_FILE} beside it says otherwise"
                    broken.setdefault(run["folder"], (SUMMARY_FILE, message))
    return broken


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The finished runs, with the contexts that they have learned; those that don't say how many are `incomplete`."""
    learned = runs.assign(contexts=_learned(runs))
    return learned[(runs["status"] == FINISHED) & learned["contexts"].notna()]


def _learned(runs: pd.DataFrame) -> pd.Series:
    """How many contexts each run learns."""
    return runs["contexts"].where(runs["first_contexts"].isna(), runs["first_contexts"])


def inconsistent_curves(runs: pd.DataFrame, curves: pd.DataFrame) -> Broken:
    """Runs whose curve is out of range, has gaps, or doesn't give the `min_accuracy` in the summary.

    Args:
        runs: the runs, of their columns' types.
        curves: what they were measured within their contexts.

    Returns:
        What is wrong with them.
    """
    broken: Broken = {}
    for folder, value in curves.loc[~curves["accuracy"].between(0, 1), ["folder", "accuracy"]].to_numpy():
        broken.setdefault(folder, (CURVE_FILE, f"accuracy={value}; expected a number from 0 to 1"))
    tested = curves[curves["split"] == _TEST]
    moments = tested.groupby(["folder", "overall_iteration"])
    measured = moments["context"].nunique().to_frame("distinct").join(moments["training_context"].agg(["size", "max"]))
    gaps = measured[(measured["distinct"] != measured["max"]) | (measured["size"] != measured["max"])]
    for folder, iteration in gaps.index:
        message = f"iteration {iteration} of all hasn't one accuracy on each context so far"
        broken.setdefault(folder, (CURVE_FILE, message))
    finished = _finished(runs)
    finished = finished[finished["evaluate_every"].notna()]
    by_run = dict(list(tested.groupby("folder")))
    for folder, contexts, given in finished[["folder", "contexts", "min_accuracy"]].to_numpy():
        curve = by_run.get(folder, tested.iloc[:0])
        found = min_accuracy(curve, contexts)
        if set(curve["training_context"]) != set(range(1, contexts + 1)):
            broken.setdefault(folder, (CURVE_FILE, f"not measured in each of the {contexts} contexts"))
        elif not (abs(found - given) < _ROUNDING or (math.isnan(found) and math.isnan(given))):
            message = f"min_accuracy={given}, but {CURVE_FILE} beside it says otherwise"
            broken.setdefault(folder, (SUMMARY_FILE, message))
    return broken


def miscounted(runs: pd.DataFrame, cells: pd.DataFrame) -> Broken:
    """Runs whose numbers of examples can't be right, such as 20 where the last digit of 200 is lost.

    A context has the same examples after every context, and those of all contexts make up the test images.

    Args:
        runs: the runs, of their columns' types.
        cells: their accuracies.

    Returns:
        What is wrong with them.
    """
    broken: Broken = {}
    context = ["folder", "split", "context"]
    counted = cells[cells["folder"].isin(cells.loc[cells["n"].notna(), "folder"])]  # not where the column is missing
    differing = counted[counted.groupby(context)["n"].transform("nunique", dropna=False) > 1]
    for (folder, split, number), own in differing.groupby(context):
        several = " and ".join(map(str, own["n"].drop_duplicates()))
        broken.setdefault(
            str(folder), (ACCURACY_FILE, f"n={several} for context {number} ({split}); expected one number")
        )
    tested = counted[counted["split"] == _TEST].drop_duplicates(context).groupby("folder")["n"].agg(["sum", "max"])
    finished = runs[(runs["status"] == FINISHED) & runs["n_test"].notna()].merge(tested, on="folder")
    wrong = finished[(finished["sum"] < finished["n_test"]) | (finished["max"] > finished["n_test"])]
    for folder, total, n_test in wrong[["folder", "sum", "n_test"]].to_numpy():
        message = f"n of the contexts' test images adds up to {total}, but {SUMMARY_FILE} beside it has n_test={n_test}"
        broken.setdefault(folder, (ACCURACY_FILE, message))
    return broken


def copies(runs: pd.DataFrame) -> Broken:
    """Runs that are there already, in another folder.

    Args:
        runs: the runs, of their columns' types.

    Returns:
        What is wrong with them.
    """
    first: dict[str, str] = {}
    return {
        folder: (SUMMARY_FILE, f"the same run as in {first[run_id]}: counted once")
        for folder, run_id in zip(runs["folder"], runs["run_id"], strict=True)
        if run_id and first.setdefault(run_id, folder) != folder
    }


def not_numbers(table: pd.DataFrame, dtypes: dict[str, str], name: str) -> Broken:
    """The first value in each file that is not of its column's type.

    Args:
        table: text, with a column `folder`.
        dtypes: of the columns.
        name: of the files.

    Returns:
        What is wrong with them.
    """
    broken: Broken = {}
    for column, dtype in dtypes.items():
        if dtype == "str":
            continue
        given = table[column]
        if dtype == "boolean":
            good = given.isin(list(_TRUTH))
        elif dtype == "Int64":
            good = given.str.fullmatch(_WHOLE_NUMBER)
        else:
            good = pd.to_numeric(given, errors="coerce").notna()
        wrong = ~(good | given.isin(["", "nan"] if dtype == "float64" else [""]))
        for folder, value in zip(table["folder"][wrong], given[wrong], strict=True):
            broken.setdefault(folder, (name, f"{column}={value}; expected {_EXPECTED[dtype]}"))
    return broken


_EXPECTED = {"Int64": f"a whole number of up to {DIGITS} digits", "float64": "a number", "boolean": "True or False"}


def converted(table: pd.DataFrame, dtypes: dict[str, str]) -> pd.DataFrame:
    """The table with its columns' types; a column that isn't there is empty.

    Args:
        table: text.
        dtypes: of the columns.

    Raises:
        UnreadableError: a value is not of its column's type.
    """
    whole = table.reindex(columns=list(dict.fromkeys([*dtypes, *table])), fill_value="")
    try:
        return pd.DataFrame({name: _parsed(column, dtypes.get(str(name))) for name, column in whole.items()}).astype(
            dtypes
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableError(str(error)) from error


def _parsed(values: pd.Series, dtype: str | None) -> pd.Series:
    if dtype == "boolean":
        return values.map(_TRUTH)
    if dtype == "Int64":  # by Python's integers: a missing one would make all of them floats
        return pd.Series([int(value) if value else None for value in values], values.index, "Int64")
    if dtype == "float64":
        return pd.to_numeric(values.where(values != "", None))
    return values
