"""A run's folder that holds something already: whether the run resumes there, is finished, or is another one."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from clsweep import checkpoints, decisive
from clsweep.config import EVERY_CONTEXT, Config
from clsweep.errors import InputError
from clsweep.paths import short
from clsweep.results import TRIALS_FILE, load
from clsweep.results.curves import CURVE_FILE
from clsweep.results.writing import (
    ACCURACY_FILE,
    CURVES_FIGURE,
    FINISHED,
    ITERATIONS_FIGURE,
    MATRIX_FIGURE,
    SEEDS_FILE,
    SUMMARY_FILE,
    remove_partial,
)

_SEED: Final = re.compile(r"seed-(\d+)")
_EVERY: Final = "evaluate_every"
_FIGURES: Final = (MATRIX_FIGURE, CURVES_FIGURE, ITERATIONS_FIGURE)
_OF_SEVERAL: Final = (SEEDS_FILE, TRIALS_FILE)
_CHECKPOINT: Final = re.compile(r"context-(\d+)\.pt")
_ADVICE: Final = "another folder, or resume=false to start over"


def runs(config: Config, folder: Path) -> list[tuple[Config, Path]]:
    """The runs of a setting, each with its folder: one, or one for each of its seeds."""
    if config.seeds is None:
        return [(config, folder)]
    seeds = range(config.seed, config.seed + config.seeds)
    return [(replace(config, seed=seed, seeds=None), folder / f"seed-{seed}") for seed in seeds]


def refuse_others(config: Config, folder: Path) -> None:
    """Refuse a folder that holds other results than those of a setting's runs; see `refuse_other`.

    One run's folder is never that of several seeds, and all seeds in a folder are of one setting.
    """
    kinds = {TRIALS_FILE: "a study", SUMMARY_FILE: "a single run", SEEDS_FILE: "several seeds"}
    for other in (TRIALS_FILE, SEEDS_FILE if config.seeds is None else SUMMARY_FILE):
        if (folder / other).exists():
            raise InputError(f"hydra.run.dir={folder}: holds the results of {kinds[other]}; expected another folder.")
    if not config.resume:
        return
    places = {folder: config}
    if config.seeds is not None:
        there = {int(found[1]): path for path in folder.glob("seed-*") if (found := _SEED.fullmatch(path.name))}
        places = {path: replace(config, seed=seed, seeds=None) for seed, path in sorted(there.items())}
    for place, one in places.items():
        refuse_other(place, decisive.decisive(one))
        refuse_damaged(place)
        refuse_gaps(place, one)


def finished(folder: Path) -> dict[str, str] | None:
    """The row of a finished run's `summary.csv`, as it is written; None where there is none."""
    row = _row(folder)
    return row if row.get("status") == FINISHED else None


def _row(folder: Path) -> dict[str, str]:
    """The row of a run's `summary.csv`; empty where there is none that can be read."""
    try:
        with (folder / SUMMARY_FILE).open(encoding="utf-8-sig", newline="") as file:
            row = next(csv.DictReader(file), {})
    except (OSError, ValueError, csv.Error):
        return {}
    return row if "status" in row else {}


def taken_over(config: Config, folder: Path) -> dict[str, str] | None:
    """The row of a finished run that isn't to be trained again; None where there is none.

    What it would have removed at its end is removed: its process may have been killed just before.

    Args:
        config: the run's setting; what is there has the same.
        folder: the run's.

    Raises:
        InputError: it is finished, but the network that the setting asks for isn't there.
    """
    row = finished(folder) if config.resume else None
    if row is not None and config.save_model is not False:
        from clsweep.training import saved  # here, since it imports torch

        saved.refuse_without(config, folder)
    if row is not None:
        remove_partial(folder)
        if not config.keep_checkpoints:
            checkpoints.remove(folder)
    return row


def refuse_other(folder: Path, setting: Mapping[str, Any], key: str = "hydra.run.dir") -> None:
    """Refuse a folder that holds another run's results: they would be lost.

    Args:
        folder: the run's; it need not exist.
        setting: what decides this run's result; see `clsweep.decisive`.
        key: what the folder was given by.

    Raises:
        InputError: it does, or the folder is that of several runs.
    """
    used = [name for name in (*_OF_SEVERAL, SUMMARY_FILE, ACCURACY_FILE) if (folder / name).exists()]
    if not used:
        return
    if used[0] in _OF_SEVERAL:
        raise InputError(
            f"{key}={folder}: holds results already ({used[0]}), of several runs; expected another folder."
        )
    found = decisive.differences(folder, setting)
    if found is None:
        raise InputError(f"{key}={folder}: holds results already ({used[0]}); expected {_ADVICE}.")
    if found:
        raise InputError(f"{key}={folder}: holds a run of another setting ({found}); expected the same, {_ADVICE}.")


def refuse_damaged(folder: Path, key: str = "hydra.run.dir") -> None:
    """Refuse a folder with a finished run whose files were damaged, or with one that may be such a run.

    It would be taken for finished, though no report can read it, or trained again although much of it may be there.

    Args:
        folder: the run's; it need not exist.
        key: what the folder was given by.

    Raises:
        InputError: it holds one.
    """
    if not (folder / SUMMARY_FILE).exists():
        return
    row = _row(folder)
    if row.get("status", FINISHED) != FINISHED or (not row and any((folder / checkpoints.FOLDER).glob("*"))):
        return  # it goes on
    found = load(folder)
    if found.runs["status"].tolist() != [FINISHED]:
        wrong = ", ".join(f"{Path(one.path).name}: {one.message}" for one in found.problems)
        raise InputError(f"{key}={folder}: holds a run that was damaged ({wrong}); expected {_ADVICE}.")


def refuse_gaps(folder: Path, config: Config) -> None:
    """Refuse a folder with a run of the same setting whose curve or whose networks would have a gap.

    Args:
        folder: the run's; it need not exist.
        config: the setting.

    Raises:
        InputError: it was measured otherwise while it learned, and goes on, or is finished without what is asked for;
            or it goes on, and hasn't kept the network of every context so far, which is asked for.
    """
    if not is_measured_alike(folder, config):
        there = _row(folder).get(_EVERY) or "null"
        raise InputError(
            f"{_EVERY}={config.evaluate_every or 'null'}: the run in {short(folder)} was made with {_EVERY}={there}, "
            f"and a part of its {CURVE_FILE} would be missing; expected {_EVERY}={there}, {_ADVICE}."
        )
    if not is_kept_alike(folder, config):
        raise InputError(
            f"save_model={EVERY_CONTEXT}: the run in {short(folder)} began without it, and the networks of its first "
            f"contexts would be missing; expected save_model=true, {_ADVICE}."
        )


def is_kept_alike(folder: Path, config: Config) -> bool:
    """Whether the unfinished run in a folder, where there is one, has kept the network of every context if it is to."""
    if config.save_model != EVERY_CONTEXT or config.stream == "joint" or finished(folder) is not None:
        return True
    from clsweep.training.saved import file_after  # here, since it imports torch

    names = (_CHECKPOINT.fullmatch(path.name) for path in (folder / checkpoints.FOLDER).glob("*"))
    learned = max((int(found[1]) for found in names if found), default=0)
    return all((folder / file_after(number, config.contexts_learned)).is_file() for number in range(1, learned + 1))


def is_measured_alike(folder: Path, config: Config) -> bool:
    """Whether the run in a folder, where there is one, was measured as often as a setting says.

    A finished one may have a curve that isn't asked for.
    """
    row, wanted = _row(folder), str(config.evaluate_every or "")
    return not row or row.get(_EVERY, "") == wanted or (row["status"] == FINISHED and not wanted)


def check(folder: Path, setting: Mapping[str, Any], *, goes_on: bool, key: str = "hydra.run.dir") -> bool:
    """Check that a run may have a folder.

    Args:
        folder: the run's.
        setting: what decides its result.
        goes_on: whether an unfinished run of the same setting is to resume there; else the run starts over.
        key: what the folder was given by.

    Returns:
        Whether there is an unfinished run to resume.

    Raises:
        InputError: the folder holds another run's results, a finished run, or one that can't be read.
    """
    if not goes_on and not any((folder / name).exists() for name in _OF_SEVERAL):
        return False
    refuse_other(folder, setting, key)
    if finished(folder) is not None:
        raise InputError(f"{key}={folder}: holds this run already, finished; expected {_ADVICE}.")
    refuse_damaged(folder, key)
    return (folder / SUMMARY_FILE).exists()


def clear(folder: Path) -> None:
    """Remove the results of a run, its figures, and what it would resume from."""
    from clsweep.training import saved  # here, since it imports torch

    for name in (SUMMARY_FILE, ACCURACY_FILE, CURVE_FILE, decisive.FILE, *_FIGURES):
        (folder / name).unlink(missing_ok=True)
    saved.remove(folder)
    checkpoints.remove(folder)
    remove_partial(folder)
