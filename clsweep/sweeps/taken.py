"""Runs that were finished but not recorded, as when their process was killed in between: taken, not trained again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clsweep import results
from clsweep.config import Config, to_yaml
from clsweep.folders import SETTING
from clsweep.protocol import Protocol
from clsweep.results.metrics import Cell
from clsweep.training import saved

# What decides a run's result beside its protocol.
_DECISIVE = ("regularizer", "stream", "seed")


@dataclass(frozen=True)
class Taken:
    """A finished run.

    Attributes:
        average_accuracy: on the test data after the last context, from 0 to 1.
        validation_average_accuracy: the same on the validation data; NaN where nothing was held out.
        seconds: how long it trained, estimated importance and was evaluated.
        measured: its cells, those of one moment together, in order.
    """

    average_accuracy: float
    validation_average_accuracy: float
    seconds: float
    measured: list[list[Cell]]


def take(folder: Path, config: Config, left: Sequence[Path]) -> Taken | None:
    """Move a finished run of exactly this setting to where it belongs now.

    Args:
        folder: of the run that is to be; isn't there yet.
        config: its setting.
        left: the folders where one may lie.

    Returns:
        What it measured; None where there is none.
    """
    for one in left:
        found = _finished(one, config)
        if found is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            one.rename(folder)
            return found
    return None


def _finished(folder: Path, config: Config) -> Taken | None:
    setting = folder / SETTING
    if not setting.is_file() or not (folder / results.SUMMARY_FILE).is_file() or not saved.are_there(config, folder):
        return None
    if _decisive(setting.read_text(encoding="utf-8")) != _decisive(to_yaml(config)):
        return None
    found = results.load(folder)
    if found.problems or found.runs["status"].tolist() != [results.FINISHED]:
        return None
    run = found.runs.iloc[0]
    if Protocol.of_row(run.to_dict()) != Protocol.of(config):
        return None
    moments = found.cells.groupby("after_context", sort=True)
    return Taken(
        average_accuracy=float(run["average_accuracy"]),
        validation_average_accuracy=float(run["validation_average_accuracy"]),
        seconds=float(run[["train_seconds", "importance_seconds", "eval_seconds"]].sum()),
        measured=[[_cell(row) for row in rows.to_dict("records")] for _, rows in moments],
    )


def _decisive(text: str) -> Any:
    """What decides a run's result beside its protocol, of its setting as YAML; where it is searched for does not."""
    values = yaml.safe_load(text)
    if not isinstance(values, dict) or not isinstance(values.get("regularizer"), dict):
        return None
    method = {key: value for key, value in values["regularizer"].items() if key != "space"}
    return {key: values.get(key) for key in _DECISIVE} | {"regularizer": method}


def _cell(row: dict[Any, Any]) -> Cell:
    return Cell(
        int(row["after_context"]), int(row["context"]), str(row["split"]), float(row["accuracy"]), int(row["n"])
    )
