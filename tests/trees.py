"""Folders of results as runs and sweeps leave them, with made-up figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from clsweep import results
from clsweep.results import Point, Summary, metrics
from clsweep.results.metrics import Cell

NOTHING: dict[str, Any] = {"str": "", "int": 0, "int | None": None, "float": math.nan, "bool": False}
_number = count()

# The protocol of conf/benchmark/split_mnist.yaml.
SPLIT_MNIST: dict[str, Any] = {
    "format_version": results.FORMAT_VERSION,
    "status": results.FINISHED,
    "benchmark": "split_mnist",
    "scenario": "task",
    "stream": "sequential",
    "dataset": "mnist",
    "network": "mlp 400 400",
    "n_train": 60_000,
    "contexts": 3,
    "classes_per_context": 2,
    "regularizer": "ewc",
    "hyperparameters": "reg_strength",
    "reg_strength": 10.0,
    "reg_strength_scale": 1.0,
    "gamma": 1.0,
    "epsilon": 0.1,
    "budget": "full",
    "iters": 2_000,
    "batch_size": 128,
    "lr": 1e-3,
    "validation_fraction": 0.0,
    "precision": "float32",
    "device": "cpu",
    "threads": 2,
    "train_seconds": 10.0,
    "importance_seconds": 1.0,
    "eval_seconds": 0.5,
}


def summary(**changes: Any) -> Summary:
    """A row whose values, unless changed, are their column's kind of nothing."""
    nothing = {one.name: NOTHING[str(one.type)] for one in dataclasses.fields(Summary) if one.name != "values"}
    return Summary(**nothing | changes)


def cells_of(accuracy: float, contexts: int, seed: int, joint: bool = False, drop: float = 0.01) -> list[Cell]:
    """Test cells whose average after the last context is `accuracy`, and which lose `drop` with each context."""
    noise = np.random.default_rng(seed).normal(0, 0.002, (contexts + 1, contexts))
    cells = []
    for after in (0, contexts) if joint else range(contexts + 1):
        row = accuracy + drop * (contexts - after) + noise[after]
        row += accuracy - row.mean() if after == contexts else 0
        cells += [Cell(after, context, "test", min(1.0, float(value)), 100) for context, value in enumerate(row, 1)]
    return cells


def write_run(folder: Path, accuracy: float = 0.9, **changes: Any) -> Path:
    """A run folder; `accuracy` is its average accuracy on the test set, if it is finished.

    `curve` has its points, and `drop` is what each context loses with each later one.
    """
    curve: Sequence[Point] = changes.pop("curve", ())
    drop: float = changes.pop("drop", 0.01)
    number = next(_number)
    values = SPLIT_MNIST | {"run_id": f"run-{number}", "started_at": started(number)} | changes
    contexts = values["contexts"]
    values.setdefault("n_test", 100 * contexts)
    cells = cells_of(accuracy, contexts, values.get("seed", 0), values["stream"] == "joint", drop)
    if values["status"] == results.FINISHED:
        matrix = results.accuracy_matrix(cells, "test", contexts)
        for name in ("average_accuracy", "learning_accuracy", "forgetting", "backward_transfer"):
            values.setdefault(name, getattr(metrics, name)(matrix))
        if not math.isnan(validated := values.get("validation_average_accuracy", math.nan)):
            cells += [Cell(contexts, context, "validation", validated, 10) for context in range(1, contexts + 1)]
    folder.mkdir(parents=True)
    results.write(folder, summary(**values), cells, curve)
    return folder


# By the context in training and the iteration within it, the accuracies on the contexts so far. Contexts are of unequal
# length, the last one isn't measured at a multiple of 2, and each has its lowest accuracy elsewhere: context 1 while it
# is learned itself, which doesn't count.
MEASURED = {
    (1, 2): [0.10],
    (1, 4): [0.95],
    (2, 2): [0.40, 0.20],
    (2, 4): [0.60, 0.85],
    (2, 6): [0.90, 0.88],
    (3, 2): [0.55, 0.30, 0.33],
    (3, 3): [0.80, 0.70, 0.92],
}
STARTS = {1: 0, 2: 4, 3: 10}


def curve_points(measured: dict[tuple[int, int], list[float]] = MEASURED, split: str = "test") -> list[Point]:
    """The points of a curve, by default of `MEASURED`."""
    return [
        Point(training, iteration, STARTS[training] + iteration, context, split, accuracy, 200)
        for (training, iteration), accuracies in measured.items()
        for context, accuracy in enumerate(accuracies, 1)
    ]


def write_seeds(folder: Path, accuracies: Sequence[float], **changes: Any) -> None:
    """A run for each accuracy, with the seeds 0, 1, ..."""
    for seed, accuracy in enumerate(accuracies):
        write_run(folder / f"{next(_number)}", accuracy, seed=seed, **changes)


def started(number: int) -> str:
    """A later time for a higher number."""
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat(timespec="seconds")


TRIALS = """\
format_version,number,state,reg_strength,gamma,epsilon,validation_average_accuracy,test_average_accuracy,\
validation_after_1,validation_after_2,seconds,seed,folder,reason
2,0,COMPLETE,1.0,1.0,0.1,0.8,0.79,0.9,0.8,3.5,0,s/trial-0000,
2,1,COMPLETE,10.0,0.5,0.1,0.95,0.94,0.97,0.95,3.5,0,s/trial-0001,
2,2,PRUNED,1000.0,0.25,0.1,,,0.99,,1.5,0,s/trial-0002,validation accuracy 0.99 after context 1 of 2
2,3,FAIL,100000.0,0.75,0.1,,,,,0.5,0,s/trial-0003,training diverged
2,4,COMPLETE,100.0,0.9,0.1,0.9,0.89,0.96,0.9,3.5,0,s/trial-0004,
2,5,COMPLETE,30.0,0.8,0.1,0.94,0.9,0.96,0.94,3.5,0,s/trial-0005,
"""
FINAL = """\
format_version,setting,reg_strength,gamma,seed,test_average_accuracy,folder,origin
2,tuned,10.0,0.5,0,0.9,s/final-0000,tuned
2,tuned,10.0,0.5,1,0.911,s/final-0001,tuned
2,default,1.0,1.0,0,0.8,s/final-0002,default
"""
BEST = """\
defaults: [config, _self_]
benchmark: {name: split_mnist, iters: 2000, iters_by_budget: {full: 2000, quick: 200}}
dataset: {name: mnist}
regularizer:
  name: online_ewc
  space: {reg_strength: "tag(log, interval(0.1, 1e6))", gamma: "interval(0.05, 1)"}
budget: full
"""


def write_study(folder: Path) -> Path:
    """A study's folder with two of its trials' runs and its final ones."""
    folder.mkdir(parents=True)
    (folder / "trials.csv").write_text(TRIALS.replace(",s/trial-", f",{folder.name}/trial-"))
    (folder / "final.csv").write_text(FINAL)
    (folder / "best.yaml").write_text(BEST)
    method: dict[str, Any] = {"regularizer": "online_ewc", "hyperparameters": "reg_strength gamma"}
    write_run(folder / "trial-0000", 0.79, validation_fraction=0.1, reg_strength=1.0, **method)
    write_run(folder / "trial-0002", status=results.PRUNED, validation_fraction=0.1, reason="worse", **method)
    tuned: dict[str, Any] = {"reg_strength": 10.0, "gamma": 0.5}
    write_run(folder / "final-0000", 0.9, seed=0, **tuned, **method)
    write_run(folder / "final-0001", 0.911, seed=1, **tuned, **method)
    write_run(folder / "final-0002", 0.8, seed=0, reg_strength=1.0, **method)
    return folder
