"""Where a study stands, read from its trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from clsweep.space import Point
from clsweep.sweeps.continued import current
from clsweep.sweeps.marks import ENDED, FAILED, INTERRUPTED, LOST, NOTES, REASON, VOID
from clsweep.sweeps.spent import seconds

_SHOWN = {FAILED: "failed", INTERRUPTED: "interrupted", LOST: "lost", VOID: "not run"}  # Optuna knows FAIL alone


@dataclass(frozen=True)
class Status:
    """The trials of one study, sorted.

    Attributes:
        complete: those that ran to the end.
        pruned: those that were stopped early.
        failed: those that failed.
        running: those that run now.
        marked: those whose point is, or was, tried again: lost, interrupted or void.
        best: see `best`.
    """

    complete: list[FrozenTrial]
    pruned: list[FrozenTrial]
    failed: list[FrozenTrial]
    running: list[FrozenTrial]
    marked: list[FrozenTrial]
    best: FrozenTrial | None

    @property
    def finished(self) -> int:
        """How many trials count towards the budget."""
        return len(self.complete) + len(self.pruned)

    @property
    def lost(self) -> list[FrozenTrial]:
        """Those whose process ended."""
        return [trial for trial in self.marked if trial.user_attrs.get(ENDED) == LOST]

    @property
    def seconds_per_trial(self) -> float | None:
        """Mean time of the finished trials."""
        finished = [*self.complete, *self.pruned]
        return float(np.mean([seconds(trial) for trial in finished])) if finished else None

    @property
    def seconds_saved(self) -> float:
        """About how long the pruned trials would have gone on: to the mean time of the complete ones."""
        if not self.complete:
            return 0.0
        whole = float(np.mean([seconds(trial) for trial in self.complete]))
        return sum(max(0.0, whole - seconds(trial)) for trial in self.pruned)


def status(trials: Sequence[FrozenTrial]) -> Status:
    """Sort a study's trials, each point once: a trial that has gone on as another is left out."""
    every, trials = trials, current(trials)
    ended = [trial for trial in trials if trial.state == TrialState.FAIL]
    return Status(
        complete=[trial for trial in trials if trial.state == TrialState.COMPLETE],
        pruned=[trial for trial in trials if trial.state == TrialState.PRUNED],
        failed=[trial for trial in ended if trial.user_attrs.get(ENDED) == FAILED],
        running=[trial for trial in trials if trial.state == TrialState.RUNNING],
        marked=[trial for trial in ended if trial.user_attrs.get(ENDED) != FAILED],
        best=best(every),
    )


def best(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial with the highest validation accuracy; of equals, that whose point was tried first.

    A trial that was lost has tried its point, too: being killed must not change what a sweep chooses.
    """
    first: dict[frozenset[tuple[str, Any]], int] = {}
    complete: list[tuple[float, int, FrozenTrial]] = []
    for trial in sorted(trials, key=lambda one: one.number):
        tried = first.setdefault(frozenset(trial.params.items()), trial.number)
        if trial.state == TrialState.COMPLETE:
            complete.append((-(trial.value or 0.0), tried, trial))
    return min(complete, key=lambda one: one[:2], default=(0.0, 0, None))[2]


def how_it_ended(trial: FrozenTrial) -> str:
    """A finished trial's end in a word."""
    return _SHOWN[trial.user_attrs.get(ENDED, FAILED)] if trial.state == TrialState.FAIL else trial.state.name.lower()


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed, was pruned, lost or interrupted; empty for a complete one."""
    return str(trial.user_attrs.get(REASON, ""))


def notes(trial: FrozenTrial) -> str:
    """What the user should know of a trial's runs, to be printed behind the trial's line."""
    return "".join(f"  note: {sentence}" for sentence in trial.user_attrs.get(NOTES, []))


def of_budget(finished: int, n_trials: int) -> str:
    """How many trials are finished, of how many: `search.n_trials` may have been lowered since."""
    return f"{finished} of {n_trials} trials" if finished <= n_trials else f"{finished} trials (n_trials is {n_trials})"


def of_time(spent: float, timeout: float) -> str:
    """How much time is spent, of how much, both in the unit that suits what there is."""
    if timeout < 60:
        return f"{spent:.0f} of {timeout:.0f} s"
    unit, parts = ("min", 60) if timeout < 3600 else ("h", 3600)
    return f"{_in_sixtieths(spent, parts)} of {_in_sixtieths(timeout, parts)} {unit}"


def _in_sixtieths(seconds: float, unit: int) -> str:
    whole, rest = divmod(int(seconds), unit)
    return f"{whole}:{rest * 60 // unit:02d}"


def named(point: Point) -> str:
    """A point as it is printed."""
    return "  ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in point.items()
    )


def untried(default: Point) -> str:
    """What is said of default values that no search tries."""
    return f"the default values ({named(default)}) lie outside of what is searched, and are not tried"
