"""The final runs: the best setting and the default one, trained on all training data with fresh seeds.

They are trials of a second Optuna study beside the first, whose values are test accuracies: no sampler or pruner
reads those. So they too are shared by several processes, and survive being killed. Studies that differ in nothing but
what they are tuned on share one such study: the same values and seed are trained once for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from clsweep import results
from clsweep.data.context_cache import ContextCache
from clsweep.space import Point, Space
from clsweep.sweeps.ledger import Ledger
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.taken import FOLDER
from clsweep.sweeps.trial import Noting, take_or_run

TUNED, DEFAULT = "tuned", "default"
_SEED = "seed"
_ANY = FloatDistribution(-1e300, 1e300)


@dataclass(frozen=True)
class FinalRun:
    """One final run.

    Attributes:
        setting: `tuned` or `default`.
        point: the hyperparameters' values.
        seed: its seed.
        trial: the complete one; None where the run failed or is still to come.
    """

    setting: str
    point: Point
    seed: int
    trial: FrozenTrial | None

    @property
    def test_average_accuracy(self) -> float | None:
        """From 0 to 1; None without a complete trial."""
        return None if self.trial is None else self.trial.value

    @property
    def folder(self) -> str | None:
        """Of its results; None without a complete trial."""
        return None if self.trial is None else self.trial.user_attrs[FOLDER]


class _OwnQueue(Study):
    """The study of the final runs as one of those that share it takes them: what others have queued is theirs.

    Args:
        study: Optuna's.
        points: this one's final runs.
    """

    def __init__(self, study: Study, points: Sequence[Point]) -> None:
        vars(self).update(vars(study))
        self._points = points

    def _pop_waiting_trial_id(self) -> int | None:
        for trial in self.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if trial.system_attrs.get("fixed_params") in self._points:
                with suppress(UpdateFinishedTrialError):
                    if self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                        return trial._trial_id
        return None


class Finals:
    """The final runs of one study.

    Args:
        plan: the study's.
        study: Optuna's, of the final runs.
        storage: where it is.
        best: the best trial's values; None where nothing is searched.
        streams: makes the contexts.
    """

    def __init__(
        self, plan: StudyPlan, study: Study, storage: BaseStorage, best: Point | None, streams: ContextCache
    ) -> None:
        self._plan = plan
        self._streams = streams
        self._settings = {} if best is None else {TUNED: best}
        self._settings[DEFAULT] = plan.default
        points = [
            {**_coded(point), _SEED: float(seed)}
            for number, point in enumerate(self._settings.values())
            for seed in plan.final_seeds
            if point not in list(self._settings.values())[:number]
        ]
        space: Space = dict.fromkeys((*plan.space, _SEED), _ANY)
        self.ledger = Ledger(_OwnQueue(study, points), storage, space, len(points), points, points)

    def objective(self, trial: Trial) -> float:
        """Train one final run; see `clsweep.sweeps.trial.Runner.objective` for the errors.

        Returns:
            The average accuracy on the test data after the last context, from 0 to 1.
        """
        coded = dict(trial.params)
        seed = int(coded.pop(_SEED))
        point = next(one for one in self._settings.values() if _coded(one) == coded)
        name = f"final-{trial.number:04d}"
        folder = self._plan.folder / name
        trial.set_user_attr(FOLDER, str(results.short(folder)))
        config = self._plan.final_config(point, seed)
        return take_or_run(trial, self._plan, folder, config, Noting(trial), self._streams).average_accuracy

    def runs(self) -> list[FinalRun]:
        """Every final run, those of the best setting first."""
        trials = self.ledger.trials()
        return [
            self._run(setting, point, seed, trials)
            for setting, point in self._settings.items()
            for seed in self._plan.final_seeds
        ]

    def _run(self, setting: str, point: Point, seed: int, trials: Sequence[FrozenTrial]) -> FinalRun:
        wanted = {**_coded(point), _SEED: float(seed)}
        done = [trial for trial in trials if trial.params == wanted and trial.state == TrialState.COMPLETE]
        return FinalRun(setting, point, seed, done[0] if done else None)


def _coded(point: Point) -> Point:
    """A point of numbers alone, since Optuna lets no choice be added later: any other value becomes its digest."""
    return {name: value if isinstance(value, int | float) else _code(value) for name, value in point.items()}


def _code(text: str) -> float:
    return float(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()))


def chosen(plan: StudyPlan) -> str:
    """Which setting a study comes to: the tuned one, or the default one where nothing is searched."""
    return TUNED if plan.way.searches else DEFAULT


def accuracies(runs: Sequence[FinalRun], setting: str) -> list[float]:
    """The test accuracies of a setting's runs that are done."""
    return [
        run.test_average_accuracy for run in runs if run.setting == setting and run.test_average_accuracy is not None
    ]
