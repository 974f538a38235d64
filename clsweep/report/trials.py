"""What the trials of a study count as, where more is asked than which was best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from clsweep.results.tuning import BestOf, Flat, Values, best_of, finished_told, flat, not_counted_told

COMPLETE, PRUNED, FAILED = "COMPLETE", "PRUNED", "FAIL"
ACCURACY: Final = "validation_average_accuracy"
WITHIN: Final = 0.005  # accuracies this near to the best one count as equally good
# What ends a trial through no fault of its values, where a file doesn't say it in the column `ended`.
_NOT_ITS_OWN: Final = r"interrupted|its process ended|outside of what is searched now|trial \d+ goes on with"


def last_measured(trials: pd.DataFrame) -> pd.Series:
    """The mean validation accuracy of the contexts learned, where a trial was stopped; NaN before the first."""
    measured = _measurements(trials)
    if not measured:
        return pd.Series(np.nan, index=trials.index)
    return trials[measured].ffill(axis=1).iloc[:, -1].astype(float)


def _measurements(trials: pd.DataFrame) -> list[str]:
    """The columns of what was measured after each context, in order, of several seeds one after the other."""
    return [str(column) for column in trials if str(column).startswith(("validation_after_", "seed_"))]


def attempts(trials: pd.DataFrame, searched: Sequence[str]) -> pd.DataFrame:
    """The trials that say something about their values, in order: complete, pruned, and failed by themselves.

    Those that run, were interrupted or lost don't. Nor do those that a later one with the same values replaced, unless
    they are complete.

    Args:
        trials: a study's rows of `Results.trials`.
        searched: the hyperparameters that it searched.
    """
    states = trials["state"]
    mine = trials[(states == COMPLETE) & trials[ACCURACY].notna() | (states == PRUNED) | failed_itself(trials)]
    mine = mine.sort_values("number", kind="stable")
    names = [name for name in searched if name in mine]
    again = mine.duplicated(names, keep="last") if names else pd.Series(False, index=mine.index)
    return mine[(mine["state"] == COMPLETE) | ~again]


def best_trial(trials: pd.DataFrame, searched: Sequence[str]) -> pd.Series | None:
    """The complete trial with the highest validation accuracy; of equals, that whose values were tried first.

    A trial that was lost has tried its values, too; see `clsweep.sweeps.status.best`.

    Args:
        trials: a study's rows of `Results.trials`.
        searched: the hyperparameters that it searched.
    """
    names = [name for name in searched if name in trials]
    tried = trials.groupby(names, dropna=False)["number"].transform("min") if names else trials["number"]
    complete = trials.assign(tried=tried)[(trials["state"] == COMPLETE) & trials[ACCURACY].notna()]
    ordered = complete.sort_values([ACCURACY, "tried"], ascending=[False, True], kind="stable")
    return None if ordered.empty else ordered.iloc[0]


def failed_itself(trials: pd.DataFrame) -> pd.Series:
    """Which of a study's trials failed, and weren't interrupted, lost or doubled: Optuna knows only FAIL."""
    failed = trials["state"] == FAILED
    guessed = ~trials["reason"].fillna("").str.match(_NOT_ITS_OWN)
    if "ended" not in trials:
        return failed & guessed
    ended = trials["ended"].fillna("")
    return failed & (ended == "failed").where(ended != "", guessed)


def ended_told(trials: pd.DataFrame) -> str:
    """How a study's trials ended, in the words of the sweep; `trials` are its rows of `Results.trials`."""
    states = trials["state"].value_counts()
    complete, pruned, failed = (int(states.get(state, 0)) for state in (COMPLETE, PRUNED, FAILED))
    by_themselves = int(failed_itself(trials).sum())
    parts = [finished_told(f"{complete + pruned} trials finished", pruned, by_themselves)]
    if others := failed - by_themselves:
        parts.append(f"not counted: {not_counted_told(others)}")
    if unended := len(trials) - complete - pruned - failed:
        parts.append(f"{unended} running or killed")
    return "; ".join(parts)


def counted(trials: pd.DataFrame, searched: Sequence[str]) -> pd.Series:
    """What each of `attempts` counts as when the best of some trials is asked for.

    A pruned trial isn't missing by chance: it lagged behind others. Left out, it would make tuning look easier than it
    is; and its last measurement is of fewer contexts, often above what any trial reaches in the end. It counts as the
    complete trials that stood where it stood after the same context: what the next better and the next worse one
    reached in the end, interpolated. One that stood below all of them counts as the worst complete trial, or as its own
    last measurement where that is lower; one that failed, or was pruned unmeasured, counts as the worst.

    Args:
        trials: a study's rows of `Results.trials`.
        searched: the hyperparameters that it searched.

    Returns:
        A value for each attempt; empty where no trial is complete.
    """
    mine = attempts(trials, searched)
    complete = mine[mine["state"] == COMPLETE]
    if complete.empty:
        return pd.Series(dtype=float)
    values = mine[ACCURACY].where(mine["state"] == COMPLETE, complete[ACCURACY].min())
    stopped = mine.loc[mine["state"] == PRUNED, _measurements(mine)].dropna(how="all")
    if len(stopped):
        latest = stopped.notna().iloc[:, ::-1].idxmax(axis=1)
        for column, own in stopped.groupby(latest):
            values[own.index] = _as_complete_ones(own[column], complete[column], complete[ACCURACY])
    return values


def _as_complete_ones(stood: pd.Series, others: pd.Series, reached: pd.Series) -> Values:
    """What stopped trials would have reached, by what the complete ones that stood there reached.

    Args:
        stood: the accuracies of those trials after the context.
        others: those of the complete trials, after the same context.
        reached: what these reached in the end.
    """
    known = reached.groupby(others).mean()  # in the order of where they stood
    if known.empty:
        return np.asarray(np.minimum(stood, reached.min()), dtype=np.float64)
    between = np.interp(stood, known.index, known)
    below = np.minimum(stood, reached.min())
    return np.asarray(np.where(stood < known.index[0], below, between), dtype=np.float64)


def best_of_trials(trials: pd.DataFrame, searched: Sequence[str]) -> BestOf | None:
    """The expected best of n of a study's trials on validation data; None where no trial is complete."""
    values = counted(trials, searched)
    return None if values.empty else best_of(values.to_numpy())


def flatness(trials: pd.DataFrame, name: str, searched: Sequence[str]) -> Flat | None:
    """How flat validation accuracy is around the best value of a hyperparameter.

    Returns:
        None where no trial is complete, or where the values are no numbers.
    """
    mine = attempts(trials, searched)
    if (
        not (mine["state"] == COMPLETE).any()
        or not pd.api.types.is_numeric_dtype(mine[name])
        or mine[name].isna().any()
    ):
        return None
    reached = mine[ACCURACY].where(mine["state"] == COMPLETE)
    return flat(mine[name].to_numpy(dtype=float), reached.to_numpy(dtype=float), WITHIN)
