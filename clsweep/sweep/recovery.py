"""A study whose storage is lost, put together again from the folders of its runs.

The storage is what processes share, and by default one file. What it holds of a run is in the run's folder, too: its
setting, its accuracies after each context, how it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from yaml import YAMLError

from clsweep import config as settings
from clsweep import results
from clsweep.config import Config
from clsweep.errors import InputError
from clsweep.sweep import finals
from clsweep.sweep.ledger import ENDED, INTERRUPTED, LOST, REASON, VOID
from clsweep.sweep.ledger import FAILED as GIVEN_UP
from clsweep.sweep.plan import StudyPlan, study_name
from clsweep.sweep.space import Point, Space
from clsweep.sweep.trial import FOLDER, ON_CONTEXTS, SEEDS, TEST
from clsweep.sweep.worker import StudyWorker

_LOCK = ".recovery.lock"
_TRIAL, _FINAL = "trial", "final"
_ENDED = {results.FAILED: GIVEN_UP, results.INTERRUPTED: INTERRUPTED, results.UNFINISHED: LOST}


def recover(study: StudyWorker) -> int:
    """Give a storage that knows nothing of a study the runs that are in the study's folder.

    Nothing is given where one of the folders is not of this study, or holds no setting.

    Args:
        study: this process's part in it.

    Returns:
        How many trials it was given.
    """
    plan = study.plan
    if study.ledger.trials() or not any(plan.folder.glob(f"{_TRIAL}-*/")):
        return 0
    with FileLock(plan.folder / _LOCK):  # another process may have been started at the same time
        if study.ledger.trials():
            return 0
        found = _Runs(plan)
        trials, final_runs = found.of(_TRIAL), found.of(_FINAL)
        if trials is None or final_runs is None:
            return 0
        _fill(study.ledger.study, [_trial(plan, runs, found.pruned.get(_number(runs[0].trial))) for runs in trials])
        if final_runs:
            _fill(study.final_study(), [_final(plan, runs[0]) for runs in final_runs])
        return len(trials)


@dataclass(frozen=True)
class _Run:
    """One run.

    Attributes:
        trial: the folder of its trial, which is its own where a trial has one seed.
        config: its setting.
        status: as in `summary.csv`, or unfinished.
        row: of `summary.csv`; empty where there is none.
        cells: its accuracies.
    """

    trial: Path
    config: Config
    status: str
    row: Mapping[Any, Any]
    cells: pd.DataFrame

    def on_contexts(self, after: int) -> list[float]:
        """The validation accuracies on the learned contexts, after one of them."""
        held_out = self.cells[self.cells["split"] == "validation"]
        then = held_out[(held_out["after_context"] == after) & (held_out["context"] <= after)]
        return [float(value) for value in then.sort_values("context")["accuracy"]]

    @property
    def seconds(self) -> float:
        """How long it took; 0 where that is not known."""
        return sum(float(self.row.get(f"{part}_seconds", 0.0)) for part in ("train", "importance", "eval"))


class _Runs:
    """The runs in a study's folder.

    Args:
        plan: the study's.

    Attributes:
        pruned: why trials were pruned, by number, as `trials.csv` has it: between two seeds no run says so.
    """

    def __init__(self, plan: StudyPlan) -> None:
        self._plan = plan
        self._found = results.load(plan.folder)
        trials = self._found.trials
        ended = trials[trials["state"] == TrialState.PRUNED.name]
        self.pruned: dict[int, str] = dict(zip(ended["number"], ended["reason"], strict=True))

    def of(self, role: str) -> list[list[_Run]] | None:
        """The runs of each trial, or each final run; None where one is not this study's."""
        trials = []
        for folder in sorted(self._plan.folder.glob(f"{role}-*/")):
            runs = [self._run(one, folder) for one in sorted(folder.glob("seed-*/"), key=_number) or [folder]]
            known = [run for run in runs if run is not None and _belongs(run.config, self._plan, role)]
            if len(known) < len(runs):
                return None
            trials.append(known)
        return trials

    def _run(self, folder: Path, trial: Path) -> _Run | None:
        """A run; None without its setting."""
        config = _setting(folder, self._plan)
        if config is None:
            return None
        place = str(results.short(folder))
        runs = self._found.runs
        ended = runs[(runs["folder"] == place) & (runs["status"] != results.UNFINISHED)].to_dict("records")
        row = ended[0] if ended else {}  # a run whose files are damaged counts as lost
        cells = self._found.cells[self._found.cells["folder"] == place]
        return _Run(trial, config, str(row.get("status", results.UNFINISHED)), row, cells)


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _setting(folder: Path, plan: StudyPlan) -> Config | None:
    """A run's setting, its method's file that of the run; None where there is none that can be read."""
    try:
        composed = OmegaConf.load(folder / ".hydra" / "config.yaml")
        if isinstance(composed, DictConfig) and composed.regularizer.file is not None:
            copy = folder / Path(composed.regularizer.file).name  # none yet where the run was killed as it began
            composed.regularizer.file = str(copy) if copy.is_file() else plan.config.regularizer.file
        return settings.parse(composed) if isinstance(composed, DictConfig) else None
    except (OSError, YAMLError, OmegaConfBaseException, InputError):
        return None


def _belongs(config: Config, plan: StudyPlan, role: str) -> bool:
    """Whether a run's setting is that of the study's runs, but for the values and the seed."""
    if role == _TRIAL and config.seed not in plan.seeds:
        return False
    if config.validation_fraction != (plan.validation_fraction if role == _TRIAL else 0.0):
        return False
    ours = plan.config
    same = replace(config, seed=ours.seed, validation_fraction=ours.validation_fraction, search=ours.search)
    return study_name(same) == plan.name


def _trial(plan: StudyPlan, runs: Sequence[_Run], pruned: str | None) -> FrozenTrial:
    """A trial as Optuna had it.

    Args:
        plan: the study's.
        runs: the trial's, by seed.
        pruned: why it was pruned, if `trials.csv` says that it was.
    """
    finished = [run for run in runs if run.status == results.FINISHED]
    complete = len(finished) == len(plan.seeds)
    attributes: dict[str, Any] = {SEEDS: [run.config.seed for run in runs]}
    if finished:
        attributes[ON_CONTEXTS] = [run.on_contexts(plan.contexts) for run in finished]
        attributes[TEST] = _mean(run.row["average_accuracy"] for run in finished)
    status, reason = runs[-1].status, runs[-1].row.get("reason")
    if not complete and len(finished) == len(runs):  # it ended between two seeds
        status, reason = (results.PRUNED, pruned) if pruned else (results.UNFINISHED, None)
    reported = dict(_reported(runs, plan.contexts))
    value = _mean(_reached(finished)) if complete else None
    if status == results.PRUNED:
        value = reported[max(reported)]  # as Optuna has it
    point = _point(plan, runs[0].config)
    ending = _Ending(status, reason, value)
    return _frozen(runs, ending, point, plan.space, attributes, reported)


def _reported(runs: Sequence[_Run], contexts: int) -> Iterator[tuple[int, float]]:
    """What was reported to Optuna; see `clsweep.sweep.trial.Reporter`."""
    for number, run in enumerate(runs):
        for after in range(1, contexts + 1):
            if accuracies := run.on_contexts(after):
                yield number * contexts + after, _mean([*_reached(runs[:number]), _mean(accuracies)])


def _reached(runs: Sequence[_Run]) -> list[float]:
    return [run.row["validation_average_accuracy"] for run in runs]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _final(plan: StudyPlan, run: _Run) -> FrozenTrial:
    """A final run as Optuna had it."""
    value = float(run.row["average_accuracy"]) if run.status == results.FINISHED else None
    point = finals.with_seed(_point(plan, run.config), run.config.seed)
    ending = _Ending(run.status, run.row.get("reason"), value)
    return _frozen([run], ending, point, finals.space(plan), {}, {})


@dataclass(frozen=True)
class _Ending:
    """How a trial ended: a run's status, why, and the objective's value where it was reached."""

    status: str
    reason: str | None
    value: float | None


def _frozen(
    runs: Sequence[_Run],
    ending: _Ending,
    point: Point,
    space: Space,
    attributes: dict[str, Any],
    reported: dict[int, float],
) -> FrozenTrial:
    attributes |= {FOLDER: str(results.short(runs[0].trial))}
    state = {results.FINISHED: TrialState.COMPLETE, results.PRUNED: TrialState.PRUNED}.get(
        ending.status, TrialState.FAIL
    )
    if state == TrialState.FAIL:
        attributes |= {ENDED: _ENDED[ending.status]}
    if state != TrialState.COMPLETE:
        attributes |= {REASON: ending.reason or "its run did not finish"}
    begun, ended = _times(runs)
    return FrozenTrial(
        number=_number(runs[0].trial),
        trial_id=-1,
        state=state,
        value=ending.value,
        datetime_start=begun,
        datetime_complete=ended,
        params=point,
        distributions={name: _with(distribution, point[name]) for name, distribution in space.items()},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values=reported,
    )


def _times(runs: Sequence[_Run]) -> tuple[datetime, datetime]:
    """When a trial began and ended, in local time, as Optuna has it; now where that is not known."""
    started: Any = runs[0].row.get("started_at")
    known = started is not None and not pd.isna(started)
    begun = started.to_pydatetime().astimezone().replace(tzinfo=None) if known else datetime.now()
    return begun, begun + timedelta(seconds=sum(run.seconds for run in runs))


def _point(plan: StudyPlan, config: Config) -> Point:
    return {name: getattr(config.regularizer, name) for name in plan.space}


def _with(distribution: BaseDistribution, value: float) -> BaseDistribution:
    """The distribution, wide enough for a value: an interval may have been moved since."""
    if not isinstance(distribution, FloatDistribution):
        return distribution
    return FloatDistribution(min(distribution.low, value), max(distribution.high, value), log=distribution.log)


def _fill(study: Study, trials: Sequence[FrozenTrial]) -> None:
    """Add trials under their numbers, which name their folders; a number without a folder is a trial that never ran."""
    by_number = {trial.number: trial for trial in trials}
    for number in range(max(by_number) + 1):
        study.add_trial(by_number.get(number) or _never_ran(number))


def _never_ran(number: int) -> FrozenTrial:
    now = datetime.now()
    return FrozenTrial(
        number=number,
        trial_id=-1,
        state=TrialState.FAIL,
        value=None,
        datetime_start=now,
        datetime_complete=now,
        params={},
        distributions={},
        user_attrs={ENDED: VOID, REASON: "never ran"},
        system_attrs={},
        intermediate_values={},
    )
