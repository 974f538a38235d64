"""One run, from a checked setting to the CSV files."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

import clsweep
from clsweep import architecture, decisive, networks, process, results, resuming, sources
from clsweep.checkpoints.packing import DamagedError
from clsweep.config import ALL_LOGITS, Config, RegularizerConfig, check_evaluation
from clsweep.data import contexts, datasets
from clsweep.data.identity import DIGEST
from clsweep.errors import InputError, MachineError, RunError, machine_error, named
from clsweep.hyperparameters import STANDARD
from clsweep.methods.files import MethodFile, read
from clsweep.methods.functions import Functions
from clsweep.methods.loading import Loaded, load
from clsweep.protocol import Protocol, targets
from clsweep.results import Summary, curves, metrics
from clsweep.results.curves import Point, moments
from clsweep.results.metrics import Cell
from clsweep.seeding import GlobalStream, Seeds, derived_seed
from clsweep.targets import TARGET, Target
from clsweep.training import observers, saved, update
from clsweep.training.checkpoints import Checkpoint, Checkpoints, code_of, restore
from clsweep.training.display import Display
from clsweep.training.first_context import Shared
from clsweep.training.learner import Learner
from clsweep.training.loop import Trainer, measured_how, protocol_of
from clsweep.training.machine import prepare_cpu
from clsweep.training.observers import Observer, Several, Started
from clsweep.training.rehearsal import rehearse

_NO_REGULARIZER = RegularizerConfig("none", "clsweep.methods.none.NoPenalty")
_MEASURED = (
    "format_version",
    "status",
    "reason",
    "average_accuracy",
    "learning_accuracy",
    "forgetting",
    "backward_transfer",
    "validation_average_accuracy",
    "min_accuracy",
    "worst_case_accuracy",
    "train_seconds",
    "importance_seconds",
    "eval_seconds",
    "shared_seconds",
    "iters_per_second",
    "peak_memory_mib",
)


class PrunedError(Exception):
    """Raised by an observer's `context_done` to end a run early; its message says why."""


@dataclass(frozen=True)
class PartOf:
    """What a run is a part of, for loggers.

    Attributes:
        study: a sweep's study, or the folder of several seeds.
        name: the run's within that.
    """

    study: str
    name: str


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        summary: the row of `summary.csv`.
        cells: the rows of `accuracy.csv`.
        curve: the rows of `curve.csv`; none without `evaluate_every`.
        model: the trained network.
        places: where to look at what loggers wrote, by the loggers' keys.
    """

    summary: Summary
    cells: Sequence[Cell]
    curve: Sequence[Point]
    model: nn.Module
    places: Mapping[str, str]


def run(
    config: Config,
    folder: Path | None,
    observer: Observer | None = None,
    prepare: Callable[[Config, torch.device], contexts.Stream] | None = None,
    file: MethodFile | Functions | None = None,
    *,
    rehearsed: bool = False,
    part_of: PartOf | None = None,
    first_contexts: Path | None = None,
) -> Outcome:
    """Train, measure and write one run.

    Args:
        config: the checked setting.
        folder: where `accuracy.csv` and `summary.csv` go; must exist. An unfinished run of the same setting in it
            resumes, unless `config.resume` is false. None: nothing is written.
        observer: is told what happens; by default it is printed.
        prepare: makes the contexts; a sweep keeps them from run to run.
        file: the method's, as a sweep read it when it began, or an object that has the functions; by default the file
            of the setting is read now.
        rehearsed: whether the file's functions have been tried on a few examples, as a sweep does once for all runs.
        part_of: the sweep's study, or the seeds, that it is a part of.
        first_contexts: the folder of the first contexts that it shares with others; None: it trains its own.

    Raises:
        InputError: the device, data, network or regularizer is not there or doesn't fit, or the folder holds a finished
            run or another one; nothing was trained.
        RunError: the run failed after it had started; what was measured has been written.
        PrunedError: the observer ended the run; what was measured has been written.
        KeyboardInterrupt: the run was interrupted; what was measured has been written.
    """
    started_at = datetime.now(UTC)
    fewer_threads = prepare_cpu(config.threads)
    device = pick_device(config.device)
    method = _method(config)
    if config.stream == "joint":  # trained without a method, whatever it is called with
        file = None
    file = file or (None if method.file is None else read(method.file))
    setting = decisive.decisive(config, file)
    was_there = False
    if folder is not None:
        was_there = resuming.check(folder, setting, goes_on=config.resume)
        if config.resume:
            resuming.refuse_gaps(folder, config)
    saved.check(config, folder)
    loaded = _loaded(config, file)
    stream = (prepare or _prepared)(config, device)
    check_fit(config, stream, device)
    notes = [*loaded.notes(), *loaded.steps_note(config.optimizer_setting), *stream.notes]
    notes += [fewer_threads] if fewer_threads and device.type == "cpu" else []
    iterations = protocol_of(config).iterations(stream)
    curve = measured_how(config, stream)
    last = observer or Display(config, images=stream.images, notes=notes, iterations=iterations, curve=curve)

    def tell(sentence: str) -> None:
        if sentence not in notes:  # as a rehearsal may have said it
            last.note(sentence)

    checkpoints = Checkpoints(folder if _can_go_on(config) else None, setting, config.evaluate_every, device, tell)
    for number, checkpoint in enumerate(checkpoints.usable() if config.resume else [None]):
        if was_there and checkpoint is None:
            last.note("the run that was stopped here left no checkpoint to go on from: it begins anew")
        is_to_tell = file or _has_own_network(config) or loaded.method.tells_layers
        if checkpoint is None and is_to_tell and not (rehearsed or isinstance(file, Functions)):
            notes += rehearse(config, stream, device, file)
        if folder is not None and config.resume and (folder / decisive.FILE).exists():
            results.remove_partial(folder)  # what an earlier part of the run was killed in the middle of
        elif folder is not None and not config.resume:
            resuming.clear(folder)  # now that nothing is wrong with what starts over
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        loaded = _loaded(config, file) if number else loaded
        run = _Run(config, folder, setting, stream, device, loaded, file, started_at, checkpoints, first_contexts)
        # What draws from the global generators while it trains, such as dropout, draws from the seed.
        with GlobalStream(derived_seed(Seeds.of(config).batches, "training")).active(), loaded.method.active():
            try:
                return run.train(checkpoint, last, part_of)
            except DamagedError as error:
                assert checkpoint is not None
                last.note(f"the checkpoint after context {checkpoint['learned']} can't be used ({error})")
    raise AssertionError("the last of them is the beginning")


def _can_go_on(config: Config) -> bool:
    """Whether a run can resume: joint training has one start for the optimizer, which may not begin anew in between."""
    setting = config.optimizer_setting
    return config.stream != "joint" or (not setting.reset and setting.schedule is None)


def _has_own_network(config: Config) -> bool:
    """Whether a method is to learn with a network that isn't ours."""
    return config.stream != "joint" and not architecture.is_ours(architecture.of(config.network))


def _method(config: Config) -> RegularizerConfig:
    return _NO_REGULARIZER if config.stream == "joint" else config.regularizer


def _loaded(config: Config, file: MethodFile | Functions | None) -> Loaded:
    return load(_method(config), derived_seed(Seeds.of(config).batches, "methods"), file)


@dataclass(frozen=True)
class _Run:
    """A run when everything is there; see `run`."""

    config: Config
    folder: Path | None
    setting: Mapping[str, Any]
    stream: contexts.Stream
    device: torch.device
    loaded: Loaded
    file: MethodFile | Functions | None
    started_at: datetime
    checkpoints: Checkpoints
    first_contexts: Path | None

    def train(self, checkpoint: Checkpoint | None, last: Observer, part_of: PartOf | None) -> Outcome:
        """Train, measure and write.

        Args:
            checkpoint: what the run goes on from; None: it begins.
            last: the observer that may end it.
            part_of: see `run`.

        Raises:
            DamagedError: it can't go on from that; nothing was written.
        """
        config, folder, loaded = self.config, self.folder, self.loaded
        seed = derived_seed(Seeds.of(config).init, "parameters")
        model = networks.build(config.network, self.stream.input_shape, self.stream.n_outputs, seed).to(self.device)
        shows_all = config.contract.logits == ALL_LOGITS
        keeper = saved.Keeper(config, self.stream, model, folder)
        learner = Learner(model, loaded.method, config.optimizer_setting, config.precision, shows_all=shows_all)
        code = code_of([*targets(config), *_own_class(_method(config))])
        own = observers.made(config)
        observer = Several([*own, last])
        trainer = Trainer(learner, self.stream, protocol_of(config), observer.step)
        trainer.evaluate_every, trainer.on_measured = config.evaluate_every, observer.evaluated
        if self.first_contexts is not None and loaded.method.leaves_first_context_alone:
            trainer.first = Shared(self.first_contexts, self.setting, learner, code)
            trainer.on_taken = lambda steps: observer.restored([], steps)
        method = _described(self.file, loaded, learner)
        record = Record(config, self.stream, self.device, method, self.started_at, trainer, folder)
        before = []
        if checkpoint is not None:
            before = restore(checkpoint, trainer, code, record)
            unit = "part" if config.stream == "joint" else "context"
            last.going_on(f"{unit} {checkpoint['learned']} of {config.contexts_learned}")
        names, shown = loaded.hyperparameters, loaded.described()
        part = part_of or PartOf("", f"{config.benchmark.name}-{config.shown_name}-s{config.seed}")
        observer.setting(
            Started(config, record.setting(), names, shown, model, str(self.device), folder, part.study, part.name)
        )
        if folder is not None:
            decisive.write(folder, self.setting)
            sources.copy(targets(config), folder)
            if isinstance(self.file, MethodFile):
                self.file.copy_to(folder)  # as it was read: the file is there to be edited
        try:
            with observer:
                if before:
                    observer.restored(before, trainer.steps_learned)
                    for points in moments(trainer.curve):
                        observer.evaluated(points)
                for cells in trainer.jointly() if config.stream == "joint" else trainer.sequentially():
                    record.cells += cells
                    if cells:
                        keeper.keep(cells[0].after_context)
                    if trainer.learned:
                        self.checkpoints.save(trainer, code, record)
                    if cells:
                        record.write(results.RUNNING)  # at once: this process may be killed
                        observer.context_done(cells)
                keeper.finish()
            summary = record.write(results.FINISHED)
        except BaseException as error:  # whatever ends the run: what it has measured is kept
            if not record.ended:
                observer.stopped(record.write(*_ending(error)))
            raise
        if not config.keep_checkpoints:
            self.checkpoints.remove()
        observer.finished(record.matrix("test"), summary)
        return Outcome(summary, record.cells, trainer.curve, model, {one.key: one.where for one in own if one.where})


def _own_class(method: RegularizerConfig) -> list[Target]:
    """A method's class, which may be of one's own."""
    return [] if method._target_ is None else [Target.of("regularizer", {TARGET: method._target_})]


def check_fit(config: Config, stream: contexts.Stream, device: torch.device) -> None:
    """Check what of a setting can only be checked with the contexts at hand.

    Raises:
        InputError: the network or the batch doesn't fit the images or the machine, or the optimizer can't train it.
    """
    _check_curve(config, stream)
    shape, outputs, optimizer = stream.input_shape, stream.n_outputs, config.optimizer_setting
    networks.check(config.network, shape, outputs, config.benchmark.batch_size, device)
    if not update.is_fused(optimizer):
        parameters = networks.build(config.network, shape, outputs, seed=0).to(device).parameters()
        iterations = protocol_of(config).iterations(stream)
        longest = sum(iterations) if config.stream == "joint" else max(iterations)
        update.check(list(parameters), optimizer, longest)


def _check_curve(config: Config, stream: contexts.Stream) -> None:
    """Check that every context is measured within, which is only known now where epochs say how long it is."""
    iterations = protocol_of(config).iterations(stream)
    shortest = min(range(len(iterations)), key=iterations.__getitem__)
    check_evaluation(config, iterations[shortest], f"the {iterations[shortest]} iterations of context {shortest + 1}")


@dataclass(frozen=True)
class Method:
    """What a run records about its method; see `clsweep.results.Summary`."""

    file: str
    digest: str
    hyperparameters: tuple[str, ...]
    values: dict[str, Any]
    options: str
    reg_strength_scale: float
    update: str

    def number(self, name: str) -> float:
        """A hyperparameter that has a column for every method; NaN where this one has none."""
        return float(self.values.get(name, math.nan))


def _described(file: MethodFile | Functions | None, loaded: Loaded, learner: Learner) -> Method:
    return Method(
        file="" if file is None else file.shown,
        digest=loaded.code_digest if file is None else file.digest("sha256")[:DIGEST],
        hyperparameters=loaded.hyperparameters,
        values=loaded.resolved.values,
        options=loaded.options,
        reg_strength_scale=loaded.method.reg_strength_scale,
        update=learner.update_name,
    )


def _prepared(config: Config, device: torch.device) -> contexts.Stream:
    return contexts.build(datasets.load(config.dataset), config, device)


def _ending(error: BaseException) -> tuple[str, str]:
    """The status of a run that `error` ended, and the reason."""
    if isinstance(error, PrunedError):
        return results.PRUNED, str(error)
    if isinstance(error, KeyboardInterrupt):
        return results.INTERRUPTED, ""
    if isinstance(error, OSError | MachineError):
        return results.INTERRUPTED, str(machine_error(error) if isinstance(error, OSError) else error)
    if isinstance(error, SystemExit):
        return results.INTERRUPTED, "the process was ended"
    return results.FAILED, str(error) if isinstance(error, RunError) else named(error)


class Record:
    """What a run has measured so far, and its row of `summary.csv`.

    Args:
        config: the setting.
        stream: the contexts.
        device: the device in use.
        method: what is recorded about the method.
        started_at: when the run started, UTC.
        trainer: whose timings and curve are filled while it trains.
        folder: where its files go; None: it has none.

    Attributes:
        run_id: unique to the run.
        started_at: ISO 8601.
        cells: the measured accuracies.
        ended: whether the files say how the run ended.
    """

    def __init__(
        self,
        config: Config,
        stream: contexts.Stream,
        device: torch.device,
        method: Method,
        started_at: datetime,
        trainer: Trainer,
        folder: Path | None,
    ) -> None:
        self.cells: list[Cell] = []
        self.ended = False
        self._config = config
        self._stream = stream
        self._device = device
        self._method = method
        self.started_at = started_at.isoformat(timespec="seconds")
        self._trainer = trainer
        self._folder = folder
        # Now: the checkout and the files may change, or be gone, by the end of the run.
        self._git_commit = _git_commit()
        self._protocol = Protocol.of(config)
        self.run_id = f"{started_at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"

    def matrix(self, split: str) -> metrics.Matrix:
        """The accuracies of one split; see `clsweep.results.metrics`."""
        return results.accuracy_matrix(self.cells, split, len(self._stream.contexts))

    def setting(self) -> dict[str, Any]:
        """What of the row is known before anything is measured."""
        row = self._summary(results.RUNNING, "").row
        return {name: value for name, value in row.items() if name not in _MEASURED}

    def write(self, status: str, reason: str = "") -> Summary:
        """Write both files, where there is a folder for them.

        Args:
            status: how the run ended, or that it goes on.
            reason: why it failed.

        Returns:
            The row of `summary.csv`.
        """
        with process.interrupts_held():
            summary = self._summary(status, reason)
            if self._folder is not None:
                results.write(self._folder, summary, self.cells, self._trainer.curve)
            self.ended = status != results.RUNNING
        return summary

    def _min_accuracy(self) -> float:
        if self._config.evaluate_every is None:
            return math.nan
        return curves.min_accuracy(curves.curve_table(self.run_id, self._trainer.curve), len(self._stream.contexts))

    def _summary(self, status: str, reason: str) -> Summary:
        config, timings = self._config, self._trainer.timings
        finished = status == results.FINISHED
        test, validation = self.matrix("test"), self.matrix("validation")
        nan = math.nan
        lowest = self._min_accuracy() if finished else nan
        return Summary(
            format_version=results.FORMAT_VERSION,
            run_id=self.run_id,
            status=status,
            protocol=self._protocol.digest,
            **{**self._protocol.parts, "iters": max(protocol_of(config).iterations(self._stream))},
            stream=config.stream,
            n_train=self._stream.n_train,
            n_test=self._stream.n_test,
            regularizer=config.method,
            regularizer_file=self._method.file or "",
            regularizer_digest=self._method.digest,
            hyperparameters=" ".join(self._method.hyperparameters),
            method_options=self._method.options,
            reg_strength=self._method.number("reg_strength"),
            reg_strength_scale=self._method.reg_strength_scale,
            gamma=self._method.number("gamma"),
            epsilon=self._method.number("epsilon"),
            seed=config.seed,
            budget=config.effective_budget,
            device=str(self._device),
            threads=torch.get_num_threads(),
            update=self._method.update,
            evaluate_every=config.evaluate_every,
            average_accuracy=metrics.average_accuracy(test) if finished else nan,
            learning_accuracy=metrics.learning_accuracy(test) if finished else nan,
            forgetting=metrics.forgetting(test) if finished else nan,
            backward_transfer=metrics.backward_transfer(test) if finished else nan,
            validation_average_accuracy=metrics.average_accuracy(validation) if finished else nan,
            min_accuracy=lowest,
            worst_case_accuracy=curves.worst_case_accuracy(test, lowest) if finished and config.evaluate_every else nan,
            train_seconds=timings.train,
            importance_seconds=timings.importance,
            eval_seconds=timings.evaluation,
            shared_seconds=timings.shared,
            iters_per_second=timings.steps / timings.train if timings.train else nan,
            peak_memory_mib=_peak_memory_mib(self._device),
            clsweep_version=clsweep.__version__,
            git_commit=self._git_commit,
            torch_version=torch.__version__,
            started_at=self.started_at,
            reason=reason,
            values={name: self._method.values[name] for name in self._method.hyperparameters if name not in STANDARD},
        )


def pick_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: this machine doesn't have it.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and device.index >= count:
        there = f"cuda:0 to cuda:{count - 1}, cpu or auto" if count else "cpu or auto, as no CUDA device was found"
        raise InputError(f"device={name}: not on this machine; expected {there}.")
    return device


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _git_commit() -> str:
    checkout = Path(clsweep.__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return ""
    describe = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
