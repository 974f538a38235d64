"""Tables of text: CSV files, packed or not, and the checks that all of them go through."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from clsweep.results.checking import UnreadableError
from clsweep.results.writing import FORMAT_VERSION, from_csv


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """A CSV file's header and rows.

    Raises:
        UnreadableError: it isn't one, or its rows don't fit its header.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read().decode("utf-8-sig")  # spreadsheets begin a file with a mark
        rows = [list(map(from_csv, row)) for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(f"cannot be read as CSV ({error})") from error
    if not rows:
        raise UnreadableError("empty")
    if not text.endswith("\n"):
        raise UnreadableError("its last line has no end: a part of the file is missing")
    header, *rest = rows
    if len(set(header)) != len(header):
        raise UnreadableError("two columns of the same name")
    broken = next((number for number, row in enumerate(rest, 2) if len(row) != len(header)), None)
    if broken is not None:
        raise UnreadableError(f"line {broken} has {len(rest[broken - 2])} values; expected {len(header)}")
    return header, rest


def require(columns: Iterable[str], header: Sequence[str], otherwise: str) -> None:
    """Check that a file has some columns.

    Raises:
        UnreadableError: it lacks one.
    """
    lacking = next((name for name in columns if name not in header), None)
    if lacking is not None:
        raise UnreadableError(f"{otherwise} it lacks the column {lacking}")


def checked_version(version: str) -> int:
    """The number of a format.

    Raises:
        UnreadableError: it is none, or of a newer format.
    """
    if not re.fullmatch("[0-9]{1,9}", version):
        raise UnreadableError(f"format_version={version}; expected a number")
    if int(version) > FORMAT_VERSION:
        raise UnreadableError(
            f"format version {version}, written by a newer clsweep; this one reads up to {FORMAT_VERSION}: upgrade it"
        )
    return int(version)


def are_numbers(column: pd.Series) -> bool:
    """Whether a column that is not known, such as a method's own hyperparameter, holds nothing but numbers."""
    return bool((pd.to_numeric(column, errors="coerce").notna() | column.isin(["", "nan"])).all())
