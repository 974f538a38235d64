"""The files of a study: `trials.csv`, `best.yaml` and `final.csv`, written anew after every trial."""

from __future__ import annotations

import glob
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from clsweep import config as settings
from clsweep import config_files, results
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD
from clsweep.protocol import Protocol
from clsweep.sweeps.continued import current
from clsweep.sweeps.finals import FinalRun
from clsweep.sweeps.marks import ENDED, REASON
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.spent import seconds
from clsweep.sweeps.status import status
from clsweep.sweeps.taken import FOLDER
from clsweep.sweeps.trial import SEEDS, TEST

BEST = "best"


def write(plan: StudyPlan, trials: Sequence[FrozenTrial]) -> None:
    """Write `trials.csv`, and `best.yaml` once a trial is complete.

    `trials.csv` has a row for each trial that has begun, but for those that have gone on as another one: its number,
    Optuna's state, the digest of its protocol, the hyperparameters, the average accuracy on validation and test data
    after the last context (means over its seeds; empty where it was not reached), the mean validation accuracy over the
    learned contexts after each context (with several seeds, for each seed), its time in seconds, its seeds, the folder
    of its runs, and why it failed or was pruned.

    Args:
        plan: the study's.
        trials: all of them.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    begun = [trial for trial in current(trials) if trial.state != TrialState.WAITING]
    results.write_csv(pd.DataFrame([_row(plan, trial) for trial in begun]), plan.folder / results.TRIALS_FILE)
    best = status(trials).best
    if best is not None:
        results.write_text(_best(plan, best), plan.folder / f"{BEST}.yaml")


def _row(plan: StudyPlan, trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    complete = trial.state == TrialState.COMPLETE
    default = dict.fromkeys(STANDARD, math.nan) | plan.hyperparameters
    return {
        "format_version": results.FORMAT_VERSION,
        "number": trial.number,
        "state": trial.state.name,
        "protocol": Protocol.of(plan.trial_config(trial.params, plan.seeds[0]), plan.protocol.dataset_digest).digest,
        **(default | {name: trial.params.get(name, math.nan) for name in plan.space}),
        "validation_average_accuracy": trial.value if complete else math.nan,
        "test_average_accuracy": attributes.get(TEST, math.nan) if complete else math.nan,
        **_after_contexts(plan, trial),
        "seconds": round(seconds(trial), 3),
        "seed": " ".join(map(str, attributes.get(SEEDS, []))),
        "folder": attributes.get(FOLDER, ""),
        "ended": attributes.get(ENDED, ""),
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
        config = replace(config, regularizer=replace(config.regularizer, file=_copy(plan, best)))
    return (
        f"# Trial {best.number} of {plan.name}: validation accuracy {best.value:.4f}. To run it again, from here:\n"
        f"# {_rerun(plan, '.')}\n"
        "# On all training data, as the final runs: add validation_fraction=0 and another seed=...\n"
        f"{settings.rerun_yaml(config)}"
    )


def _copy(plan: StudyPlan, best: FrozenTrial) -> str | None:
    """The best trial's copy of the method's file, from the study's folder, which may be moved."""
    file = plan.config.regularizer.file
    assert file is not None
    trial = plan.folder / Path(best.user_attrs[FOLDER]).name
    copies = (trial / Path(file).name, *sorted(trial.glob(f"seed-*/{glob.escape(Path(file).name)}")))
    there = next((copy for copy in copies if copy.is_file()), None)  # or the trial was removed
    return file if there is None else config_files.beside(there.relative_to(plan.folder))


def reproduce(plan: StudyPlan) -> str:
    """The command that runs the best trial again, with all of its seeds."""
    return _rerun(plan, str(results.short(plan.folder)))


def _rerun(plan: StudyPlan, folder: str) -> str:
    command = f"python -m clsweep --config-dir {shlex.quote(folder)} --config-name {BEST}"
    if len(plan.seeds) == 1:
        return command
    return f"{command} seeds={len(plan.seeds)}"


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
            "protocol": Protocol.of(plan.final_config(run.point, run.seed), plan.protocol.dataset_digest).digest,
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
    if not folders:
        return
    known = {Path(trial.user_attrs[FOLDER]).name for trial in trials() if FOLDER in trial.user_attrs}
    foreign = [one.name for one in folders if one.name not in known]
    if foreign:
        raise InputError(
            f"hydra.sweep.dir: {results.short(plan.folder)} holds {foreign[0]} of another study ({storage} has no such "
            f"trial of {plan.name}); expected another folder, or the storage that it was made with."
        )


def _trial_folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("trial-*") if one.is_dir())
