"""How long trials took."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from clsweep.sweeps.marks import CARRIED, ENDED, LOST
from clsweep.sweeps.owner import BEAT


def seconds(trial: FrozenTrial) -> float:
    """How long a trial took, or has taken so far; NaN for one that has not begun.

    What was taken over from an earlier trial counts.
    """
    return own_seconds(trial) + float(trial.user_attrs.get(CARRIED, 0.0))


def own_seconds(trial: FrozenTrial) -> float:
    """The same without what was taken over.

    A lost trial ended with its last beat, or up to half a minute later, and not when that was noticed.
    """
    if trial.datetime_start is None:
        return float("nan")
    seconds = ((trial.datetime_complete or datetime.now()) - trial.datetime_start).total_seconds()
    beat = trial.user_attrs.get(BEAT)
    if trial.user_attrs.get(ENDED) == LOST and beat is not None:
        seconds = min(seconds, max(0.0, beat - trial.datetime_start.timestamp()))
    return seconds


def spent(trials: Iterable[FrozenTrial]) -> float:
    """How long all workers have worked on a study's trials so far, in seconds.

    However they ended, and whichever command ran them; what one took over from another is the other's time.
    """
    return sum(own_seconds(trial) for trial in trials if trial.state != TrialState.WAITING)
