"""The files of a study: `trials.csv`, `best.yaml` and `final.csv`, written anew after every trial."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from clsweep import config as settings
from clsweep import results
from clsweep.config import HYPERPARAMETERS
from clsweep.errors import InputError
from clsweep.sweep.finals import FinalRun
from clsweep.sweep.ledger import REASON
from clsweep.sweep.plan import StudyPlan
from clsweep.sweep.status import seconds, status
from clsweep.sweep.trial import FOLDER, SEEDS, TEST

BEST = "best"


def write(plan: StudyPlan, trials: Sequence[FrozenTrial]) -> None:
    """Write `trials.csv`, and `best.yaml` once a trial is complete.

    `trials.csv` has a row for each trial that has begun: its number, Optuna's state, the hyperparameters, the average
    accuracy on validation and test data after the last context (means over its seeds; empty where it was not reached),
    the mean validation accuracy over the learned contexts after each context (with several seeds, for each seed), its
    time in seconds, its seeds, the folder of its runs, and why it failed or was pruned.

    Args:
        plan: the study's.
        trials: all of them.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]
    results.write_csv(pd.DataFrame([_row(plan, trial) for trial in begun]), plan.folder / results.TRIALS_FILE)
    best = status(trials).best
    if best is not None:
        results.write_text(_best(plan, best), plan.folder / f"{BEST}.yaml")


def _row(plan: StudyPlan, trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    complete = trial.state == TrialState.COMPLETE
    default = {name: getattr(plan.config.regularizer, name) for name in HYPERPARAMETERS}
    return {
        "format_version": results.FORMAT_VERSION,
        "number": trial.number,
        "state": trial.state.name,
        **(default | {name: trial.params.get(name, math.nan) for name in plan.space}),
        "validation_average_accuracy": trial.value if complete else math.nan,
        "test_average_accuracy": attributes.get(TEST, math.nan) if complete else math.nan,
        **_after_contexts(plan, trial),
        "seconds": round(seconds(trial), 3),
        "seed": " ".join(map(str, attributes.get(SEEDS, []))),
        "folder": attributes.get(FOLDER, ""),
        "reason": attributes.get(REASON, ""),
    }


def _after_contexts(plan: StudyPlan, trial: FrozenTrial) -> dict[str, float]:
    """What was measured after each context, seed by seed.

    Optuna was told the mean with what the earlier seeds reached; that is taken apart here.
    """
    values: dict[str, float] = {}
    reached = 0.0
    for number, seed in enumerate(plan.seeds):
        value = math.nan
        for context in range(1, plan.contexts + 1):
            reported = trial.intermediate_values.get(number * plan.contexts + context, math.nan)
            value = reported * (number + 1) - reached
            name = f"validation_after_{context}"
            values[name if len(plan.seeds) == 1 else f"seed_{seed}_{name}"] = value
        reached += value
    return values


def _best(plan: StudyPlan, best: FrozenTrial) -> str:
    """A configuration that is the best trial's, for `--config-name best`."""
    config = plan.trial_config(best.params, plan.seeds[0])
    if config.regularizer.file is not None:  # the trial's copy: the file itself is there to be edited
        folder = results.short(plan.folder / Path(best.user_attrs[FOLDER]).name)  # a study's folder may be moved
        name = Path(config.regularizer.file).name
        copies = (one for one in (folder / name, *sorted(folder.glob(f"seed-*/{name}"))) if one.is_file())
        copy = next(copies, config.regularizer.file)  # or the trial's removed
        config = replace(config, regularizer=replace(config.regularizer, file=str(copy)))
    return (
        f"# Trial {best.number} of {plan.name}: validation accuracy {best.value:.4f}. To run it again:\n"
        f"# {reproduce(plan)}\n"
        "# On all training data, as the final runs: add validation_fraction=0 and another seed=...\n"
        f"defaults:\n- config\n- _self_\n{settings.rerun_yaml(config)}"
    )


def reproduce(plan: StudyPlan) -> str:
    """The command that runs the best trial again, with all of its seeds."""
    command = f"python -m clsweep --config-dir {shlex.quote(str(results.short(plan.folder)))} --config-name {BEST}"
    if len(plan.seeds) == 1:
        return command
    return f"{command} --multirun hydra/sweeper=basic seed={','.join(map(str, plan.seeds))}"


def write_finals(plan: StudyPlan, runs: Sequence[FinalRun]) -> None:
    """Write `final.csv`: a row for each final run that is done.

    Args:
        plan: the study's.
        runs: its final runs.
    """
    rows = [
        {
            "format_version": results.FORMAT_VERSION,
            "setting": run.setting,
            **run.point,
            "seed": run.seed,
            "test_average_accuracy": run.test_average_accuracy,
            "folder": run.folder,
        }
        for run in runs
        if run.test_average_accuracy is not None
    ]
    if rows:
        results.write_csv(pd.DataFrame(rows), plan.folder / results.FINAL_FILE)


def refuse_foreign(plan: StudyPlan, trials: Callable[[], Sequence[FrozenTrial]], storage: str) -> None:
    """Refuse a folder that holds trials which the storage doesn't know: they would be overwritten.

    Args:
        plan: the study's.
        trials: reads those in the storage.
        storage: its URL as it may be shown.

    Raises:
        InputError: it does.
    """
    folders = _trial_folders(plan.folder)  # before the trials: another process may begin one now
    known = {Path(trial.user_attrs[FOLDER]).name for trial in trials() if FOLDER in trial.user_attrs}
    foreign = [one.name for one in folders if one.name not in known]
    if foreign:
        raise InputError(
            f"hydra.sweep.dir: {results.short(plan.folder)} holds {foreign[0]} of another study ({storage} has no such "
            f"trial of {plan.name}); expected another folder, or the storage that it was made with."
        )


def _trial_folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("trial-*") if one.is_dir())
