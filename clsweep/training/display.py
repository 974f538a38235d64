"""What a run prints: the setting, progress, accuracies, the final table. Rich does the drawing."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from clsweep import architecture, defaults, published
from clsweep.config import ALL_LOGITS, Config
from clsweep.hyperparameters import TUNED
from clsweep.protocol import Protocol
from clsweep.results import CURVE_FILE, Summary, short
from clsweep.results.curves import Point
from clsweep.results.metrics import Cell, Matrix
from clsweep.training.machine import bf16_warning, busy_cores_warning
from clsweep.training.observers import Observer, Started
from clsweep.training.update import library

_PLAIN_WIDTH = 140  # where the output is no terminal nothing should be cut at 80 columns
_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_UPDATES = 0.1


class Display(Observer):
    """The terminal during one run: a live progress bar, or plain lines where the output is no terminal.

    Args:
        config: the setting.
        console: where to print; by default the standard output.
        images: what the images are.
        notes: what else the user should know, a sentence each; may grow until the run begins.
        iterations: the optimizer steps on each context; by default those of the setting.
        curve: how often the contexts are measured within, in words; empty where they aren't.
    """

    def __init__(
        self,
        config: Config,
        console: Console | None = None,
        images: str = "",
        notes: list[str] | None = None,
        iterations: Sequence[int] = (),
        curve: str = "",
    ) -> None:
        self._config = config
        self._images = images
        self._curve = curve
        self._notes = [] if notes is None else notes
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _PLAIN_WIDTH
        self._contexts = config.contexts_learned
        self._iterations = iterations or [config.benchmark.iters] * self._contexts
        self._ends = list(accumulate(self._iterations))
        self._total = self._ends[-1]
        self._done = self._before = 0  # steps, and those of an earlier part of the run
        self._folder: Path | None = None
        self._has_begun = False
        self._started = self._updated = self._resumed = time.monotonic()
        self._trained = 0.0  # seconds of training: neither measuring nor importance
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} it/s"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=self._total, rate=0.0)

    def setting(self, run: Started) -> None:
        config, benchmark = self._config, self._config.benchmark
        held_out = f", {config.validation_fraction:g} held out" if config.validation_fraction else ""
        by = Protocol.of(config).contexts_by
        made = f", {by}" if by else ""
        rows = {
            "benchmark": f"{benchmark.name}: {_contexts(config)}, {benchmark.scenario}-incremental, "
            f"on {config.dataset.name}{made}{held_out}",
            **_preset(config),
            "images": self._images,
            "network": f"{architecture.described(config.network)}, {_parameters(run.model)} parameters",
            "method": "  ".join([config.shown_method, *run.shown]),
            "training": f"{self._length()}, batch {benchmark.batch_size}, {_optimizer(config)}",
            **({"measured": self._curve} if self._curve else {}),
            "run": f"seed {config.seed}{_parts_of_seed(config)}, "
            f"{run.device}{_threads() if run.device == 'cpu' else ''}, {config.precision}{_logits(config)}",
        }
        if run.folder is not None:
            rows["results"] = str(short(run.folder))
        self._folder = run.folder
        for name, value in rows.items():
            self._print(f"{name:<10} {value}")
        notes = [*self._notes, *_tuned_elsewhere(config, run.shown)]
        if run.device == "cpu":
            slow = [busy_cores_warning(), library().note, bf16_warning() if config.precision == "bf16" else None]
            notes += filter(None, slow)
        for note in notes:
            self._print_note(note)
        self._has_begun = True

    def note(self, sentence: str) -> None:
        """Print a sentence; before the run begins, keep it for the other notes."""
        if self._has_begun:
            self._print_note(sentence)
        else:
            self._notes.append(sentence)

    def going_on(self, where: str) -> None:
        """Say so."""
        self.note(f"going on after {where}, where it was stopped")

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        """Print what an earlier part of the run has measured."""
        self._done = self._before = iterations
        self._resumed = time.monotonic()
        super().restored(measured, iterations)

    def step(self, loss: Tensor) -> None:
        """Count one optimizer step; draws at most ten times a second, or a line every half minute."""
        self._done += 1
        now = time.monotonic()
        self._trained += now - self._resumed
        self._resumed = now
        live = self._console.is_terminal
        if now - self._updated < (_SECONDS_BETWEEN_UPDATES if live else _SECONDS_BETWEEN_LINES):
            return
        self._updated = now
        if live:
            self._progress.update(self._task, completed=self._done, description=self._where(), rate=self._rate())
        else:
            left = (self._total - self._done) * (now - self._started) / (self._done - self._before)
            done = f"iteration {self._done} of {self._total}"
            self._print(f"{self._where()}: {done}, {self._rate():.0f} it/s, {clock(left)} left")

    def evaluated(self, points: Sequence[Point]) -> None:
        """Restart the clock of training: measuring doesn't count."""
        self._resumed = time.monotonic()

    def context_done(self, cells: Sequence[Cell]) -> None:
        """Print the accuracies after a context; the untrained network's are not worth a line.

        Args:
            cells: what was measured after it.
        """
        self._resumed = time.monotonic()
        after = cells[0].after_context
        if after == 0:
            return
        tested = [cell.accuracy for cell in cells if cell.split == "test"][:after]
        line = f"after context {after:>2}/{self._contexts}  test " + " ".join(f"{value:.3f}" for value in tested)
        line += f"  mean {np.mean(tested):.4f}"
        validated = [cell.accuracy for cell in cells if cell.split == "validation"][:after]
        if validated:
            line += f"  validation mean {np.mean(validated):.4f}"
        rate = f"  ({self._rate():.0f} it/s)" if self._done > self._before else ""
        self._print(f"{line}{rate}")

    def finished(self, matrix: Matrix, summary: Summary) -> None:
        """Print the accuracy matrix, the metrics and where the files are."""
        self._console.print(_matrix_table(matrix), soft_wrap=True)
        figure = published.figure(self._config)
        beside = "" if figure is None else f"   published {figure}"
        self._print(f"average accuracy  {summary.average_accuracy:.4f}{beside}")
        if not np.isnan(summary.validation_average_accuracy):
            self._print(f"  on validation   {summary.validation_average_accuracy:.4f}")
        if not np.isnan(summary.forgetting):
            self._print(f"forgetting        {summary.forgetting:z.4f}")
        if not np.isnan(summary.worst_case_accuracy):
            self._print(f"min-ACC           {summary.min_accuracy:.4f}   WC-ACC {summary.worst_case_accuracy:.4f}")
        self._print(
            f"time              {clock(summary.train_seconds)} training ({summary.iters_per_second:.0f} it/s), "
            f"{clock(summary.importance_seconds)} importance, {clock(summary.eval_seconds)} evaluation"
        )
        self._print_files("" if self._config.save_model is False else ", model.pt")

    def stopped(self, summary: Summary) -> None:
        """Print where the results of an unfinished run are."""
        self._print_files(": what was measured")

    def __enter__(self) -> Display:
        self._started = self._updated = self._resumed = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _length(self) -> str:
        fewest, most = min(self._iterations), max(self._iterations)
        steps = f"{most}" if fewest == most else f"{fewest} to {most}"
        epochs = self._config.benchmark.epochs
        if epochs is None:
            return f"{self._config.effective_budget} budget: {steps} iterations a context"
        return f"{epochs} epoch{'s' if epochs > 1 else ''} a context: {steps} iterations"

    def _where(self) -> str:
        context = min(self._contexts, 1 + bisect_left(self._ends, self._done))
        return "joint training" if self._config.stream == "joint" else f"context {context}/{self._contexts}"

    def _rate(self) -> float:
        """Steps for each second of training, as `iters_per_second` of the results counts them."""
        return (self._done - self._before) / max(self._trained, 1e-9)

    def _print_files(self, what: str = "") -> None:
        if self._folder is not None:
            curve = "" if self._config.evaluate_every is None else f", {CURVE_FILE}"
            self._print(f"files             {short(self._folder)}/summary.csv, accuracy.csv{curve}{what}")

    def _print_note(self, note: str) -> None:
        self._print(f"{'note':<10} {note}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def _contexts(config: Config) -> str:
    contexts = f"{config.benchmark.contexts} contexts"
    return contexts if config.first_contexts is None else f"the first {config.first_contexts} of {contexts}"


def _parameters(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,}"


def _optimizer(config: Config) -> str:
    setting = config.optimizer_setting
    name = "Adam" if setting.described == "adam" else setting.described
    reset = ", a new state in each context" if setting.reset else ""
    schedule = f", {setting.schedule_described}" if setting.schedule else ""
    return f"{name} lr {config.benchmark.lr:g}{schedule}{reset}"


_TUNED_WITH = {
    "dataset": "data set",
    "dataset_digest": "data set",
    "contexts": "contexts",
    "scenario": "scenario",
    "iters": "iterations",
    "epochs": "iterations",
    "batch_size": "batch",
    "network": "network",
    "optimizer": "optimizer",
    "lr": "learning rate",
}


def _tuned_elsewhere(config: Config, shown: Sequence[str]) -> list[str]:
    """A note where values that were tuned for a benchmark's usual setting are used in another one."""
    changed = Protocol.of(config).differences(defaults.protocol(config))
    words = dict.fromkeys(word for name, word in _TUNED_WITH.items() if name in changed)
    if not words or not any(f"({TUNED})" in one for one in shown):
        return []
    usual = f"the default values were tuned on the usual {config.benchmark.name}"
    return [f"{usual}; here {', '.join(words)} {'differs' if len(words) == 1 else 'differ'}: --multirun tunes for it"]


def _preset(config: Config) -> dict[str, str]:
    """Whose protocol a run follows, where it isn't ours."""
    preset, figures = config.regularizer.preset, config.benchmark.published
    return {} if preset is None or figures is None else {"protocol": f"{preset.name}, as published by {figures.source}"}


def _parts_of_seed(config: Config) -> str:
    parts = {"order": config.seed_order, "init": config.seed_init, "batches": config.seed_batches}
    given = ", ".join(f"{name} {seed}" for name, seed in parts.items() if seed is not None)
    return f" ({given})" if given else ""


def _logits(config: Config) -> str:
    return ", a method sees the logits of all classes" if config.contract.logits == ALL_LOGITS else ""


def _threads() -> str:
    count = torch.get_num_threads()
    return f" with {count} thread{'s' if count > 1 else ''}"


def _matrix_table(matrix: Matrix) -> Table:
    """The accuracy matrix, a row for each learned context; rows that were not measured are left out."""
    table = Table(title="test accuracy: row = after learning context, column = on context", title_justify="left")
    table.add_column("after")
    for context in range(1, matrix.shape[1] + 1):
        table.add_column(str(context), justify="right")
    table.add_column("mean of learned", justify="right")
    for after, row in enumerate(matrix):
        if not np.isnan(row).any():
            seen = row[:after] if after else row
            table.add_row(str(after), *(f"{value:.3f}" for value in row), f"{seen.mean():.3f}")
    return table


def clock(seconds: float) -> str:
    """A time as it is printed."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
