"""What protocols and studies are called on the page: by what they are, before where they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clsweep import defaults
from clsweep.config import CUSTOM_BUDGET
from clsweep.results import Results

BENCHMARKS: Final = {
    "split_mnist": "Split-MNIST",
    "perm_mnist": "Permuted-MNIST",
    "rotated_mnist": "Rotated-MNIST",
    "split_fashion_mnist": "Split-FashionMNIST",
    "split_cifar10": "Split-CIFAR-10",
    "split_cifar100": "Split-CIFAR100",
}
METHODS: Final = {
    "ewc": "EWC",
    "ewc_separate": "EWC (separate penalties)",
    "online_ewc": "Online EWC",
    "kfac_ewc": "Kronecker-factored EWC",
    "si": "SI",
    "mas": "MAS",
    "rwalk": "RWalk",
    "lwf": "LwF",
    "l2": "L2",
    "owm": "OWM",
    "gpm": "GPM",
    "ncl": "NCL",
    "vcl": "VCL",
    "custom": "custom (the shipped file)",
}


def protocol_title(protocol: Mapping[Any, Any]) -> str:
    """What tells protocols apart at first sight.

    Args:
        protocol: a row with the columns of `clsweep.report.selection.PROTOCOL`.
    """
    searched = protocol["searched"].split()
    precision = "" if protocol["precision"] == "float32" or "precision" in searched else f", {protocol['precision']}"
    version = ", older file format" if pd.isna(protocol["classes_per_context"]) else ""
    where = f"({protocol['scenario']}) on {protocol['dataset']}"
    found = f", {' and '.join(name.replace('_', ' ') for name in searched)} searched" if searched else ""
    length = "" if {"iters", "epochs"} & {*searched} else f", {_length(protocol)}"
    return f"{protocol['benchmark']} {where}{length}{precision}{version}{found}"


def study_titles(results: Results) -> list[str]:
    """A title for each study: "Split-MNIST, quick budget: EWC".

    Where studies have the same title, what tells them apart follows it: the folder of their sweep, else their own.
    """
    rows = results.studies.to_dict("records")
    trained = {str(study): runs.iloc[0].to_dict() for study, runs in results.runs.groupby("study") if study}
    titles = [_study_title(row, trained.get(str(row["study"]))) for row in rows]
    folders = [Path(str(row["study"])) for row in rows]
    titles = _disambiguated(titles, [folder.parent.name for folder in folders])
    return _disambiguated(titles, [folder.name for folder in folders])


def numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number after those that are the same.

    Args:
        names: of whatever is drawn.
    """
    counts, seen = Counter(names), Counter[str]()
    made = []
    for name in names:
        seen[name] += 1
        made.append(f"{name}, {seen[name]} of {counts[name]}" if counts[name] > 1 else name)
    return made


def _study_title(study: Mapping[Hashable, Any], run: Mapping[Hashable, Any] | None) -> str:
    benchmark, method = str(study["benchmark"]), str(study["method"])
    on = "" if study["dataset"] == _usual_dataset(benchmark) else f" on {study['dataset']}"
    length = _length(study if run is None else run)
    return f"{BENCHMARKS.get(benchmark, benchmark)}{on}, {length}: {METHODS.get(method, method)}"


def _length(row: Mapping[Any, Any]) -> str:
    if row["budget"] != CUSTOM_BUDGET or pd.isna(row["iters"]):
        return f"{row['budget']} budget"
    epochs = 0 if pd.isna(row.get("epochs")) else row["epochs"]
    return f"{epochs} epoch{'s' if epochs > 1 else ''}" if epochs else f"{row['iters']:,} iterations"


def _usual_dataset(benchmark: str) -> str:
    return defaults.usual(benchmark).dataset.name if benchmark in defaults.names() else ""


def _disambiguated(titles: Sequence[str], places: Sequence[str]) -> list[str]:
    """The titles, those of several studies with their places unless these are all the same."""
    found: dict[str, set[str]] = {}
    for title, place in zip(titles, places, strict=True):
        found.setdefault(title, set()).add(place)
    counts = Counter(titles)
    return [
        f"{title} ({place})" if counts[title] > 1 and len(found[title]) > 1 else title
        for title, place in zip(titles, places, strict=True)
    ]
