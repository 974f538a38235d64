"""Runs and studies of a whole folder as five or six compressed tables, to be kept, sent or attached to a paper.

`runs.csv.gz`, `cells.csv.gz`, `trials.csv.gz`, `finals.csv.gz`, `studies.csv.gz` and, where a run was measured within
its contexts, `curves.csv.gz` hold what `clsweep.results.load`
found, with folders as they lay below the packed one; `load` reads them as it reads the folders. Beyond the columns of
the frames, `runs` has `overrides`, those of the command where they were kept, and `studies` has `best`, the text of
`best.yaml`.
"""

from __future__ import annotations

import gzip
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pandas as pd
import yaml

from clsweep.errors import InputError, RunError
from clsweep.paths import absolute, missing, remove_empty, short
from clsweep.results.loading import BEST_FILE, Results, load
from clsweep.results.packed import CURVES_TABLE, TABLES
from clsweep.results.tables import read_rows
from clsweep.results.writing import csv_text, write_bytes

_OVERRIDES: Final = ("overrides.yaml", ".hydra/overrides.yaml")  # kept beside a run, or as Hydra leaves it
# Where a row was found; columns of these names in `trials.csv` and `final.csv` are as the sweep wrote them.
_PLACES: Final = {
    "runs": ("folder", "study"),
    "cells": ("folder",),
    "curves": ("folder",),
    "trials": ("study",),
    "finals": ("study",),
    "studies": ("study",),
}
# What lies beside a row, in a file, and is packed with it: the column that says where, and the one that it becomes.
_TEXTS: Final = {"runs": ("folder", "overrides"), "studies": ("study", "best")}


def pack(source: Path, target: Path) -> Results:
    """Write the tables of a folder's runs and studies, which are read back before they replace what was there.

    Args:
        source: what is packed; it stays as it is.
        target: where the tables go; made if it isn't there. The source itself is fine.

    Returns:
        What was packed; its `problems` was not.

    Raises:
        InputError: the source or the target isn't a folder, or nothing is there to be packed.
        RunError: the tables don't say what was found; the target is as it was.
    """
    found = load(source)
    if found.runs.empty and found.studies.empty:
        raise InputError(f"{source}: no runs and no studies; expected a folder with results, such as outputs/.")
    kept = _texts_of_before(source)
    frames = _plain(found)
    for (name, (place, column)), read in zip(_TEXTS.items(), (_overrides, _best), strict=True):
        frames[name] = _with_text(frames[name], place, column, read, kept)
    made = missing(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{target}: {error.strerror}; expected a folder that can be made and written to.") from error
    with TemporaryDirectory(dir=target, prefix=".pack-") as unread:
        for name, frame in frames.items():
            _write(_text(frame, name, source), Path(unread) / f"{name}.csv.gz")
        fault = _fault(found, source, Path(unread))
        if not fault:
            (target / CURVES_TABLE).unlink(missing_ok=True)  # of what was packed there before
            for file in Path(unread).iterdir():
                file.replace(target / file.name)
    if fault:
        remove_empty(made)
        raise RunError(
            f"{source}: what was written to {target} could not be read back ({fault}), so nothing was packed; please "
            "keep the folder, and report it."
        )
    return found


def _plain(found: Results) -> dict[str, pd.DataFrame]:
    """The frames that become tables, by name, without what lies beside their rows."""
    frames = {
        "runs": found.runs,
        "cells": found.cells,
        "trials": found.trials,
        "finals": found.finals,
        "studies": found.studies.assign(space=found.studies["space"].map(_json)),
    }
    return frames | ({"curves": found.curves} if len(found.curves) else {})


def _text(frame: pd.DataFrame, name: str, root: Path) -> str:
    """A table as it is written: with the folders as they lie below the packed one."""
    start = short(root)
    return csv_text(frame.assign(**{one: frame[one].map(lambda path: _below(start, path)) for one in _PLACES[name]}))


def _fault(found: Results, source: Path, packed: Path) -> str:
    """How the tables differ from what was found; empty where they don't."""
    read = load(packed)
    for problem in read.problems:
        return f"{Path(problem.path).name}: {problem.message}"
    again = _plain(read)
    for name, whole in _plain(found).items():
        # What is packed in the source has its texts as columns already, and other rows there have theirs in files.
        frame = whole.drop(columns=[column for _, column in _TEXTS.values()], errors="ignore")
        read_back = again.get(name, frame.iloc[:0]).reindex(columns=list(frame))
        if _text(read_back, name, packed) != _text(frame, name, source):
            return f"{name}.csv.gz: {len(read_back)} rows, which aren't the {len(frame)} that were found"
    return ""


def _with_text(
    frame: pd.DataFrame, place: str, column: str, read: Callable[[Path], str], kept: dict[tuple[str, str], str]
) -> pd.DataFrame:
    """The frame with a column of what lies beside its rows, or was packed with them."""
    texts = [read(absolute(folder)) or kept.get((column, folder), "") for folder in frame[place]]
    return frame.assign(**{column: texts})


def _texts_of_before(source: Path) -> dict[tuple[str, str], str]:
    """Those texts in tables that are packed anew, by column and folder."""
    texts: dict[tuple[str, str], str] = {}
    for name, (place, column) in _TEXTS.items():
        for table in source.rglob(TABLES[name]):
            header, rows = read_rows(table)
            for row in (dict(zip(header, values, strict=True)) for values in rows):
                texts[column, str(short(table.parent / row[place]))] = row[column]
    return texts


def _overrides(folder: Path) -> str:
    file = next((folder / name for name in _OVERRIDES if (folder / name).is_file()), None)
    said: Any = [] if file is None else yaml.safe_load(file.read_text(encoding="utf-8"))
    return shlex.join(map(str, said or []))


def _best(folder: Path) -> str:
    file = folder / BEST_FILE
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _json(space: object) -> str:
    return json.dumps(space) if isinstance(space, dict) else ""


def _below(root: Path, path: str) -> str:
    return str(Path(path).relative_to(root)) if path else ""


def _write(text: str, path: Path) -> None:
    """The same content makes the same file: the time isn't in it."""
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", mtime=0, compresslevel=9, filename="") as file:
        file.write(text.encode())
    write_bytes(made.getvalue(), path)
