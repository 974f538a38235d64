"""`python -m clsweep --multirun ...`: from the command line to finished studies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch
from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.trial import FrozenTrial
from rich.console import Console

from clsweep.errors import RunError
from clsweep.paths import absolute
from clsweep.sweeps import dry_run, files, monitor, overrides, space, storage, workers
from clsweep.sweeps.monitor import Monitor
from clsweep.sweeps.overrides import Commands
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.status import named
from clsweep.sweeps.streams import Streams
from clsweep.sweeps.worker import StudyWorker
from clsweep.training.machine import emulated_bf16
from clsweep.training.run import check_fit, pick_device
from clsweep.training.update import library


def sweep(
    composed: DictConfig, loader: ConfigLoader, launcher: Launcher, arguments: Sequence[str], default_folder: str
) -> None:
    """Plan the studies, let the launcher start workers, and report.

    Args:
        composed: the configuration of the command without its overrides, Hydra's own part in it.
        loader: composes a study's.
        launcher: starts the workers.
        arguments: the overrides.
        default_folder: the sweep folder where the command line names none.

    Raises:
        InputError: the command is wrong; nothing was trained.
        RunError: a study was stopped since too many trials failed; the others went on.
        KeyboardInterrupt: the sweep was interrupted; what is finished is kept and written.
    """
    commands = Commands(composed, loader, arguments)
    folder = absolute(composed.hydra.sweep.dir)
    configs = list(commands.configs())
    plans = overrides.plans(configs, folder, single_in_folder=folder != absolute(default_folder))
    out = monitor.console()
    url = storage.url(configs[0].search.storage, folder)
    if configs[0].search.dry_run:
        dry_run.show(plans, url, out)
        return
    for plan in plans:  # before anything is made in the storage
        files.refuse_foreign(plan, partial(_trials, url, plan), storage.shown(url))
    here = workers.are_here(composed.hydra.launcher)
    header = [*_of_images(plans), *_slow(plans)] if here else []
    connection = storage.connect(url)
    try:
        with storage.told_in_a_sentence(url):
            studies = [StudyWorker(plan, connection, Streams()) for plan in plans]
            for study in studies:
                study.ledger.queue_points()  # once here rather than by each worker
            _announce(studies, storage.shown(url), out)
            task = workers.Task.of(plans, url, composed)
            for line in [*header, *_idle(task, plans)]:
                out.print(line, markup=False, soft_wrap=True)
            try:
                with Monitor(studies, out), storage.not_waited_for_when_interrupted(connection):
                    workers.launch(launcher, commands.combinations[0], task, folder)
            except KeyboardInterrupt:
                out.print("the same command goes on from here")
                _report_if_possible(studies, out)
                raise
            except Exception:
                _report_if_possible(studies, out)
                raise
            _report(studies, out)
            _check_stopped(studies)
    finally:
        storage.close(connection)


def _trials(url: str, plan: StudyPlan) -> Sequence[FrozenTrial]:
    """What the storage has of a study, as yet."""
    return storage.finished_trials(url, [plan.name]).get(plan.name, [])


def _announce(studies: Sequence[StudyWorker], url: str, out: Console) -> None:
    """Say what is there already, and what won't be tried."""
    out.print(f"storage  {url}", markup=False, soft_wrap=True)
    for study in studies:
        plan, finished = study.plan, len(study.ledger.decided())
        notes = [f"{finished} trial{'s are' if finished > 1 else ' is'} there already"] if finished else []
        if not space.contains(plan.space, plan.default):
            notes.append(
                f"the default values ({named(plan.default)}) lie outside of what is searched, and are not tried"
            )
        if notes:
            out.print(f"{plan.name}  {'; '.join(notes)}", markup=False, soft_wrap=True)


def _of_images(plans: Sequence[StudyPlan]) -> list[str]:
    """Lines on each benchmark's images, and on what the user should know of them.

    Raises:
        InputError: they can't be read, or the setting doesn't fit them; found here, nothing was made for it.
    """
    streams, device = Streams(), torch.device("cpu")
    lines: dict[str, None] = {}  # each once, in this order
    for plan in plans:
        config = plan.trial_config(plan.default, plan.seeds[0])
        stream = streams(config, device)
        if pick_device(config.device).type == "cpu":  # else the worker checks it, where the run will be
            check_fit(config, stream, device)
        lines[f"images   {config.benchmark.name}: {stream.images}"] = None
        lines |= dict.fromkeys(_note(note) for note in stream.notes)
    return list(lines)


def _note(text: str) -> str:
    return f"note     {text}"


def _slow(plans: Sequence[StudyPlan]) -> list[str]:
    """Lines on what makes the runs slow on this machine."""
    on_cpu = [plan.config for plan in plans if pick_device(plan.config.device).type == "cpu"]
    notes = [library().note] if on_cpu else []
    if any(config.precision == "bf16" for config in on_cpu):
        notes.append(emulated_bf16())
    return [_note(note) for note in notes if note is not None]


def _idle(task: workers.Task, plans: Sequence[StudyPlan]) -> list[str]:
    """A line on workers that are not started."""
    wanted = plans[0].config.search.workers or 0
    if wanted <= task.workers:
        return []
    return [_note(f"search.workers={wanted}: {task.workers} are started, since there is no work for more at once")]


def _report(studies: Sequence[StudyWorker], out: Console) -> None:
    """Write and print what there is, however the sweep ended."""
    for study in studies:
        study.ledger.reclaim()
        study.write()
    monitor.summary([monitor.outcome(study) for study in studies], out)


def _report_if_possible(studies: Sequence[StudyWorker], out: Console) -> None:
    """The same, where the storage is there and the disk has room: what ended the sweep is said in any case."""
    with suppress(OSError, *storage.ERRORS):
        _report(studies, out)


def _check_stopped(studies: Sequence[StudyWorker]) -> None:
    """Say which studies came to nothing.

    Raises:
        RunError: at least one did.
    """
    problems = [problem for study in studies for problem in [study.problem()] if problem is not None]
    if problems:
        raise RunError(" ".join(problems))
