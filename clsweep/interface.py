"""The Python interface, which `clsweep` exports: `clsweep.run` and others.

It computes what the command line computes, from the same configuration. Errors are raised, and what a run changes in
the process (threads, floating-point settings, random numbers, logging, Hydra's state) is put back.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from torch import nn

from clsweep import cli, composing, own, paths, results, resuming, running
from clsweep import config as settings
from clsweep.config import ON_STREAM, Config
from clsweep.decisive import decisive
from clsweep.errors import InputError, RunError, is_machine_error, machine_error
from clsweep.folders import SETTING, run_in
from clsweep.methods.calls import IN_LOG
from clsweep.methods.functions import Functions
from clsweep.methods.undisturbed import as_at_start
from clsweep.results.statistics import estimate
from clsweep.seeding import GlobalStream
from clsweep.sweeps import command, finals
from clsweep.sweeps.monitor import Outcome
from clsweep.training import run as training
from clsweep.training.machine import prepare_cpu
from clsweep.training.observers import Observer
from clsweep.training.run import pick_device
from clsweep.training.saved import MOVED, Saved

logging.getLogger("clsweep").addHandler(logging.NullHandler())  # what is logged is the program's to show


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        summary: the row of `summary.csv`, by column: setting, metrics, times, versions. What is not defined is NaN.
        accuracy: the table of `accuracy.csv`: `run_id`, `after_context` (0: untrained), `context` (from 1), `split`
            (test, or validation where data is held out), `accuracy` (0 to 1), `n` (examples).
        curve: the table of `curve.csv`, of a run with `evaluate_every`; else None. A row for each accuracy that was
            measured while a context was learned, or at its end: `run_id`, `training_context` (from 1), `iteration`
            (steps made on it), `overall_iteration` (steps made on all), `context` (the one that was measured), `split`,
            `accuracy`, `n`.
        model: the trained network, on the run's device and in eval mode; the active classes are those of the last
            context learned, as in the last step.
        folder: where the run's files are; None where nothing was written.
    """

    summary: dict[str, Any]
    accuracy: pd.DataFrame
    curve: pd.DataFrame | None
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
            file); made if it isn't there. A run that was stopped there resumes, unless the method is an object: what
            an object keeps isn't known. A finished one is an error (overrides=["resume=false"] trains it again). None:
            nothing is written.
        quiet: print nothing.

    Raises:
        InputError: something is missing or wrong in what was given; nothing was trained.
        RunError: the run failed after it had started; what was measured is in the folder.
        KeyboardInterrupt: it was interrupted; likewise.
    """
    place = _place(folder)
    with _undisturbed():
        config, functions = _setting(benchmark, method, overrides)
        if config.seeds is not None:
            raise InputError(f"seeds={config.seeds}: is for the command line; expected seed=N, and a run for each.")
        try:
            outcome = _outcome(config, functions, place, Observer() if quiet else None)
        except RunError as error:
            if place is not None or IN_LOG not in str(error):
                raise
            told = str(error).replace(IN_LOG, "the traceback is that of this error's __cause__")
            raise type(error)(told) from error.__cause__
        except OSError as error:
            if not is_machine_error(error):
                raise
            raise machine_error(error) from error
        cli.finish(config, place, outcome.places, (lambda line: None) if quiet else print)
    outcome.model.eval()
    table = results.accuracy_table(outcome.summary, outcome.cells)
    every = outcome.summary.evaluate_every
    curve = None if every is None else results.curve_table(outcome.summary.run_id, outcome.curve)
    return Result(outcome.summary.row, table, curve, outcome.model, place)


def load_model(folder: str | Path, after: int | None = None, *, device: str = "cpu") -> nn.Module:
    """The network that a run with `save_model=true` has saved, as it was trained; neither data nor method are needed.

        model = clsweep.load_model("outputs/split_mnist/si/2026-01-31_12-00-00-000000-s0")
        logits = model(images)  # [B, C, H, W], prepared as for training

    `model.pt` is read as tensors alone. The code of a network of one's own is run, as `model.json` names it, so open
    only folders that you trust. It is the code that the network was trained with: what Python finds under its name,
    if that hasn't changed, else the copy in the folder.

    Args:
        folder: the run's; of a sweep that of a trial or a final run, of several seeds that of one.
        after: how many contexts had been learned, from 1, where `save_model=every_context` has saved them; None: all.
        device: `cpu`, `cuda`, `cuda:N` or `auto`, for a GPU where there is one.

    Returns:
        The network in eval mode. Its active outputs are those of the context learned last, as in the last step; with
        `contract.logits=all` they are all outputs. What a method had put on the network isn't there.

    Raises:
        InputError: nothing is saved there, or it is damaged; the network isn't the one that was trained.
    """
    with _undisturbed():
        kept = _saved(folder, after)
        model = kept.network(_device(device))
    _warn(kept)
    return model


def evaluate(
    folder: str | Path, after: int | None = None, overrides: Sequence[str] = (), *, device: str | None = None
) -> pd.DataFrame:
    """Measure a network that a run with `save_model=true` has saved, on all contexts, as the run did.

        clsweep.evaluate("outputs/split_mnist/si/2026-01-31_12-00-00-000000-s0")

    It agrees with the run's `accuracy.csv`: exactly on the same machine, elsewhere except for examples whose two
    largest logits are equal up to rounding.

    Args:
        folder: as for `load_model`.
        after: likewise.
        overrides: where the data are, if not where the run found them: values of `dataset.root`, `dataset.train` and
            `dataset.test`, each as it is typed on the command line.
        device: `cpu`, `cuda`, `cuda:N` or `auto`; None: what the run was told.

    Returns:
        A row for each context and split: `after_context`, `context` (from 1), `split` (test, or validation where data
        was held out), `accuracy` (0 to 1), `n` (examples).

    Raises:
        InputError: as for `load_model`, or the data aren't there or aren't those of the run.
    """
    with _undisturbed():
        kept = _saved(folder, after)
        setting = kept.description.setting
        prepare_cpu(setting["threads"])
        cells = kept.measured(_device(device or setting["device"]), _moved(overrides))
    _warn(kept)
    return pd.DataFrame([asdict(cell) for cell in cells], columns=list(results.CELL_COLUMNS))


def _moved(overrides: Sequence[str]) -> dict[str, Any]:
    """Where the data are, by key."""
    _check_overrides(overrides)
    moved = composing.values(overrides)
    for key, value in moved.items():
        if key not in MOVED:
            raise InputError(
                f"overrides: {key}={value}: what was measured stays as it was; expected values of {', '.join(MOVED)} "
                "alone."
            )
    return moved


def _saved(folder: str | Path, after: int | None) -> Saved:
    if not isinstance(folder, str | Path):
        raise InputError(f"folder={folder!r}: expected the path of a run's folder.")
    return Saved.of(paths.absolute(folder), after)


def _device(name: str) -> torch.device:
    if not isinstance(name, str) or not settings.DEVICE.holds(name):
        raise InputError(f"device={name}: expected {settings.DEVICE.expected}.")
    return pick_device(name)


def _warn(kept: Saved) -> None:
    if kept.note is not None:
        warnings.warn(kept.note, stacklevel=3)


@dataclass(frozen=True)
class Tuned:
    """A finished sweep: a study for each method.

    Attributes:
        table: a row for each method, in the order given, with the method as its index: `study` (its name), `tune_on`
            (what its values were chosen on), `validation` (the best trial's average accuracy on held-out data), `test`
            (the mean test accuracy of the final runs with the best values; with the default ones where nothing was
            searched), `half_width` (of its 95 % interval; NaN for one seed), `default` (the mean with the default
            values, where these differ), `seeds` (of the final runs) and `trials` (finished ones). Where overrides make
            several studies of a method, their names are the index.
        best: the best values by method, or as in `table`, each by hyperparameter.
        trials: a row for each trial: `method`, then the columns of `trials.csv`.
        finals: a row for each final run: `method`, then the columns of `final.csv`.
        folder: where the studies are; None where nothing was kept.
    """

    table: pd.DataFrame
    best: dict[str, dict[str, Any]]
    trials: pd.DataFrame
    finals: pd.DataFrame
    folder: Path | None

    def __repr__(self) -> str:
        shown = self.table.drop(columns="study")
        if (shown["tune_on"] == ON_STREAM).all():
            shown = shown.drop(columns="tune_on")
        return f"Tuned(\n{shown.round(4).to_string()}\n)"


def sweep(
    benchmark: str,
    methods: Sequence[str | Path],
    n_trials: int | None = None,
    overrides: Sequence[str] = (),
    folder: str | Path | None = None,
    *,
    quiet: bool = False,
) -> Tuned:
    """Tune the hyperparameters of methods on held-out data, then train each with its best and its default values.

        clsweep.sweep("split_mnist", ["ewc", "my_method.py"], n_trials=20, overrides=["budget=quick"], folder="sweeps")

    It is `python -m clsweep --multirun`: workers are processes of this machine, as many as there are idle cores
    (`search.workers=1`: this process alone). With a folder, the same call continues where an earlier one ended.

    Args:
        benchmark: its name.
        methods: names, and paths of files with the contract's two functions.
        n_trials: how many finished trials each study has in the end; None: what `search.n_trials` is by default.
        overrides: of the setting, each as it is typed on the command line: `"search.final_seeds=5"`; ranges, too:
            `"regularizer.reg_strength=tag(log, interval(1, 1e6))"`.
        folder: for the studies; None: nothing is kept.
        quiet: print nothing.

    Raises:
        InputError: something is missing or wrong in what was given; nothing was trained.
        RunError: a study was stopped because too many trials failed; the others continued.
        KeyboardInterrupt: it was interrupted; what is finished is in the folder.
    """
    _check_overrides(overrides)
    for one in overrides:
        if n_trials is not None and one.lstrip("+").partition("=")[0] == "search.n_trials":
            raise InputError(f"overrides: {one}: contradicts n_trials={n_trials}; expected one of them.")
    trials = [] if n_trials is None else [f"search.n_trials={n_trials}"]
    typed = [f"benchmark={benchmark}", *_chosen_of(methods), *trials, *overrides]
    if folder is None:
        _check_nothing_is_kept(overrides)
    composing.refuse_hydras(typed)
    with _undisturbed(), _kept(folder) as place:
        with composing.translating_errors():
            outcomes = command.tune(typed, place, Console(quiet=True) if quiet else None)
        if folder is None and not quiet:
            print("nothing of that is kept: folder=... keeps it")
        # A single study has the folder to itself, which then isn't named after the study.
        frames = [(name, one, results.load(one.study.plan.folder)) for name, one in _named(outcomes).items()]
    return Tuned(
        pd.DataFrame.from_dict({method: _row(one) for method, one, _ in frames}, orient="index"),
        {method: values for method, one, _ in frames if (values := _best(one)) is not None},
        _concatenated([_with_method(found.trials, method) for method, _, found in frames]),
        _concatenated([_with_method(found.finals, method) for method, _, found in frames]),
        None if folder is None else place,
    )


def _place(folder: str | Path | None) -> Path | None:
    """Where files are to be written, which is checked before anything is done."""
    if folder == "" or not isinstance(folder, str | Path | None):
        raise InputError(f"folder={folder!r}: expected a path, or None.")
    if folder is None:
        return None
    cli.check_writable("folder", paths.expanded(folder))
    return paths.expanded(folder).absolute()


def _check_nothing_is_kept(overrides: Sequence[str]) -> None:
    """Refuse to write what would be gone at the end, since a sweep without a folder keeps nothing."""
    typed = composing.values(overrides)
    if typed.get("save_model", False) is not False:
        raise InputError("save_model: there is no folder to keep the networks in; expected folder=... as well.")
    if typed.get("tensorboard", False) is True or "tensorboard" in str(typed.get("logger")):
        raise InputError("logger=tensorboard: there is no folder to keep its files in; expected folder=... as well.")


def _check_overrides(overrides: Sequence[str]) -> None:
    """Check that they are a list, without what has an argument of its own."""
    if (
        isinstance(overrides, str)
        or not isinstance(overrides, Sequence)
        or not all(isinstance(one, str) for one in overrides)
    ):
        raise InputError(f"overrides={overrides!r}: expected a list of texts, as in overrides=['budget=quick'].")
    for one in overrides:
        group = one.lstrip("+").partition("=")[0]
        if group in ("benchmark", "regularizer"):
            name = "method" if group == "regularizer" else group
            raise InputError(f"overrides: {one}: expected it as {name}={one.partition('=')[2]!r}.")


def _setting(benchmark: str, method: object, overrides: Sequence[str]) -> tuple[Config, Functions | None]:
    """The checked setting, and the method where it is an object."""
    _check_overrides(overrides)
    functions = None if isinstance(method, str | Path) else Functions.of(method)
    for one in overrides:
        key = one.lstrip("+~").partition("=")[0]
        if key.startswith("search."):
            raise InputError(f"overrides: {one}: is for a sweep that tunes; expected clsweep.sweep(...).")
        if functions is not None and key in ("regularizer._target_", "regularizer.file"):
            raise InputError(f"overrides: {one}: contradicts method={functions.shown}; expected one of them.")
    composed = composing.composed([f"benchmark={benchmark}", *_chosen(method), *overrides])
    return settings.parse(composed), functions


def _is_file(method: str | Path) -> bool:
    return isinstance(method, Path) or method.endswith(".py")


def _chosen(method: object) -> list[str]:
    """The overrides that choose a method."""
    if not isinstance(method, str | Path):
        return ["regularizer=custom", "regularizer.file=null"]
    if not _is_file(method):
        return [f"regularizer={method}"]
    return ["regularizer=custom", f"regularizer.file={composing.quoted(method)}"]


def _chosen_of(methods: Sequence[str | Path]) -> list[str]:
    """The overrides that choose a sweep's methods.

    Raises:
        InputError: there are none, or one is neither a name nor a path.
    """
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise InputError(f"methods={methods!r}: expected a list of names and paths, as in methods=['ewc', 'mine.py'].")
    for method in methods:
        if not isinstance(method, str | Path):
            raise InputError(
                f"methods: {Functions.of(method).shown} is an object; expected a name or a path, since the workers of "
                "a sweep are processes of their own."
            )
    shown = [Path(method).name for method in methods]
    twice = [name for name in shown if shown.count(name) > 1]
    if twice:
        raise InputError(f"methods: {twice[0]} is there twice; expected names and files that can be told apart.")
    names = [str(method) for method in methods if not _is_file(method)]
    files = [composing.quoted(method) for method in methods if _is_file(method)]
    if files and "custom" in names:
        files.insert(0, "custom_regularization.py")
    chosen = ",".join(dict.fromkeys([*names, *(["custom"] if files else [])]))
    return [f"regularizer={chosen}", *([f"regularizer.file={','.join(files)}"] if files else [])]


@contextmanager
def _kept(folder: str | Path | None) -> Iterator[Path]:
    """The folder for a sweep; a temporary one where none is given."""
    given = _place(folder)
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="clsweep-") as place:
        yield Path(place)


def _given(config: Config) -> str:
    """A study's method as it was given: its name, or its file's."""
    file = config.regularizer.file
    own = file is not None and Path(file).name != "custom_regularization.py"
    return Path(str(file)).name if own else config.method


def _named(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """The studies by their methods; those of a method that has several by their own names."""
    methods = [_given(one.study.plan.config) for one in outcomes]
    return {
        method if methods.count(method) == 1 else one.study.plan.name: one
        for method, one in zip(methods, outcomes, strict=True)
    }


def _best(one: Outcome) -> dict[str, Any] | None:
    """The best values of a study; None where it has none."""
    if not one.study.plan.way.searches:
        return dict(one.study.plan.default)
    return None if one.now.best is None else dict(one.now.best.params)


def _row(one: Outcome) -> dict[str, Any]:
    """A study's row of `Tuned.table`."""
    nan, best, plan = float("nan"), one.now.best, one.study.plan
    tuned, default = (finals.accuracies(one.runs, setting) for setting in (finals.chosen(plan), finals.DEFAULT))
    test = estimate(tuned) if tuned else None
    return {
        "study": plan.name,
        "tune_on": plan.way.shown,
        "validation": nan if best is None or best.value is None else best.value,
        "test": nan if test is None else test.mean,
        "half_width": nan if test is None else test.half_width,
        "default": estimate(default).mean if default else nan,
        "seeds": len(tuned),
        "trials": one.now.finished,
    }


def _concatenated(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One after the other; a dry run has none."""
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _with_method(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """A frame of `results.load`, of one study, with the method in the place of the study's folder."""
    made = frame.drop(columns="study").dropna(axis="columns", how="all")
    made.insert(0, "method", method)
    return made


def _outcome(
    config: Config, functions: Functions | None, folder: Path | None, observer: Observer | None
) -> training.Outcome:
    if folder is None:
        return training.run(config, None, observer, file=functions)
    is_new = False
    try:
        with running.alone(folder, key="folder"):
            resuming.check(folder, decisive(config, functions), goes_on=config.resume, key="folder")
            is_new = not (folder / SETTING).exists()
            return run_in(folder, config, observer, None, functions, rehearsed=False, part_of=None)
    except InputError:  # nothing was trained, and nothing is left
        if is_new:
            shutil.rmtree(folder / SETTING.parent, ignore_errors=True)
            with suppress(OSError):
                os.removedirs(folder)
        raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Train as a process of its own would, and leave this one as it was."""
    flushed = _flushes_denormals()
    with (
        paths.typed_in(Path.cwd()),
        own.kept(),
        torch.inference_mode(False),
        as_at_start(),
        GlobalStream(0).active(),
    ):
        try:
            yield
        finally:
            torch.set_flush_denormal(flushed)


def _flushes_denormals() -> bool:
    """Whether this thread flushes denormal numbers to zero, which only an operation can tell."""
    smallest = torch.full((1,), 1e-40, dtype=torch.float32, device="cpu")
    return bool((smallest * 1.0 == 0).item())
