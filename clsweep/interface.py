"""The Python interface, which `clsweep` itself has: `clsweep.run`.

What it computes is what the command line computes, from the same configuration; errors are raised, and what a run
changes in the process (threads, numbers' handling, random numbers, logging, Hydra's state) is put back.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from clsweep import cli, composing, paths, results
from clsweep import config as settings
from clsweep.config import Config
from clsweep.errors import InputError, is_machines, machine_error
from clsweep.folders import SETTING, run_in
from clsweep.methods.functions import Functions
from clsweep.methods.undisturbed import settings_put_back
from clsweep.training import run as training
from clsweep.training.observers import Observer

logging.getLogger("clsweep").addHandler(logging.NullHandler())  # what is logged is the program's to show


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        summary: the row of `summary.csv`, by column: setting, metrics, times, versions. What is not defined is NaN.
        accuracy: the table of `accuracy.csv`: `run_id`, `after_context` (0: untrained), `context` (from 1), `split`
            (test, or validation where data is held out), `accuracy` (0 to 1), `n` (examples).
        model: the trained network, on the run's device and in eval mode; the active classes are those of the last
            context learned, as in the last step.
        folder: where the run's files are; None where nothing was written.
    """

    summary: dict[str, Any]
    accuracy: pd.DataFrame
    model: nn.Module
    folder: Path | None

    @property
    def average_accuracy(self) -> float:
        """The mean test accuracy over all contexts after the last one, from 0 to 1."""
        return float(self.summary["average_accuracy"])

    def __repr__(self) -> str:
        row = self.summary
        of = f"{row['benchmark']} {settings.shown_name(row['regularizer'], row['regularizer_file'])}"
        of += f" ({Path(row['regularizer_file']).name})" if row["regularizer_file"] else ""
        where = "" if self.folder is None else f", in {paths.short(self.folder)}"
        return f"Result({of}, seed {row['seed']}: average accuracy {self.average_accuracy:.4f}{where})"


def run(
    benchmark: str,
    method: object = "custom",
    overrides: Sequence[str] = (),
    folder: str | Path | None = None,
    *,
    quiet: bool = False,
) -> Result:
    """Train a network through the contexts of a benchmark, and measure it.

        clsweep.run("split_mnist", method="si", overrides=["budget=quick", "dataset=mnist_5k"])
        clsweep.run("perm_mnist", method=(estimate_importance, compute_regularization_loss))

    Args:
        benchmark: its name, as in `benchmark=split_mnist`.
        method: a method's name, as in `regularizer=si`; the path of a file with the contract's two functions; a tuple
            of the two; or any object that has them, such as a module or an instance of your own, which is used as it
            is.
        overrides: of the setting, each as it is typed on the command line: `"seed=3"`, `"optimizer.lr=1e-3"`.
        folder: for the files that a run leaves (`accuracy.csv`, `summary.csv`, its setting, a copy of the method's
            file); made if it isn't there. None: nothing is written.
        quiet: print nothing.

    Raises:
        InputError: something is missing or wrong in what was given; nothing was trained.
        RunError: the run failed on its way; what was measured is in the folder.
        KeyboardInterrupt: it was interrupted; likewise.
    """
    place = None if folder is None else Path(folder).expanduser().absolute()
    with _undisturbed():
        config, functions = _setting(benchmark, method, overrides)
        if config.seeds is not None:
            raise InputError(f"seeds={config.seeds}: is for the command line; expected seed=N, and a run for each.")
        try:
            outcome = _outcome(config, functions, place, Observer() if quiet else None)
        except OSError as error:
            if not is_machines(error):
                raise
            raise machine_error(error) from error
        cli.finish(config, place, outcome.places, _unheard if quiet else print)
    outcome.model.eval()
    table = results.accuracy_table(outcome.summary, outcome.cells)
    return Result(outcome.summary.row, table, outcome.model, place)


def _unheard(line: str) -> None:
    """Nobody listens."""


def _setting(benchmark: str, method: object, overrides: Sequence[str]) -> tuple[Config, Functions | None]:
    """The checked setting, and the method where it is an object."""
    if isinstance(overrides, str):
        raise InputError(f"overrides={overrides!r}: expected a list of texts, as in overrides=['budget=quick'].")
    for one in overrides:
        group = one.lstrip("+").partition("=")[0]
        if group in ("benchmark", "regularizer"):
            name = "method" if group == "regularizer" else group
            raise InputError(f"overrides: {one}: expected it as {name}={one.partition('=')[2]!r}.")
    functions = None if isinstance(method, str | Path) else Functions.of(method)
    composed = composing.composed([f"benchmark={benchmark}", *_chosen(method), *overrides])
    return settings.parse(composed), functions


def _chosen(method: object) -> list[str]:
    """The overrides that choose a method."""
    if not isinstance(method, str | Path):
        return ["regularizer=custom", "regularizer.file=null"]
    if isinstance(method, str) and not method.endswith(".py"):
        return [f"regularizer={method}"]
    return ["regularizer=custom", f"regularizer.file={composing.quoted(method)}"]


def _outcome(
    config: Config, functions: Functions | None, folder: Path | None, observer: Observer | None
) -> training.Outcome:
    if folder is None:
        return training.run(config, None, observer, file=functions)
    results.refuse_used(folder, "folder")
    is_new = not folder.exists()
    try:
        return run_in(folder, config, observer, None, functions, rehearsed=False, part_of=None)
    except InputError:  # nothing was trained, and nothing is left
        shutil.rmtree(folder / SETTING.parent, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                os.removedirs(folder)
        raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Train as a process of its own would, and leave this one as it was."""
    flushed = _flushes_denormals()
    with paths.typed_in(Path.cwd()), settings_put_back(), torch.enable_grad(), torch.inference_mode(False):
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        try:
            yield
        finally:
            torch.set_flush_denormal(flushed)


def _flushes_denormals() -> bool:
    """Whether this thread takes numbers near zero for zero, which only an operation tells."""
    smallest = torch.full((1,), 1e-40, dtype=torch.float32, device="cpu")
    return bool((smallest * 1.0 == 0).item())
