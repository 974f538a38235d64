"""The files of a study: `trials.csv`, `best.yaml` and `final.csv`, from the first trial's start on."""

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
from clsweep.config import Config
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD
from clsweep.space import Point
from clsweep.sweeps.continued import current
from clsweep.sweeps.finals import DEFAULT, FinalRun
from clsweep.sweeps.marks import ENDED, REASON
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.spent import seconds
from clsweep.sweeps.status import status
from clsweep.sweeps.taken import FOLDER
from clsweep.sweeps.trial import SEEDS, TEST

BEST = "best"
_COLUMNS = (  # of a study without a trial
    *("format_version", "number", "state", "protocol", *STANDARD),
    *("validation_average_accuracy", "test_average_accuracy", "seconds", "seed", "folder", "reason", "tune_on"),
)


def write(plan: StudyPlan, trials: Sequence[FrozenTrial]) -> None:
    """Write `trials.csv`, and `best.yaml` once a trial is complete, or at once for a study that searches nothing.

    `trials.csv` has a row for each trial that has begun, but for those that have gone on as another one: its number,
    Optuna's state, the digest of its protocol, the hyperparameters, the average accuracy on validation and test data
    after the last context (means over its seeds; empty where it was not reached), the mean validation accuracy over the
    learned contexts after each context (with several seeds, for each seed), its time in seconds, its seeds, the folder
    of its runs, why it failed or was pruned, and what is tuned on.

    Args:
        plan: the study's.
        trials: all of them.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    begun = [trial for trial in current(trials) if trial.state != TrialState.WAITING]
    rows = [_row(plan, trial) for trial in begun]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(_COLUMNS))
    results.write_csv(table, plan.folder / results.TRIALS_FILE)
    best = status(trials).best
    if best is not None or not plan.way.searches:
        results.write_text(_best(plan, best), plan.folder / f"{BEST}.yaml")


def _row(plan: StudyPlan, trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    complete = trial.state == TrialState.COMPLETE
    default = dict.fromkeys(STANDARD, math.nan) | plan.hyperparameters
    return {
        "format_version": results.FORMAT_VERSION,
        "number": trial.number,
        "state": trial.state.name,
        "protocol": plan.trial_protocol(trial.params),
        **(default | {name: trial.params.get(name, math.nan) for name in plan.space}),
        "validation_average_accuracy": trial.value if complete else math.nan,
        "test_average_accuracy": attributes.get(TEST, math.nan) if complete else math.nan,
        **_after_contexts(plan, trial),
        "seconds": round(seconds(trial), 3),
        "seed": " ".join(map(str, attributes.get(SEEDS, []))),
        "folder": attributes.get(FOLDER, ""),
        "ended": attributes.get(ENDED, ""),
        "reason": attributes.get(REASON, ""),
        "tune_on": plan.way.shown,
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


def _best(plan: StudyPlan, best: FrozenTrial | None) -> str:
    """A configuration for `--config-name best`: the best trial's, or the benchmark's with the best values.

    Args:
        plan: the study's.
        best: its best trial; None where nothing is searched.
    """
    config = _again(plan, plan.default if best is None else best.params)
    if config.regularizer.file is not None:  # the trial's copy: the file itself is there to be edited
        config = replace(config, regularizer=replace(config.regularizer, file=_copy(plan, best)))
    if best is None:
        config = replace(config, search=replace(config.search, space={}))
    return f"# {_told(plan, best)}\n# {_rerun(plan, '.')}\n{_more(plan)}{settings.rerun_yaml(config)}"


def _is_run_again(plan: StudyPlan) -> bool:
    """Whether the best trial itself is run again; else the final runs are, on the benchmark as it is."""
    return not plan.way.identity


def _again(plan: StudyPlan, point: Point) -> Config:
    if _is_run_again(plan):
        return plan.trial_config(point, plan.seeds[0])
    return plan.final_config(point, _seeds(plan)[0])


def _seeds(plan: StudyPlan) -> Sequence[int]:
    """Those that `best.yaml` runs: the trial's, or those of the final runs."""
    return plan.seeds if _is_run_again(plan) else plan.final_seeds or [plan.config.seed]


def _told(plan: StudyPlan, best: FrozenTrial | None) -> str:
    if best is None:
        return f"The default values of {plan.name}: nothing was searched. To run the benchmark with them, from here:"
    trial = f"Trial {best.number} of {plan.name}: validation accuracy {best.value:.4f}"
    if _is_run_again(plan):
        return f"{trial}. To run it again, from here:"
    return f"{trial}, tuned on {plan.way.shown}. To run the benchmark with its values, from here:"


def _more(plan: StudyPlan) -> str:
    if not _is_run_again(plan):
        return ""
    return "# On all training data, as the final runs: add validation_fraction=0 and another seed=...\n"


def _copy(plan: StudyPlan, best: FrozenTrial | None) -> str | None:
    """The best trial's copy of the method's file, or a final run's, from the study's folder, which may be moved."""
    file = plan.config.regularizer.file
    assert file is not None
    runs = "final-*" if best is None else glob.escape(Path(best.user_attrs[FOLDER]).name)
    name = glob.escape(Path(file).name)
    copies = (*sorted(plan.folder.glob(f"{runs}/{name}")), *sorted(plan.folder.glob(f"{runs}/seed-*/{name}")))
    there = next((copy for copy in copies if copy.is_file()), None)  # or the trial was removed
    return file if there is None else config_files.beside(there.relative_to(plan.folder))


def reproduce(plan: StudyPlan) -> str:
    """The command that runs what is in `best.yaml`, with all of its seeds."""
    return _rerun(plan, str(results.short(plan.folder)))


def _rerun(plan: StudyPlan, folder: str) -> str:
    command = f"python -m clsweep --config-dir {shlex.quote(folder)} --config-name {BEST}"
    count = len(_seeds(plan))
    return command if count == 1 else f"{command} seeds={count}"


def write_finals(plan: StudyPlan, runs: Sequence[FinalRun]) -> None:
    """Write `final.csv`: a row for each final run that is done.

    Its `searched` names the fields of the protocol that the search chose; `protocol` is the digest of the others. Its
    `origin` says where the values come from; those of `conf/tuned` are default values that were tuned before. Its
    `comparable` is the same for studies that differ in nothing but what they are tuned on. Such studies train the same
    values and seed only once: a run's folder may lie in another of them.

    Args:
        plan: the study's.
        runs: its final runs.
    """
    rows = [
        {
            "format_version": results.FORMAT_VERSION,
            "setting": run.setting,
            "protocol": plan.final_protocol,
            "searched": " ".join(sorted(plan.searched_fields)),
            **run.point,
            "seed": run.seed,
            "test_average_accuracy": run.test_average_accuracy,
            "folder": run.folder,
            "tune_on": plan.way.shown,
            "comparable": plan.name_on_stream,
            "origin": plan.default_origin if run.setting == DEFAULT else run.setting,
        }
        for run in runs
        if run.test_average_accuracy is not None
    ]
    if rows:
        results.write_csv(pd.DataFrame(rows), plan.folder / results.FINAL_FILE)


def refuse_foreign(plan: StudyPlan, trials: Callable[[], Sequence[FrozenTrial]], storage: str) -> None:
    """Refuse a folder that holds trials or final runs which the storage doesn't know: they would be overwritten.

    Args:
        plan: the study's.
        trials: reads those in the storage, the final runs' with them.
        storage: its URL as it may be shown.

    Raises:
        InputError: it does.
    """
    _refuse_other_way(plan)
    folders = _folders(plan.folder)  # before the trials: another process may begin one now
    if not folders:
        return
    known = {Path(trial.user_attrs[FOLDER]).name for trial in trials() if FOLDER in trial.user_attrs}
    foreign = [one.name for one in folders if one.name not in known]
    if foreign:
        raise InputError(
            f"hydra.sweep.dir: {results.short(plan.folder)} holds {foreign[0]}, which {storage} doesn't know as one of "
            f"{plan.name}: it is another study's or was renamed, or its storage was lost; expected another folder (a "
            "report reads both), or the storage that it was made with."
        )


def _refuse_other_way(plan: StudyPlan) -> None:
    """Refuse a folder of a study that was tuned on something else, which may have no trials."""
    try:
        column = pd.read_csv(plan.folder / results.FINAL_FILE, usecols=["tune_on"])["tune_on"]
        there = str(column.dropna().iloc[0])
    except (OSError, ValueError, IndexError):  # no such file, an older or a damaged one: the trials say whose it is
        return
    if there != plan.way.shown:
        raise InputError(
            f"hydra.sweep.dir: {results.short(plan.folder)} holds a study with search.tune_on={there.split()[0]} "
            f"({results.FINAL_FILE}: {there}), not {plan.way.shown}; expected another folder."
        )


def _folders(folder: Path) -> list[Path]:
    """Those of trials and of final runs."""
    return sorted(one for kind in ("trial", "final") for one in folder.glob(f"{kind}-*") if one.is_dir())
