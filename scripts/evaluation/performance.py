"""What steps, importances and checkpoints cost: tables of the files that `scripts/benchmark*.py` leave."""

from __future__ import annotations

from typing import Final

import pandas as pd

from evaluation.keeping import REFERENCE
from evaluation.names import BENCHMARKS
from evaluation.tables import markdown

FOLDER: Final = REFERENCE / "performance"
_BENCHMARKS: Final = ("split_mnist", "perm_mnist", "split_cifar100")
_RATIO: Final = "step / plain step"
_LOOP: Final = "bare PyTorch loop"
_PRODUCTS: Final = "matrix products alone"


def steps() -> str:
    """A step of each method over a plain one, and the plain step beside what it can't do without."""
    read = {benchmark: _rows(f"{benchmark}-steps-float32") for benchmark in _BENCHMARKS}
    names = list(dict.fromkeys(name for rows in read.values() for name in rows.index))
    lines = [["step, over a plain one", *(BENCHMARKS[benchmark] for benchmark in read)]]
    for name in sorted(set(names) - {"none", _LOOP, _PRODUCTS}, key=names.index):
        lines.append([f"`{name}`", *(_cell(rows, name, _RATIO) for rows in read.values())])
    lines.append([_LOOP, *(_cell(rows, _LOOP, _RATIO) for rows in read.values())])
    lines.append([_PRODUCTS, *(_cell(rows, _PRODUCTS, _RATIO) for rows in read.values())])
    lines.append(["plain steps a second", *(_cell(rows, "none", "it/s", digits=0) for rows in read.values())])
    return markdown(lines)


def importances() -> str:
    """The estimates of a context's importance, in seconds, and how many times as long a loop over examples takes."""
    read = {benchmark: _rows(f"{benchmark}-importance-float32") for benchmark in _BENCHMARKS}
    names = list(dict.fromkeys(name for rows in read.values() for name in rows.index))
    lines = [["seconds (a loop over the examples / that)", *(BENCHMARKS[benchmark] for benchmark in read)]]
    for name in names:
        cells = [
            f"{_cell(rows, name, 's', digits=1)} ({_cell(rows, name, 'loop over examples / it', digits=0)})"
            for rows in read.values()
        ]
        lines.append([name, *cells])
    return markdown(lines)


def fisher_estimators() -> str:
    """The ways to estimate the Fisher information, in times of the exact one."""
    read = {benchmark: _rows(f"{benchmark}-fisher-float32") for benchmark in _BENCHMARKS[:2]}
    lines = [["Fisher information, over the exact one", *(BENCHMARKS[benchmark] for benchmark in read)]]
    for name in next(iter(read.values())).index:
        lines.append([name, *(_cell(rows, name, "/ exact") for rows in read.values())])
    return markdown(lines)


def _rows(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv", index_col=0)


def _cell(rows: pd.DataFrame, name: str, column: str, digits: int = 2) -> str:
    value = rows[column].get(name)
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def tables() -> str:
    """All of them."""
    return "\n\n".join((steps(), importances(), fisher_estimators()))
