"""The finished runs of an experiment: in tables that are committed, whatever machine they were made on."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from clsweep import composing, decisive, results, resuming
from clsweep import config as settings
from clsweep.data.identity import DIGEST
from clsweep.report.trials import failed_itself
from clsweep.results.packed import TABLES
from clsweep.results.packing import pack
from evaluation.experiment import ROOT, Experiment, Made, Run, Study

REFERENCE = ROOT / "outputs" / "reference"
KEPT = REFERENCE / "experiments"
MEASURED = REFERENCE / "measured"  # CSV files of what is no run
MADE_HERE = ROOT / "outputs" / "experiments"
_OVERRIDES = "overrides.yaml"
_COUNTED = ("COMPLETE", "PRUNED")
# What `clsweep.results.load` reads of a study's best setting; the rest names folders of the machine.
_OF_BEST: Final = {
    "benchmark": ("name", "iters", "iters_by_budget"),
    "regularizer": ("name", "file"),
    "dataset": ("name",),
    "search": ("space",),
}
_FILES: Final = (results.SUMMARY_FILE, results.ACCURACY_FILE, results.TRIALS_FILE, _OVERRIDES)
_DIGITS = 4  # of a value that a sweep chose
_DIVERGED = "NaN or infinit"  # in the reason of every run whose training did not stay finite


def kept(experiment: Experiment) -> Made:
    """What is in an experiment's committed tables, that of earlier declarations and method files, too.

    Args:
        experiment: whose.

    Raises:
        ValueError: the tables are damaged.
    """
    folder = KEPT / experiment.name
    files = [file for file in (folder / name for name in TABLES.values()) if file.is_file()]
    return _read(folder, tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@cache
def _read(folder: Path, files: tuple[tuple[str, int, int], ...]) -> Made:
    """What is in a folder with these files: their names, times and sizes are the key of the cache."""
    found = results.load(*([folder] if files else []))
    if found.problems:
        raise ValueError(f"{found.problems[0].path}: {found.problems[0].message}")
    runs = found.runs[found.runs["status"] == results.FINISHED]
    names = {place: Path(place).name for place in runs["folder"]}
    diverged = found.runs[(found.runs["status"] == results.FAILED) & found.runs["reason"].str.contains(_DIVERGED)]
    cells = found.cells[found.cells["folder"].isin(list(names))]
    return Made(
        runs.assign(name=runs["folder"].map(names)).set_index("name"),
        cells.assign(name=cells["folder"].map(names)),
        {
            str(row["name"]): _study(row["space"], found.trials[found.trials["study"] == row["study"]])
            for row in found.studies.to_dict("records")
        },
        frozenset(Path(place).name for place in diverged["folder"]),
    )


def _study(ranges: Mapping[str, str], trials: pd.DataFrame) -> Study:
    """A sweep from its rows: the best of its complete trials is the earliest of equals, as for the sweep itself."""
    complete = trials[trials["state"] == "COMPLETE"]
    best = complete.iloc[int(complete["validation_average_accuracy"].argmax())]
    return Study(
        values={name: _rounded(best[name]) for name in ranges},
        accuracy=float(best["validation_average_accuracy"]),
        ranges=ranges,
        trials=int(trials["state"].isin(_COUNTED).sum()),
        pruned=int((trials["state"] == "PRUNED").sum()),
        failed=int(failed_itself(trials).sum()),
    )


def _rounded(value: Any) -> float | str:
    return value if isinstance(value, str) else float(f"{value:.{_DIGITS}g}")


def keep(experiment: Experiment, runs: Iterable[Run]) -> Made:
    """Take finished runs and sweeps that lie in folders into the committed tables, and runs that diverged.

    Each table is replaced as a whole. Where a process is killed between two of them, the next call puts it right, as
    the folders stay.

    Args:
        experiment: whose.
        runs: those that may be there; what isn't, or isn't finished, is passed over.

    Returns:
        All that are kept now.
    """
    here, tables = MADE_HERE / experiment.name, KEPT / experiment.name
    here.mkdir(parents=True, exist_ok=True)
    with _alone(here):
        made = kept(experiment)
        fresh = [run.name for run in runs if not made.has(run) and _is_finished(run, here / run.name)]
        if not fresh:
            return made
        with tempfile.TemporaryDirectory(dir=here, prefix=".packing-") as name:
            for table in TABLES.values():
                if (tables / table).is_file():
                    _copy_rows(tables / table, Path(name) / table, without=fresh)
            for run in fresh:
                (Path(name) / run).mkdir()
                _copy(here / run, Path(name) / run, _FILES)
                if (here / run / results.BEST_FILE).is_file():
                    (Path(name) / run / results.BEST_FILE).write_text(_described(here / run / results.BEST_FILE))
                if (here / run / ".hydra").is_dir():
                    shutil.copytree(here / run / ".hydra", Path(name) / run / ".hydra")
            pack(Path(name), Path(name) / "packed")
            tables.mkdir(parents=True, exist_ok=True)
            # The runs last: a run without its accuracies is none, and a study none without its trials.
            for table in sorted(TABLES, key=lambda one: one == "runs"):
                content = (Path(name) / "packed" / TABLES[table]).read_bytes()
                results.write_bytes(content, tables / TABLES[table])
        return kept(experiment)


def take(experiment: Experiment, runs: Iterable[Run], source: Path) -> list[Run]:
    """Copy finished runs that were made by hand to where this experiment's are made.

    Args:
        experiment: whose.
        runs: those that are missing.
        source: a folder with runs at any depth; one is taken where all that decides its result is what a missing
            run has, and once: two ways of tuning may come to the same values, and each needs a run of its own.

    Returns:
        Those that were found.
    """
    there = [file.parent for file in sorted(source.rglob(decisive.FILE)) if resuming.finished(file.parent) is not None]
    taken = []
    for run in (one for one in runs if there and not one.trials):
        setting = decisive.decisive(settings.parse(composing.composed(run.overrides)))
        there.sort(key=lambda one: one.name != run.name)  # its own, where it was made by an experiment
        found = next((one for one in there if decisive.differences(one, setting) == ""), None)
        if found is not None:
            there.remove(found)
            target = MADE_HERE / experiment.name / run.name
            target.mkdir(parents=True, exist_ok=True)
            # Not as it was typed, which may name folders of its machine.
            (target / _OVERRIDES).write_text(yaml.safe_dump(list(run.overrides)))
            _copy(found, target, [results.ACCURACY_FILE, decisive.FILE, results.SUMMARY_FILE])
            taken.append(run)
    return taken


def _is_finished(run: Run, folder: Path) -> bool:
    """Whether a folder has the run or the sweep; its method's file may have been edited before it began."""
    if run.trials:
        return _is_finished_sweep(run, folder)
    row: Mapping[Any, Any] | None = resuming.finished(folder) or _diverged(folder)
    return row is not None and (run.file is None or row["regularizer_digest"] == run.version[:DIGEST])


def _diverged(folder: Path) -> Mapping[Any, Any] | None:
    """The row of a run that failed since its training did not stay finite; None for every other one."""
    if not (folder / results.SUMMARY_FILE).is_file():
        return None
    rows = results.load(folder).runs.to_dict("records")
    found = [row for row in rows if row["status"] == results.FAILED and _DIVERGED in row["reason"]]
    return found[0] if found else None


def _is_finished_sweep(run: Run, folder: Path) -> bool:
    found = results.load(folder) if (folder / results.TRIALS_FILE).is_file() else None
    for problem in [] if found is None else found.problems:
        if problem.path.endswith(results.TRIALS_FILE):  # else the sweep would be started again and again
            raise ValueError(f"{problem.path}: {problem.message}")
    if found is None or int(found.trials["state"].isin(_COUNTED).sum()) < run.trials:
        return False
    digests = found.runs.loc[found.runs["status"] == results.FINISHED, "regularizer_digest"]
    return not digests.empty and set(digests) == {run.version[:DIGEST]}


def _described(best: Path) -> str:
    """A study's best setting with no more than says what was searched in it."""
    whole = yaml.safe_load(best.read_text(encoding="utf-8"))
    parts = {group: {name: whole[group][name] for name in names} for group, names in _OF_BEST.items()}
    file = parts["regularizer"]["file"]
    parts["regularizer"]["file"] = None if file is None else Path(file).name
    return yaml.safe_dump(parts | {"budget": whole["budget"]})


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)


def _copy_rows(source: Path, target: Path, without: Sequence[str]) -> None:
    """Copy a table without the rows of some runs, which a killed process has left in one table and not in another."""
    rows = pd.read_csv(source, dtype=str, keep_default_na=False)
    for place in {"folder", "study"} & set(rows):
        rows = rows[~rows[place].isin(without)]
    rows.to_csv(target, index=False)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process writes an experiment's tables."""
    with (folder / ".packing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
