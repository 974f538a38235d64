"""Which runs are compared: finished ones under the same protocol, each seed once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clsweep.config import HYPERPARAMETERS
from clsweep.results import FINISHED, Results

# What must be the same for two runs to be compared. What a file of an older format doesn't say is a value of its own.
PROTOCOL: Final = (
    "benchmark",
    "scenario",
    "dataset",
    "n_train",
    "n_test",
    "contexts",
    "classes_per_context",
    "image_size",
    "normalize",
    "network",
    "budget",
    "iters",
    "batch_size",
    "lr",
    "precision",
)
_BUDGETS: Final = ("full", "quick", "custom", "smoke")
BOUNDS: Final = ("none", "joint")
TUNED: Final = "tuned"


@dataclass(frozen=True)
class Selection:
    """The runs that are compared.

    Attributes:
        runs: rows of `Results.runs` with four columns more: `protocol`, a number from 0 up, the protocol that is
            looked at first having the least; `method`, the name, with the beginning of its file's digest where several
            files of that name were run; `setting`, its hyperparameters as text, empty where it has none; `values`,
            which is `tuned` or `default` for a sweep's final runs, else empty.
        held_out: how many finished runs were left out because they held training data out to choose values by.
        repeated: how many were left out because a later run has the same protocol, method, values and seed.
    """

    runs: pd.DataFrame
    held_out: int
    repeated: int


def select(results: Results) -> Selection:
    """Choose the runs that are compared: finished, trained on all training data, the latest for each seed.

    Args:
        results: what was read.
    """
    finished = results.runs[results.runs["status"] == FINISHED]
    whole = finished[finished["validation_fraction"] == 0].copy()
    whole["setting"] = [_setting(row) for row in whole.to_dict("records")]
    whole["values"] = _final_values(whole, results.finals)
    whole["method"] = _methods(whole)
    whole["protocol"] = _numbered(whole)
    identity = ["protocol", "method", "setting", "seed"]
    whole = whole.sort_values(["values", "started_at"], kind="stable", na_position="first")
    latest = whole.drop_duplicates(identity, keep="last").sort_values(["protocol", "method"], kind="stable")
    return Selection(latest.reset_index(drop=True), len(finished) - len(whole), len(whole) - len(latest))


def describe(protocol: pd.Series) -> str:
    """A protocol in one line.

    Args:
        protocol: a row with the columns of `PROTOCOL`.
    """
    per_context = "" if pd.isna(protocol["classes_per_context"]) else f" of {protocol['classes_per_context']} classes"
    parts = [
        f"{protocol['scenario']}-incremental, {protocol['contexts']} contexts{per_context}",
        f"{protocol['dataset']} ({protocol['n_train']:,} training images)",
        f"{protocol['budget']} budget: {protocol['iters']:,} iterations a context",
        f"batch {protocol['batch_size']}",
        f"Adam lr {protocol['lr']:g}",
        protocol["network"] or "network not recorded",
        protocol["precision"],
    ]
    return ", ".join(parts)


def _setting(run: Mapping[Hashable, Any]) -> str:
    """The hyperparameters that the method uses; files of version 1 don't say which, so all of them."""
    if run["regularizer"] in BOUNDS:
        return ""
    recorded = run["format_version"] != 1
    used = str(run["hyperparameters"]).split() if recorded else list(HYPERPARAMETERS)
    parts = [f"{name}={run[name]:.4g}" for name in HYPERPARAMETERS if name in used]
    scale = run["reg_strength_scale"]
    if isinstance(scale, float) and scale not in (1.0,) and not pd.isna(scale):
        parts.append(f"reg_strength_scale={scale:g}")
    options = str(run["method_options"])
    if options and options != _USUAL_OPTIONS:
        parts.append(options)
    return ", ".join(parts)


_USUAL_OPTIONS = "fisher.labels=exact fisher.examples=null"


def _final_values(runs: pd.DataFrame, finals: pd.DataFrame) -> list[str]:
    """Whether a final run has the values that its sweep chose; a sweep that chose the default ones ran them once."""
    chosen: dict[tuple[str, str], str] = {}
    for study, folder, setting in zip(finals["study"], finals["folder"], finals["setting"], strict=True):
        chosen.setdefault((study, Path(folder).name), setting)  # tuned rows come first
    return [
        chosen.get((study, Path(folder).name), "") for study, folder in zip(runs["study"], runs["folder"], strict=True)
    ]


def _methods(runs: pd.DataFrame) -> list[str]:
    digests = runs.groupby("regularizer")["regularizer_digest"].nunique()
    return [
        f"{name} @{digest[:6]}" if digest and digests[name] > 1 else name
        for name, digest in zip(runs["regularizer"], runs["regularizer_digest"], strict=True)
    ]


def _numbered(runs: pd.DataFrame) -> pd.Series:
    """A number for each protocol: by benchmark, the fuller budget, more methods, more runs, the later ones first."""
    keys = list(PROTOCOL)
    groups = runs.groupby(keys, dropna=False, sort=True)
    table = groups.agg(
        methods=("method", "nunique"), size=("run_id", "size"), latest=("started_at", "max")
    ).reset_index()
    table["group"] = range(len(table))
    table["rank"] = table["budget"].map({name: rank for rank, name in enumerate(_BUDGETS)}).fillna(len(_BUDGETS))
    table = table.sort_values("latest", ascending=False, kind="stable")
    ordered = table.sort_values(
        ["benchmark", "rank", "methods", "size"], ascending=[True, True, False, False], kind="stable"
    )
    number = {group: place for place, group in enumerate(ordered["group"])}
    return groups.ngroup().map(number)
