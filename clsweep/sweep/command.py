"""`python -m clsweep --multirun ...`: from the command line's overrides to finished studies."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib
import psutil
import torch
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from rich.console import Console

from clsweep import config as settings
from clsweep import contract
from clsweep.config import HYPERPARAMETERS, Config
from clsweep.display import clock
from clsweep.errors import InputError, RunError
from clsweep.run import pick_device
from clsweep.sweep import estimate, files, monitor, storage
from clsweep.sweep.monitor import Monitor
from clsweep.sweep.plan import StudyPlan, searched, study_name
from clsweep.sweep.pruners import pruner
from clsweep.sweep.samplers import sampler
from clsweep.sweep.status import named, status
from clsweep.sweep.worker import LastLoaded, StudyWorker, work

_TASKS = ".tasks"
_HYPERPARAMETER_KEYS = {f"regularizer.{name}": name for name in HYPERPARAMETERS}


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
    folder = Path(composed.hydra.sweep.dir)
    configs = list(commands.configs())
    plans = _plans(configs, folder, single_in_folder=str(folder) != default_folder)
    out = monitor.console()
    url = storage.url(configs[0].search.storage, folder)
    if configs[0].search.dry_run:
        _print_plan(plans, url, out)
        return
    connection = storage.connect(url)
    load = LastLoaded()
    studies = [StudyWorker(plan, connection, load) for plan in plans]
    for study in studies:
        files.refuse_foreign(study.plan, study.ledger.trials(), storage.shown(url))
    out.print(f"storage  {storage.shown(url)}", markup=False, soft_wrap=True)
    try:
        with Monitor(studies, out):
            _launch(composed, launcher, commands.combinations[0], Task.of(plans, url, composed), folder)
    finally:
        for study in studies:
            study.ledger.reclaim()
            study.write()
        monitor.summary([monitor.outcome(study) for study in studies], out)
    problems = [problem for study in studies for problem in [study.stopped()] if problem is not None]
    if problems:
        raise RunError(" ".join(problems))


class Commands:
    """The overrides of a sweep, taken apart.

    Values that are swept of the hyperparameters are searched; every other swept value, such as several benchmarks or
    methods, makes one study for each of its combinations.

    Args:
        composed: the configuration of the command without the overrides, Hydra's own part in it.
        loader: composes a study's configuration.
        arguments: the overrides.

    Raises:
        InputError: an interval is given for what is not a hyperparameter.
    """

    def __init__(self, composed: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
        self._composed = composed
        self._loader = loader
        self.ranges: dict[str, str] = {}
        self._fixed: set[str] = set()
        alternatives: dict[str, list[str]] = {}
        for override in OverridesParser.create(config_loader=loader).parse_overrides(list(arguments)):
            name = _HYPERPARAMETER_KEYS.get(override.key_or_group)
            if name is not None and override.is_sweep_override():
                self.ranges[name] = str(override.input_line).partition("=")[2]
                continue
            if name is not None:
                self._fixed.add(name)
            alternatives[override.get_key_element()] = _alternatives(override)
        self.combinations = [list(combination) for combination in itertools.product(*alternatives.values())]

    def configs(self) -> Iterator[Config]:
        """The setting of each study, with what is searched in `regularizer.space`.

        Raises:
            InputError: one is wrong, or a range is given for a hyperparameter that no method uses.
        """
        used: set[str] = set()
        for combination in self.combinations:
            config = self._config(combination)
            used |= set(config.regularizer.space)
            yield config
        unused = set(self.ranges) - used
        if unused:
            name = min(unused)
            raise InputError(
                f"regularizer.{name}={self.ranges[name]}: none of the chosen methods uses {name}; expected a range for "
                f"{', '.join(sorted(used)) or 'none of them'}."
            )

    def _config(self, combination: list[str]) -> Config:
        composed = self._loader.load_sweep_config(self._composed, combination)
        config = settings.parse(composed)
        pick_device(config.device)
        regularizer = config.regularizer
        used = () if config.stream == "joint" else contract.load(regularizer).hyperparameters
        ranges = searched(config, used, self.ranges, self._fixed)
        return replace(config, regularizer=replace(regularizer, space=ranges))


def _alternatives(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise InputError(
            f"{override.input_line}: only {', '.join(_HYPERPARAMETER_KEYS)} are searched in an interval; expected "
            f"values such as {key}=a,b."
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _plans(configs: Sequence[Config], folder: Path, single_in_folder: bool) -> list[StudyPlan]:
    """The studies; one alone has the sweep folder that was asked for to itself."""
    if len(configs) == 1 and single_in_folder:
        plans = [StudyPlan(configs[0], folder)]
    else:
        plans = [StudyPlan(config, folder / study_name(config)) for config in configs]
    for plan in plans:  # what is wrong is said before anything is made
        assert plan.n_trials
        sampler(plan.config.search.sampler, plan.config.search.sampler_options, 0)
        pruner(plan.config.search.pruner, plan.config.search.pruner_options)
    return list({plan.name: plan for plan in plans}.values())


@dataclass(frozen=True)
class Task:
    """What a worker is told, through a file in the sweep folder.

    Attributes:
        studies: each study's setting and folder.
        storage: the storage's URL.
        workers: how many there are.
        threads: how many threads a worker may use; None: as many as it sees cores.
        parent: the process that a worker must not outlive, on the same machine; None: none.
    """

    studies: list[dict[str, Any]]
    storage: str
    workers: int
    threads: int | None
    parent: int | None

    @classmethod
    def of(cls, plans: Sequence[StudyPlan], url: str, composed: DictConfig) -> Task:
        """The task of this command's workers."""
        launcher = composed.hydra.launcher
        here = any(word in launcher._target_ for word in ("joblib", "LocalLauncher"))
        workers = plans[0].config.search.workers or _jobs_at_once(launcher)
        threads = max(1, joblib.cpu_count() // workers) if here and workers > 1 else None
        studies = [{"config": asdict(plan.config), "folder": str(plan.folder)} for plan in plans]
        return cls(studies, url, workers, threads, os.getpid() if here else None)

    @property
    def plans(self) -> list[StudyPlan]:
        """The studies."""
        return [StudyPlan(settings.from_values(one["config"]), Path(one["folder"])) for one in self.studies]


def _jobs_at_once(launcher: DictConfig) -> int:
    """How many jobs the launcher runs at the same time."""
    n_jobs = launcher.get("n_jobs", 1)
    return int(n_jobs) if n_jobs > 0 else joblib.cpu_count(only_physical_cores=True)


def _launch(composed: DictConfig, launcher: Launcher, overrides: list[str], task: Task, folder: Path) -> None:
    """Start the workers and wait for them.

    Each is one job of Hydra's that runs trials until none is left: a worker that is done with a short trial takes the
    next one, and waits for no other.
    """
    file = folder / _TASKS / f"{uuid.uuid4().hex}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(task)))
    logs = f"{_TASKS}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    job = [*overrides, f"search.plan='{file}'"]
    try:
        jobs = [[*job, f"hydra.sweep.subdir='{logs}-{number}'"] for number in range(task.workers)]
        for returned in launcher.launch(jobs, initial_job_idx=0):
            if returned.status == JobStatus.FAILED:
                raise returned._return_value  # its return_value would print more than our sentence
    finally:
        file.unlink()


def work_on(file: Path) -> None:
    """A worker's job.

    Args:
        file: its task.

    Raises:
        InputError: the data or a method don't fit.
        KeyboardInterrupt: the worker was interrupted.
    """
    task = Task(**json.loads(file.read_text()))
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    parent = task.parent
    work(task.plans, storage.connect(task.storage), lambda: parent is not None and not psutil.pid_exists(parent))


def _print_plan(plans: Sequence[StudyPlan], url: str, out: Console) -> None:
    """What a sweep would do."""
    known = storage.finished_trials(url, [plan.name for plan in plans])
    load = LastLoaded()
    for plan in plans:
        now = status(known.get(plan.name, []))
        measured = now.seconds_per_trial
        a_run = (
            measured / len(plan.seeds) if measured else estimate.run_seconds(plan.trial_config(plan.default, 0), load)
        )
        to_do = max(0, plan.n_trials - now.finished)
        final = len(plan.final_seeds) * (2 if plan.space else 1)  # the best values, and the default ones
        lines = {
            "study": f"{plan.name}: {now.finished} of {plan.n_trials} trials are finished",
            "searched": ", ".join(f"{name} {text}" for name, text in plan.config.regularizer.space.items())
            or "nothing",
            "first": named(plan.default) or "the only setting",
            "a run": f"about {clock(a_run)} ({'measured' if measured else 'estimated'})",
            "search": f"{to_do} trials of {len(plan.seeds)} seed(s), about {clock(to_do * len(plan.seeds) * a_run)}",
            "final": f"{final} runs on all training data, about {clock(final * a_run)}",
        }
        for name, value in lines.items():
            out.print(f"{name:<10} {value}", markup=False, soft_wrap=True)
        out.print()
    out.print(f"storage    {storage.shown(url)}", markup=False, soft_wrap=True)
    out.print(
        "Dry run: nothing was trained. An estimate goes by this machine's speed at matrix products, on one worker "
        "and without pruning.",
        soft_wrap=True,
    )
