"""Runs that an earlier trial of the same point made, in whole or in part: taken over, not trained again.

A finished run was not recorded, as when its process was killed in between. An unfinished run has left checkpoints, and
resumes. In both cases the run's folder is moved to where it belongs now.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from clsweep import checkpoints, decisive, results, resuming
from clsweep.config import Config
from clsweep.results.metrics import Cell
from clsweep.sweeps.plan import StudyPlan
from clsweep.training import saved

FOLDER = "folder"  # an attribute of a trial
_SECONDS = ("train_seconds", "importance_seconds", "eval_seconds")


@dataclass(frozen=True)
class Taken:
    """A finished run.

    Attributes:
        average_accuracy: on the test data after the last context, from 0 to 1.
        validation_average_accuracy: the same on the validation data; NaN where nothing was held out.
        seconds: how long it trained, estimated importance and was evaluated.
        measured: its cells, those of one moment together, in order.
    """

    average_accuracy: float
    validation_average_accuracy: float
    seconds: float
    measured: list[list[Cell]]


def take(folder: Path, config: Config, setting: Mapping[str, Any], left: Sequence[Path]) -> Taken | None:
    """Move a finished run of exactly this setting to where it belongs now.

    Args:
        folder: of the run that is to be; isn't there yet.
        config: its setting.
        setting: what decides its result; see `clsweep.decisive`.
        left: the folders where one may lie.

    Returns:
        What it measured; None where there is none.
    """
    for one in left:
        is_same = decisive.differences(one, setting) == "" and resuming.is_measured_alike(one, config)
        if is_same and saved.are_there(config, one):
            found = _finished(one)
            if found is not None:
                _move(one, folder)
                return found
    return None


def take_up(folder: Path, config: Config, setting: Mapping[str, Any], left: Sequence[Path]) -> float | None:
    """Move an unfinished run of exactly this setting to where it goes on.

    Args:
        folder: of the run that is to go on; isn't there yet.
        config: its setting.
        setting: what decides its result; see `clsweep.decisive`.
        left: the folders where one may lie.

    Returns:
        How long it has trained, in seconds; None where there is none.
    """
    for one in left:
        is_same = decisive.differences(one, setting) == "" and resuming.is_measured_alike(one, config)
        if is_same and resuming.is_kept_alike(one, config) and any((one / checkpoints.FOLDER).glob("*")):
            _move(one, folder)
            return _seconds(folder)
    return None


def _move(run: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    run.rename(folder)


def _finished(folder: Path) -> Taken | None:
    if resuming.finished(folder) is None:  # which takes a moment, unlike checking all that it says
        return None
    found = results.load(folder)
    if found.problems or found.runs["status"].tolist() != [results.FINISHED]:
        return None
    run = found.runs.iloc[0]
    moments = found.cells.groupby("after_context", sort=True)
    return Taken(
        average_accuracy=float(run["average_accuracy"]),
        validation_average_accuracy=float(run["validation_average_accuracy"]),
        seconds=float(run[list(_SECONDS)].sum()),
        measured=[[_cell(row) for row in rows.to_dict("records")] for _, rows in moments],
    )


def _cell(row: dict[Any, Any]) -> Cell:
    return Cell(
        int(row["after_context"]), int(row["context"]), str(row["split"]), float(row["accuracy"]), int(row["n"])
    )


def _seconds(folder: Path) -> float:
    """How long an unfinished run has taken by its own account; 0 where there is none."""
    try:
        with (folder / results.SUMMARY_FILE).open(encoding="utf-8-sig", newline="") as file:
            row = next(csv.DictReader(file), {})
        return sum(float(row[name]) for name in _SECONDS)
    except (OSError, ValueError, KeyError, csv.Error):
        return 0.0


def without_curve(plan: StudyPlan) -> int:
    """How many of a study's finished runs lack the curve that its setting asks for."""
    if plan.config.evaluate_every is None:
        return 0
    return sum(not resuming.is_measured_alike(run, plan.config) for run in _finished_runs(plan))


def without_networks(plan: StudyPlan) -> int:
    """How many of a study's finished runs lack the networks that its setting asks for."""
    if plan.config.save_model is False:
        return 0
    final, trial = plan.config, plan.way.trial(plan.config)  # the files' names depend on how many contexts are learned
    return sum(
        not saved.are_there(final if run.name.startswith("final-") else trial, run) for run in _finished_runs(plan)
    )


def removed(plan: StudyPlan, trials: Iterable[FrozenTrial]) -> list[str]:
    """The names of the folders of finished trials or final runs that are no longer in their study's folder.

    Args:
        plan: the study's.
        trials: in its storage; those whose folder is in another study's are left out.
    """
    finished = (one for one in trials if one.state == TrialState.COMPLETE and FOLDER in one.user_attrs)
    folders = (Path(one.user_attrs[FOLDER]) for one in finished)
    mine = (one.name for one in folders if one.parent.name == plan.folder.name)
    return [name for name in mine if not (plan.folder / name).is_dir()]


def _finished_runs(plan: StudyPlan) -> Iterator[Path]:
    runs = (path.parent for level in ("*", "*/seed-*") for path in plan.folder.glob(f"{level}/{results.SUMMARY_FILE}"))
    return (run for run in runs if resuming.finished(run) is not None)


def remove_checkpoints(plan: StudyPlan, trial: Trial | FrozenTrial) -> None:
    """Remove the checkpoints of a trial or a final run, unless they are to be kept.

    Args:
        plan: its study's.
        trial: one that doesn't run.
    """
    name = trial.user_attrs.get(FOLDER)
    if name is None or plan.config.keep_checkpoints:
        return
    folder = plan.folder / Path(name).name
    for one in (folder, *folder.glob("seed-*")):
        checkpoints.remove(one)
