"""`python -m clsweep --multirun ...`: from the command line to finished studies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import torch
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from rich.console import Console

from clsweep import composing, passwords, process, results, running
from clsweep import config as settings
from clsweep.arguments import for_hydra
from clsweep.data.context_cache import ContextCache
from clsweep.errors import InputError, RunError
from clsweep.paths import absolute
from clsweep.sweeps import dry_run, files, launchers, monitor, overrides, role, storage
from clsweep.sweeps.crew import crew_of, work_as
from clsweep.sweeps.monitor import Monitor, Outcome
from clsweep.sweeps.overrides import Sweep
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.status import status, untried
from clsweep.sweeps.taken import removed, without_curve, without_networks
from clsweep.sweeps.worker import StudyWorker, rehearse_all
from clsweep.training import first_context
from clsweep.training.loop import measured_how
from clsweep.training.machine import bf16_warning, give_back_memory
from clsweep.training.run import check_fit, pick_device
from clsweep.training.update import library

_SECONDS_OF_A_WRITE = 300.0  # a file that others write is touched more often


def multirun(composed: DictConfig, loader: ConfigLoader, launcher: Launcher, arguments: Sequence[str]) -> None:
    """What the command does: a sweep, or a worker's part in one.

    Args:
        composed: the configuration of the command without its overrides, Hydra's own part in it.
        loader: composes a study's.
        launcher: Hydra's.
        arguments: the overrides, but for those of Hydra's own keys.

    Raises:
        InputError: the command is wrong; nothing was trained.
        RunError: a study was stopped because too many trials failed; the others continued.
        KeyboardInterrupt: it was interrupted; what is finished is kept and written.
    """
    own = role.without(arguments)
    part = settings.worker(composed)
    overrides.refuse_folders(composed)
    asked = overrides.read(composed, loader, own)
    if part is not None:
        work_as(part, asked)
    else:
        sweep(asked, monitor.console(), launcher, composed.hydra.launcher)


def work_as_job(composed: DictConfig) -> None:
    """A worker's work, as a job that one of Hydra's launchers has started.

    Args:
        composed: the job's configuration, without Hydra's own part.

    Raises:
        ClsweepError, KeyboardInterrupt: see `multirun`.
    """
    part = settings.worker(composed)
    assert part is not None
    own = OmegaConf.create({"hydra": HydraConfig.get()})
    with process.interrupts_of_a_job():
        work_as(part, overrides.read(own, GlobalHydra.instance().config_loader(), part.arguments))


def tune(arguments: Sequence[str], folder: Path, out: Console | None = None) -> list[Outcome]:
    """Run a sweep from Python.

    Args:
        arguments: as they are typed after `--multirun`: `["+benchmark=split_mnist", "regularizer=si,ewc"]`.
        folder: the sweep folder; a single study has it to itself.
        out: takes what is printed; None: the standard output.

    Returns:
        How each study ended, in the order of the command line.

    Raises:
        InputError: an argument is wrong; nothing was trained.
        RunError: a study was stopped because too many trials failed; the others continued.
        KeyboardInterrupt: it was interrupted; what is finished is kept and written.
    """
    return sweep(read(arguments, folder), monitor.console() if out is None else out)


def read(arguments: Sequence[str], folder: Path) -> Sweep:
    """What arguments ask for; see `tune`."""
    typed = for_hydra(["--multirun", *passwords.hidden(arguments)])
    typed.remove("--multirun")
    of_hydra = [one for one in typed if one.lstrip("+~").startswith(("hydra.", "hydra/"))]
    place = f"hydra.sweep.dir={role.typed(str(absolute(folder)))}"
    with composing.loader() as loader:
        composed = loader.load_configuration("config", [*of_hydra, place], RunMode.RUN, from_shell=False)
        return overrides.read(composed, loader, [one for one in typed if one not in of_hydra])


def sweep(
    asked: Sweep, out: Console, launcher: Launcher | None = None, launchers_setting: DictConfig | None = None
) -> list[Outcome]:
    """Work on a sweep's studies until nothing is left, and report.

    Args:
        asked: what there is to do.
        out: takes what is printed.
        launcher: one of Hydra's, for workers that it starts; None: this process and more like it work.
        launchers_setting: Hydra's configuration of the launcher.

    Returns:
        How each study ended; none for a dry run.

    Raises:
        InputError, RunError, KeyboardInterrupt: see `multirun`.
    """
    plans, url = asked.plans, asked.url
    overrides.check(plans)
    if launchers_setting is not None and launchers.is_slurm(launchers_setting):
        _check_several_machines(asked)
    for note in asked.notes:
        out.print(_note(note), markup=False, soft_wrap=True)
    if asked.search.dry_run:
        dry_run.show(plans, url, out)
        return []
    with ExitStack() as places:
        for plan in plans:  # before anything is made in the storage
            places.enter_context(running.together(plan.folder, plan.name, storage.place(url)))
            files.refuse_foreign(plan, partial(_trials, url, plan), storage.shown(url))
        return _work(asked, out, launcher, launchers_setting)


def _work(asked: Sweep, out: Console, launcher: Launcher | None, launchers_setting: DictConfig | None) -> list[Outcome]:
    """The same, in folders that are this sweep's."""
    plans, url = asked.plans, asked.url
    here = launchers_setting is None or launchers.is_here(launchers_setting)
    streams = ContextCache()  # one for all studies: each keeps a data set
    header = [*_of_images(plans, streams), *_slow(plans)] if here else []
    connection = storage.connect(url)
    try:
        with storage.translating_errors(url):
            studies = [StudyWorker(plan, connection, ContextCache()) for plan in plans]
            for study in studies:
                study.ledger.queue_points()  # once here rather than by each worker
            _announce(studies, storage.shown(url), out)
            header += _rehearsed(plans, connection, streams) if here else []
            crew = crew_of(launcher, launchers_setting, asked)
            del streams
            give_back_memory()  # this process works with contexts of its own, or not at all
            for line in [*header, *crew.notes]:
                out.print(line, markup=False, soft_wrap=True)
            try:
                with Monitor(studies, out), storage.not_waited_for_when_interrupted(connection):
                    crew.work(asked, partial(out.print, markup=False, soft_wrap=True))
            except KeyboardInterrupt:
                out.print("the same command goes on from here")
                _report_if_possible(studies, out)
                raise
            except Exception:
                _report_if_possible(studies, out)
                raise
            outcomes = _report(studies, out)
            results.remove_partial(asked.folder, idle=_SECONDS_OF_A_WRITE)
            for plan in plans:
                if plan.shared is not None:
                    first_context.remove(plan.shared)
            _check_stopped(studies)
            return outcomes
    finally:
        storage.close(connection)


def _check_several_machines(asked: Sweep) -> None:
    """Check what can't be guessed where workers are jobs on other machines.

    Raises:
        InputError: the storage isn't safe there, or it isn't said how many.
    """
    if storage.is_sqlite(asked.url):
        raise InputError(
            f"search.storage={storage.shown(asked.url)}: hydra/launcher=submitit_slurm starts workers on several "
            "machines, which SQLite isn't safe for; expected search.storage=journal:FILE in a folder that all of them "
            "reach, or a database's URL."
        )
    if asked.search.workers is None:
        raise InputError(
            "search.workers: how many jobs hydra/launcher=submitit_slurm submits can't be told from this machine's "
            "cores; expected search.workers=N."
        )


def _trials(url: str, plan: StudyPlan) -> Sequence[FrozenTrial]:
    """The trials of a study that the storage has so far, those of its final runs with them."""
    found = storage.trials_of(url, [plan.name, plan.name_of_finals])
    return [trial for trials in found.values() for trial in trials]


def _announce(studies: Sequence[StudyWorker], url: str, out: Console) -> None:
    """Say what is there already, and what won't be tried."""
    out.print(f"storage  {url}", markup=False, soft_wrap=True)
    for study in studies:
        plan, now = study.plan, status(study.ledger.trials())
        out.print(f"searched {plan.name}: {plan.searched or 'nothing'}", markup=False, soft_wrap=True)
        finished = now.finished + len(now.failed)
        notes = [f"{finished} trial{'s are' if finished > 1 else ' is'} there already"] if finished else []
        if plan.way.searches and not plan.default_is_searched:
            notes.append(untried(plan.default))
        if without := without_curve(plan):
            notes.append(f"measured without evaluate_every={plan.config.evaluate_every}, and left so: {without} runs")
        if without := without_networks(plan):
            kept = str(plan.config.save_model).lower()
            notes.append(f"finished without save_model={kept}, and left so: {without} runs")
        finals = study.finals()
        if gone := removed(plan, [*study.ledger.trials(), *([] if finals is None else finals.ledger.trials())]):
            notes.append(
                f"removed from its folder: {', '.join(gone[:3])}{', ...' if len(gone) > 3 else ''}; the storage keeps "
                "the accuracy, and a report lacks the run"
            )
        if notes:
            out.print(f"{plan.name}  {'; '.join(notes)}", markup=False, soft_wrap=True)


def _rehearsed(plans: Sequence[StudyPlan], connection: BaseStorage, streams: ContextCache) -> list[str]:
    """What `rehearse_all` says; the studies that are shown and reported keep no contexts.

    Raises:
        InputError: the data or a method don't fit.
    """
    return rehearse_all([StudyWorker(plan, connection, streams) for plan in plans])


def _of_images(plans: Sequence[StudyPlan], streams: ContextCache) -> list[str]:
    """Lines on each benchmark's images, and on what the user should know of them.

    Raises:
        InputError: they can't be read, or the setting doesn't fit them; found here, nothing was made for it.
    """
    device = torch.device("cpu")
    lines: dict[str, None] = {}  # each once, in this order
    for plan in plans:
        config = plan.trial_config(plan.default, plan.seeds[0])
        plan.way.check_data(plan.final_config(plan.default, plan.seeds[0]), streams, device)
        stream = streams(config, device)
        if pick_device(config.device).type == "cpu":  # else the worker checks it, where the run will be
            check_fit(config, stream, device)
        lines[f"images   {config.benchmark.name}: {stream.images}"] = None
        if curve := measured_how(config, stream):
            lines[f"measured {config.benchmark.name}: {curve}"] = None
        lines |= dict.fromkeys(_note(note) for note in stream.notes)
    return list(lines)


def _note(text: str) -> str:
    return f"note     {text}"


def _slow(plans: Sequence[StudyPlan]) -> list[str]:
    """Lines on what makes the runs slow on this machine."""
    on_cpu = [plan.config for plan in plans if pick_device(plan.config.device).type == "cpu"]
    notes = [library().note] if on_cpu else []
    if any(config.precision == "bf16" for config in on_cpu):
        notes.append(bf16_warning())
    return [_note(note) for note in notes if note is not None]


def _report(studies: Sequence[StudyWorker], out: Console) -> list[Outcome]:
    """Write and print what there is, however the sweep ended."""
    for study in studies:
        study.ledger.reclaim()
        study.write()
        study.tidy()
    outcomes = [monitor.outcome(study) for study in studies]
    monitor.summary(outcomes, out)
    return outcomes


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
