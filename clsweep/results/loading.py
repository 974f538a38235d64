"""Reading what runs and sweeps left behind, from any folders and at any depth, as pandas frames.

Nothing that is found is taken on trust: a file that is not clsweep's, is damaged, or is of a newer format is named with
its path and left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from clsweep.config import CUSTOM_BUDGET, ON_STREAM, shown_name
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD
from clsweep.paths import short
from clsweep.results import packed
from clsweep.results.checking import (
    Broken,
    UnreadableError,
    contradicting,
    converted,
    copies,
    incomplete,
    inconsistent,
    inconsistent_curves,
    miscounted,
    not_numbers,
)
from clsweep.results.curves import CURVE_FILE, POINT_COLUMNS, Point
from clsweep.results.tables import are_numbers, checked_version, read_rows, require
from clsweep.results.writing import (
    ACCURACY_FILE,
    CELL_COLUMNS,
    FINISHED,
    RUNNING,
    SEEDS_FILE,
    STATUSES,
    SUMMARY_FILE,
    Summary,
)

TRIALS_FILE = "trials.csv"
FINAL_FILE = "final.csv"
BEST_FILE = "best.yaml"
# In the folder of a report, which is no result; its lines are the figures that the report wrote.
REPORT_MARK = ".clsweep-report"
# In a folder of results that are not the user's own: read only where it is asked for by name.
REFERENCE_MARK = ".clsweep-reference"
UNFINISHED = "unfinished"
_SETTING = (".hydra", "config.yaml")
_KILLED = "it goes on, or was killed, {}"

SINGLE, TRIAL, FINAL = "single", "trial", "final"

_DTYPES = {"str": "str", "int": "Int64", "int | None": "Int64", "float": "float64", "bool": "boolean"}
# Without these columns a run can be compared with no other: a file must have them. One more column, or one less of the
# others, is no reason not to read a file; what a file doesn't say is empty.
_REQUIRED = (
    *("run_id", "status", "benchmark", "scenario", "stream", "dataset", "n_train", "n_test", "contexts"),
    *("regularizer", "regularizer_file", *STANDARD, "seed", "budget", "iters", "batch_size", "lr"),
    *("validation_fraction", "precision", "average_accuracy"),
)
# Likewise, but files of version 1 did not have them yet.
_REQUIRED_SINCE_2 = (
    *("dataset_digest", "network", "classes_per_context", "image_size", "normalize", "regularizer_digest"),
    *("hyperparameters", "method_options", "reg_strength_scale"),
)
_PLACE = {"folder": "str", "role": "str", "study": "str"}
_CELL_DTYPES = {
    "folder": "str",
    "run_id": "str",
    "after_context": "Int64",
    "context": "Int64",
    "split": "str",
    "accuracy": "float64",
    "n": "Int64",
}
_CURVE_DTYPES = {
    "folder": "str",
    "run_id": "str",
    **{one.name: _DTYPES[str(one.type)] for one in fields(Point)},
}
_CELLS_REQUIRED = ("run_id", "after_context", "context", "split", "accuracy")
_TRIAL_DTYPES = {
    "number": "Int64",
    "state": "str",
    "protocol": "str",
    "tune_on": "str",
    "reg_strength": "float64",
    "gamma": "float64",
    "epsilon": "float64",
    "validation_average_accuracy": "float64",
    "test_average_accuracy": "float64",
    "seconds": "float64",
    "seed": "str",
    "folder": "str",
    "ended": "str",
    "reason": "str",
}
_TRIAL_REQUIRED = ("number", "state", "validation_average_accuracy")
_FINAL_DTYPES = {
    "setting": "str",
    "protocol": "str",
    "searched": "str",
    "tune_on": "str",
    "comparable": "str",
    "origin": "str",
    "seed": "Int64",
    "test_average_accuracy": "float64",
    "folder": "str",
    "reg_strength": "float64",
    "gamma": "float64",
    "epsilon": "float64",
}
_FINAL_REQUIRED = ("setting", "seed", "test_average_accuracy", "folder")
_STUDY_COLUMNS = ("study", "name", "benchmark", "method", "dataset", "budget", "iters", "space", "tune_on")
_TUNED_ON_BEFORE = ON_STREAM  # of files that don't say it
# A file of a run or a study without the one that says what it belongs to.
_NEEDS = {ACCURACY_FILE: SUMMARY_FILE, CURVE_FILE: SUMMARY_FILE, FINAL_FILE: TRIALS_FILE}
_KNOWN_FILES = (SUMMARY_FILE, ACCURACY_FILE, CURVE_FILE, SEEDS_FILE, TRIALS_FILE, FINAL_FILE)


@dataclass(frozen=True)
class Problem:
    """Something that was found and left out.

    Attributes:
        path: of the file or folder.
        message: what is wrong with it.
    """

    path: str
    message: str


@dataclass(frozen=True)
class Results:
    """What `load` found. In every frame `study` is the folder of the study, empty for a run outside of sweeps.

    Attributes:
        runs: a row for each run folder: `folder`; `role`, which is `single`, `trial` (of a sweep's search) or `final`
            (with the values that a sweep chose, or the default ones); `study`; the columns of `summary.csv`, see
            `Summary`; and those that some files have beyond these, such as a method's own hyperparameters, empty where
            a file lacks them. `status` is `unfinished` for a run that is still going, or was killed, and `reason` says
            how far it got.
        cells: a row for each measured accuracy: `folder`, `run_id`, `after_context` (0: before training), `context`
            (from 1), `split` (test or validation), `accuracy` (0 to 1), `n` (examples).
        curves: a row for each accuracy that was measured within a context, of runs with `evaluate_every`: `folder`,
            `run_id`, and the columns of `clsweep.results.Point`.
        trials: a row for each trial of a sweep's search: `study`, then the columns of `trials.csv`.
        finals: a row for each final run of a sweep: `study`, then the columns of `final.csv`.
        studies: a row for each study: `study`, `name`, `benchmark`, `method`, `dataset`, `budget`, `iters`,
            `space` (what was searched: ranges in Hydra's syntax, by hyperparameter) and `tune_on` (what its trials were
            judged on; see `clsweep.sweeps.tuning`); all but the first two are known once a trial is complete.
        problems: what was left out, and why.
    """

    runs: pd.DataFrame
    cells: pd.DataFrame
    curves: pd.DataFrame
    trials: pd.DataFrame
    finals: pd.DataFrame
    studies: pd.DataFrame
    problems: list[Problem]


@dataclass
class _Found:
    """What is collected on the way through the folders."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    curves: list[list[str]] = field(default_factory=list)
    trials: list[pd.DataFrame] = field(default_factory=list)
    finals: list[pd.DataFrame] = field(default_factory=list)
    studies: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Path, message: object) -> None:
        self.problems.append(Problem(str(short(path)), str(message)))


def _summary_dtypes() -> dict[str, str]:
    """The types of the columns of `summary.csv` that every method has, by name."""
    return {column.name: _DTYPES[str(column.type)] for column in fields(Summary) if column.name != "values"}


def load(*folders: str | Path) -> Results:
    """Read every run and study below some folders.

    A column that a file lacks is empty, such as those that files of format version 1 did not have yet (`format_version`
    is 1 for these); a file that lacks what a comparison needs is left out. A run that lies in several places (by its
    `run_id`) is counted once, and so is a study, in a folder rather than in packed tables. Reports and hidden folders
    are passed over, and so are those with a file `.clsweep-reference`, unless they are among `folders`.

    Args:
        folders: for instance `outputs/`.

    Returns:
        The frames. Columns of text are `str`, whole numbers `Int64`, other numbers `float64`, truth values `boolean`,
        `started_at` is `datetime64[us, UTC]`; an unknown column has numbers if nothing else is in it. `NaN` or `<NA>`
        stands for what does not apply or was not recorded.

    Raises:
        InputError: a folder isn't there.
    """
    for given in folders:
        if not isinstance(given, str | Path):
            raise InputError(f"{given!r}: expected a path, as in load('outputs'), or several: load('a', 'b').")
    found, tables = _Found(), list[Path]()
    for folder, files in _walk(folders, found):
        if packed.TABLES["runs"] in files:
            tables.append(folder)
        if TRIALS_FILE in files:
            _read_study(folder, files, found)
        if SUMMARY_FILE in files:
            _attempt(found, folder / SUMMARY_FILE, lambda folder=folder: _read_run(folder, found))  # type: ignore[misc]
        elif _holds_a_run(folder, files):
            unfinished = {"status": UNFINISHED, "reason": _KILLED.format("before anything was measured")}
            found.runs.append({"folder": str(short(folder)), **_place(folder), **unfinished})
        for name in sorted(files):
            if name.endswith(".csv") and name not in _KNOWN_FILES:
                found.problem(folder / name, "not a file of a run or a study")
            elif _NEEDS.get(name, name) not in files and ".hydra" not in files:
                found.problem(folder / name, f"{_NEEDS[name]} is not beside it")
    for folder in tables:  # last, as copies of what lies in folders
        runs_table = folder / packed.TABLES["runs"]
        _attempt(found, runs_table, lambda folder=folder: _read_packed(folder, found))  # type: ignore[misc]
    runs, cells, curves = _checked_values(found)
    trials = _concatenated(found.trials, {"study": "str", **_TRIAL_DTYPES})
    finals = _concatenated(found.finals, {"study": "str", **_FINAL_DTYPES})
    copied = _copied_studies(found, trials)
    return Results(
        runs,
        cells,
        curves,
        trials[~trials["study"].isin(copied)].reset_index(drop=True),
        finals[~finals["study"].isin(copied)].reset_index(drop=True),
        pd.DataFrame(
            [study for study in found.studies if study["study"] not in copied], columns=list(_STUDY_COLUMNS)
        ).astype({"iters": "Int64"}),
        found.problems,
    )


def _walk(folders: Iterable[str | Path], found: _Found) -> Iterator[tuple[Path, set[str]]]:
    """Every folder once, in order, with the names in it."""
    seen: set[Path] = set()

    def unreadable(error: OSError) -> None:
        found.problem(Path(error.filename), f"cannot be read ({error.strerror})")

    for start in map(Path, folders):
        if not start.is_dir():
            raise InputError(f"{start}: not a folder; expected one with the results of runs, such as outputs/.")
        for name, inner, files in os.walk(start, onerror=unreadable, followlinks=True):
            folder = Path(name)
            passed_over = REPORT_MARK in files or (REFERENCE_MARK in files and folder != start)
            if passed_over or folder.resolve() in seen:  # a link may lead back up
                inner.clear()
                continue
            seen.add(folder.resolve())
            names = {*files, *inner}
            inner[:] = sorted(one for one in inner if not one.startswith("."))
            yield folder, names


def _holds_a_run(folder: Path, names: set[str]) -> bool:
    """Whether a run began here: Hydra, or a sweep, has written its setting."""
    return ".hydra" in names and folder.joinpath(*_SETTING).is_file() and not {TRIALS_FILE, SEEDS_FILE} & names


def _attempt(found: _Found, path: Path, read: Callable[[], None]) -> None:
    try:
        read()
    except UnreadableError as error:
        found.problem(path, error)


def _read_run(folder: Path, found: _Found) -> None:
    header, rows = read_rows(folder / SUMMARY_FILE)
    values = _summary(header, rows)
    cells = _beside(folder, ACCURACY_FILE, CELL_COLUMNS, _CELLS_REQUIRED, values["run_id"])
    curve: list[list[str]] = []
    if values.get("evaluate_every"):
        curve = _beside(folder, CURVE_FILE, POINT_COLUMNS, POINT_COLUMNS, values["run_id"])
    if not cells and values["status"] == FINISHED:
        raise UnreadableError(f"{ACCURACY_FILE} beside it holds no accuracies")
    if values["status"] == RUNNING:
        after = max((int(row[1]) for row in cells if row[1].isdecimal()), default=0)
        learned = values.get("first_contexts") or values["contexts"]
        values |= {"status": UNFINISHED, "reason": _KILLED.format(f"after context {after} of {learned}")}
    place = str(short(folder))
    found.runs.append({"folder": place, **_place(folder), **values})
    found.cells += [[place, *row] for row in cells]
    found.curves += [[place, *row] for row in curve]


def _summary(header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, str]:
    foreign = "not a clsweep summary:"
    require(("run_id",), header, foreign)
    if len(rows) != 1:
        raise UnreadableError(f"{len(rows)} rows; expected one")
    values = dict(zip(header, rows[0], strict=True))
    version = checked_version(values.setdefault("format_version", "1"))
    require(_REQUIRED, header, foreign)
    if version > 1:
        require(_REQUIRED_SINCE_2, header, f"format version {version}, but")
    if values["status"] not in STATUSES:
        raise UnreadableError(f"status={values['status']}; expected one of {', '.join(STATUSES)}")
    return {name: value for name, value in values.items() if name not in _PLACE}


def _beside(folder: Path, name: str, columns: Iterable[str], required: Iterable[str], run_id: str) -> list[list[str]]:
    """The rows of a file beside a run's summary, with some columns; one that isn't required may be missing."""
    if not (folder / name).is_file():
        raise UnreadableError(f"{name} is not beside it")
    try:
        header, rows = read_rows(folder / name)
    except UnreadableError as error:
        raise UnreadableError(f"{name} beside it: {error}") from error
    require(required, header, f"{name} beside it is not one of a clsweep run:")
    places = [header.index(one) if one in header else None for one in ("run_id", *columns)]
    rows = [["" if place is None else row[place] for place in places] for row in rows]
    if any(row[0] != run_id for row in rows):
        raise UnreadableError(f"{name} beside it is of another run")
    return rows


def _read_packed(folder: Path, found: _Found) -> None:
    tables = _without_unpacked(folder, packed.read(folder))
    header, rows = tables["runs"]
    require(_REQUIRED, header, f"{packed.TABLES['runs']}:")
    for row in (dict(zip(header, values, strict=True)) for values in rows):
        if _wrote_nothing(row):
            if (folder / row["folder"]).joinpath(*_SETTING).is_file():
                continue  # it lies beside the tables
        else:
            checked_version(row["format_version"])
        found.runs.append(row | _placed(folder, row))
    found.cells += _placed_rows(folder, *tables["cells"], _CELL_DTYPES, packed.TABLES["cells"])
    curves = packed.read_curves(folder)
    if curves is not None:
        header, rows = _without_unpacked(folder, {"curves": curves})["curves"]
        found.curves += _placed_rows(folder, header, rows, _CURVE_DTYPES, packed.CURVES_TABLE)
    for name, dtypes, frames in (("trials", _TRIAL_DTYPES, found.trials), ("finals", _FINAL_DTYPES, found.finals)):
        if not tables[name][1]:
            continue
        values = _typed(*tables[name], {"study": "str", **dtypes})
        frames.append(values.assign(study=[str(short(folder / study)) for study in values["study"]]))
    header, rows = tables["studies"]
    require((name for name in _STUDY_COLUMNS if name != "tune_on"), header, f"{packed.TABLES['studies']}:")
    for row in (dict(zip(header, values, strict=True)) for values in rows):
        row.setdefault("tune_on", _TUNED_ON_BEFORE)
        known: dict[str, Any] = {name: row[name] for name in _STUDY_COLUMNS if row[name]} | _placed(folder, row)
        if row["space"]:
            known |= {"iters": int(row["iters"]), "space": json.loads(row["space"])}
        found.studies.append(known)


def _wrote_nothing(row: dict[str, str]) -> bool:
    """Whether a packed run was stopped before its summary was there, so that even its format is not known."""
    return row["status"] == UNFINISHED and not row["run_id"] and not row["format_version"]


_Table = tuple[list[str], list[list[str]]]
_OF_RUNS = ("runs", "cells", "curves")  # the tables whose rows belong to a run, and not to a study


def _without_unpacked(folder: Path, tables: dict[str, _Table]) -> dict[str, _Table]:
    """Packed tables without the rows of runs and studies that lie beside them as folders, which are read from these."""

    @cache
    def is_there(place: str, name: str) -> bool:
        return (folder / name / (SUMMARY_FILE if place == "folder" else TRIALS_FILE)).is_file()

    left = {}
    for table, (header, rows) in tables.items():
        place = "folder" if table in _OF_RUNS else "study"
        at = header.index(place)
        left[table] = header, [row for row in rows if not is_there(place, row[at])]
    return left


def _placed_rows(
    folder: Path, header: list[str], rows: list[list[str]], columns: Iterable[str], name: str
) -> list[list[str]]:
    """Packed rows with some columns, the first of which is the folder, where it would lie."""
    require(columns, header, f"{name}:")
    order = [header.index(one) for one in columns]
    paths = {one: str(short(folder / one)) for one in {row[order[0]] for row in rows}}
    return [[paths[row[order[0]]], *(row[one] for one in order[1:])] for row in rows]


def _placed(folder: Path, row: dict[str, str]) -> dict[str, str]:
    """Where a packed row would lie if it were a folder's."""
    return {name: str(short(folder / row[name])) for name in ("folder", "study") if row.get(name)}


def _place(folder: Path) -> dict[str, str]:
    """The role of a run and its study, by the folders that it lies in."""
    for one in (folder, folder.parent):  # a trial with several seeds has a folder for each
        role = next((role for role in (TRIAL, FINAL) if one.name.startswith(f"{role}-")), None)
        if role is not None and (one.parent / TRIALS_FILE).is_file():
            return {"role": role, "study": str(short(one.parent))}
    return {"role": SINGLE, "study": ""}


def _read_study(folder: Path, names: set[str], found: _Found) -> None:
    study = str(short(folder))
    found.studies.append({"study": study, "name": folder.name, **_description(folder, names, found)})

    def table(name: str, dtypes: dict[str, str], required: Iterable[str], key: list[str]) -> pd.DataFrame:
        header, rows = read_rows(folder / name)
        require(required, header, "not a file of a clsweep study:")
        values = _typed(header, rows, dtypes)
        twice = values[values.duplicated(key)]
        if len(twice):
            which = ", ".join(f"{name} {value}" for name, value in twice[key].iloc[0].items())
            raise UnreadableError(f"{which} is given twice")
        values.insert(0, "study", study)
        if len(values):
            found.studies[-1]["tune_on"] = values["tune_on"].iloc[0]
        return values

    def trials() -> None:
        found.trials.append(table(TRIALS_FILE, _TRIAL_DTYPES, _TRIAL_REQUIRED, ["number"]))

    def finals() -> None:
        found.finals.append(table(FINAL_FILE, _FINAL_DTYPES, _FINAL_REQUIRED, ["setting", "seed"]))

    _attempt(found, folder / TRIALS_FILE, trials)
    if FINAL_FILE in names:
        _attempt(found, folder / FINAL_FILE, finals)


def _typed(header: list[str], rows: list[list[str]], dtypes: dict[str, str]) -> pd.DataFrame:
    """Rows of `trials.csv` or `final.csv`; an unknown column has numbers if nothing else is in it."""
    values = pd.DataFrame(rows, columns=header, dtype="str")
    if "format_version" in header:
        for version in set(values.pop("format_version")):
            checked_version(version)
    unknown = [str(name) for name in values if name not in dtypes]
    others = {name: "float64" if are_numbers(values[name]) else "str" for name in unknown}
    if "tune_on" not in header:
        values["tune_on"] = _TUNED_ON_BEFORE
    return converted(values, dtypes | others)


def _description(folder: Path, names: set[str], found: _Found) -> dict[str, Any]:
    """What a study is about, from its best trial's setting."""
    if BEST_FILE not in names:
        return {}
    try:
        config = yaml.safe_load((folder / BEST_FILE).read_text(encoding="utf-8"))
        return {
            "benchmark": config["benchmark"]["name"],
            "method": shown_name(config["regularizer"]["name"], config["regularizer"].get("file") or ""),
            "dataset": config["dataset"]["name"],
            **_length(config["benchmark"], config["budget"]),
            "space": _space(_searched(config), _trial_columns(folder / TRIALS_FILE)),
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        found.problem(folder / BEST_FILE, f"not the setting of a study's best trial ({type(error).__name__}: {error})")
        return {}


def _length(benchmark: dict[str, Any], budget: str) -> dict[str, Any]:
    """How long runs are, as `Summary` has it; `rerun_yaml` refers to a budget's iterations."""
    if benchmark.get("epochs") is not None:
        return {"budget": CUSTOM_BUDGET, "iters": None}
    usual: Any = (benchmark.get("iters_by_budget") or {}).get(budget)
    iters = int(usual if isinstance(benchmark["iters"], str) else benchmark["iters"])
    return {"budget": budget if usual in (None, iters) else CUSTOM_BUDGET, "iters": iters}


def _trial_columns(path: Path) -> list[str]:
    """The columns of `trials.csv`; none where it can't be used, which is said elsewhere."""
    try:
        header, _ = read_rows(path)
    except UnreadableError:
        return []
    return header if set(_TRIAL_REQUIRED) <= set(header) else []


def _searched(config: dict[str, Any]) -> object:
    """What a study searched; before `search.space` was written, the method's own said it."""
    own = config.get("search", {}).get("space")
    return config["regularizer"]["space"] if own is None else own


def _space(ranges: object, columns: Sequence[str]) -> dict[str, str]:
    if not isinstance(ranges, dict):
        raise TypeError("regularizer.space: expected ranges by hyperparameter")
    lacking = next((name for name in ranges if columns and name not in columns), None)
    if lacking is not None:
        raise ValueError(f"regularizer.space: {TRIALS_FILE} beside it lacks the column {lacking}")
    return {name: str(text) for name, text in ranges.items()}


def _copied_studies(found: _Found, trials: pd.DataFrame) -> set[str]:
    """The studies that are there already, in another folder, with as many trials or more; they are named.

    Studies are the same where their first trials are: these have one folder and took the same time, to the last digit.
    A study's own folder may differ: one that was alone in a sweep's has one of its own once others join it.
    """
    counts = trials["study"].value_counts()
    telling = ["folder", "number", "validation_average_accuracy", "seconds"]
    first = trials.drop_duplicates("study").set_index("study")[telling]
    first = first[first["seconds"].notna() & first["folder"].ne("")]  # one that has not begun a run tells nothing
    kept: dict[str, str] = {}
    copied = set()
    for study in sorted(first.index, key=lambda one: -counts[one]):  # of as many trials, the one that was found first
        same = kept.setdefault(str(first.loc[study].tolist()), study)
        if same != study:
            found.problem(Path(study), f"the same study as {same}: counted once")
            copied.add(study)
    return copied


def _checked_values(found: _Found) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The frames of runs, cells and curves; a run whose values can't be right is left out."""
    dtypes = {**_PLACE, **_summary_dtypes()}
    names = dict.fromkeys([*dtypes, *(name for run in found.runs for name in run)])
    runs = pd.DataFrame(found.runs, columns=list(names), dtype="str").fillna("")
    dtypes |= {name: "float64" if are_numbers(runs[name]) else "str" for name in names if name not in dtypes}
    cells = pd.DataFrame(found.cells, columns=list(_CELL_DTYPES), dtype="str")
    curves = pd.DataFrame(found.curves, columns=list(_CURVE_DTYPES), dtype="str")
    broken = not_numbers(curves, _CURVE_DTYPES, CURVE_FILE) | not_numbers(cells, _CELL_DTYPES, ACCURACY_FILE)
    runs, cells, curves = _without(broken | not_numbers(runs, dtypes, SUMMARY_FILE), runs, cells, curves, found)
    runs, cells, curves = converted(runs, dtypes), converted(cells, _CELL_DTYPES), converted(curves, _CURVE_DTYPES)
    broken = miscounted(runs, cells) | incomplete(runs) | inconsistent(runs, cells)  # of several, the last is named
    runs, cells, curves = _without(inconsistent_curves(runs, curves) | broken, runs, cells, curves, found)
    runs, cells, curves = _without(contradicting(runs, cells), runs, cells, curves, found)
    runs, cells, curves = _without(copies(runs), runs, cells, curves, found)
    started = pd.to_datetime(runs["started_at"], utc=True, errors="coerce", format="ISO8601")
    runs["started_at"] = started.astype("datetime64[us, UTC]")
    return runs, cells, curves


def _without(
    broken: Broken, runs: pd.DataFrame, cells: pd.DataFrame, curves: pd.DataFrame, found: _Found
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The frames without the runs that are broken, which are named."""
    for folder, (name, message) in broken.items():
        found.problem(Path(folder) / name, message)
    kept = [table[~table["folder"].isin(list(broken))].reset_index(drop=True) for table in (runs, cells, curves)]
    return kept[0], kept[1], kept[2]


def _concatenated(tables: list[pd.DataFrame], dtypes: dict[str, str]) -> pd.DataFrame:
    if tables:
        whole = pd.concat(tables, ignore_index=True)
        texts = [
            name for name in whole if pd.api.types.is_object_dtype(whole[name])
        ]  # numbers in one study, not in all
        return whole.assign(**{str(name): whole[name].map(_text) for name in texts})
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in dtypes.items()})


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
