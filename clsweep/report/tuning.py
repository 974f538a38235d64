"""How much tuning each study's method needs: the file `expected_best.csv`, and what the page says of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clsweep.report.trials import WITHIN, attempts, best_of_trials, flatness
from clsweep.report.unit import FRACTION, Unit, four_digits
from clsweep.results import Results
from clsweep.results.tuning import SHARE_TEXT, Flat

_COLUMNS = [
    "study",
    "benchmark",
    "method",
    "budget",
    "tune_on",
    "trials",
    "pruned",
    "failed",
    "n",
    "mean",
    "low",
    "high",
]


def expected_best(found: Results) -> pd.DataFrame:
    """The best of n trials on validation data, for every study: the file `expected_best.csv`.

    Args:
        found: what was read.

    Returns:
        A row for each study and n: columns `study`, `benchmark`, `method`, `budget`, `tune_on`; `trials` that count,
        `pruned` and `failed` ones among them; `n`; `mean`, the expected best; `low` and `high`, between which most
        searches end.
    """
    parts = []
    groups = dict(list(found.trials.groupby("study", sort=False)))
    for study in found.studies.to_dict("records"):
        searched = searched_by(study["space"])
        trials = groups.get(study["study"])
        best = None if trials is None else best_of_trials(trials, searched)
        if trials is None or best is None:
            continue
        states = attempts(trials, searched)["state"].value_counts()
        known = {name: study[name] for name in _COLUMNS[:5]}
        counts = {"trials": len(best.mean), "pruned": states.get("PRUNED", 0), "failed": states.get("FAIL", 0)}
        values = {"n": np.arange(1, len(best.mean) + 1), "mean": best.mean, "low": best.low, "high": best.high}
        parts.append(pd.DataFrame(known | counts | values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)


def searched_by(space: object) -> list[str]:
    """The hyperparameters that a study searched, from its `space`, which may be unknown."""
    return list(space) if isinstance(space, dict) else []


def told(trials: pd.DataFrame, searched: Sequence[str], unit: Unit = FRACTION) -> list[str]:
    """What a study's trials say about tuning, a sentence each.

    Args:
        trials: its rows of `Results.trials`.
        searched: the hyperparameters that it searched.
        unit: of accuracies.
    """
    best = best_of_trials(trials, searched)
    if best is None or not searched:
        return []
    near = f"{unit.tick(WITHIN)}{unit.difference}"
    n, size = best.needed(WITHIN), len(best.mean)
    lines = []
    if size > 1:
        lines.append(
            f"The best of {n} of the {size} trials is on average within {near} of the best of all; in {SHARE_TEXT} "
            f"of searches of {n} it would lie from {unit.text(best.low[n - 1])} to {unit.text(best.high[n - 1])}."
        )
    if len(searched) == 1 and searched[0] in trials:
        around = flatness(trials, searched[0], searched)
        if around is not None:
            lines.append(f"Within {near} of the best: {searched[0]} {flat_range(around)}.")
    return lines


def flat_range(around: Flat) -> str:
    """The values within reach of the best as text."""
    if around.trials == 1 and around.low == around.high:
        return f"{four_digits(around.best)} alone of those that were tried"
    wide = "" if not around.decades > 0 else f", {around.decades:.1f} decades"
    ends = [word for word, is_open in (("below", around.open_below), ("above", around.open_above)) if is_open]
    more = f", perhaps more {' and '.join(ends)}" if ends else ""
    return f"{four_digits(around.low)} to {four_digits(around.high)} ({around.trials} trials{wide}{more})"
