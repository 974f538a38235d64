"""The compressed tables that `clsweep.results.packing` writes, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from clsweep.results.checking import UnreadableError
from clsweep.results.tables import read_rows, require

TABLES: Final = {name: f"{name}.csv.gz" for name in ("runs", "cells", "trials", "finals", "studies")}
CURVES_TABLE: Final = "curves.csv.gz"  # there only where a run was measured within its contexts


def read(folder: Path) -> dict[str, tuple[list[str], list[list[str]]]]:
    """The header and the rows of each table.

    Args:
        folder: where they are.

    Raises:
        UnreadableError: one is missing or can't be read: they say little without each other.
    """
    tables = {}
    for name, file in TABLES.items():
        try:
            header, rows = read_rows(folder / file)
            require(["folder" if name in ("runs", "cells") else "study"], header, "not a table of packed results:")
        except UnreadableError as error:
            raise UnreadableError(f"{file}: {error}") from error
        tables[name] = header, rows
    return tables


def read_curves(folder: Path) -> tuple[list[str], list[list[str]]] | None:
    """The header and the rows of the curves' table; None where there is none.

    Raises:
        UnreadableError: it can't be read.
    """
    if not (folder / CURVES_TABLE).exists():
        return None
    try:
        return read_rows(folder / CURVES_TABLE)
    except UnreadableError as error:
        raise UnreadableError(f"{CURVES_TABLE}: {error}") from error
