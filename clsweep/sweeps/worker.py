"""A worker: it claims trials of a sweep's studies and runs them until all budgets are spent."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import Trial

from clsweep import space as spaces
from clsweep.config import Config
from clsweep.data.context_cache import ContextCache
from clsweep.data.contexts import Stream
from clsweep.errors import ClsweepError, InputError, MachineError, RunError, machine_error, named
from clsweep.methods.loading import load
from clsweep.process import interrupts_told_from_errors
from clsweep.results import TRIALS_FILE
from clsweep.space import Point
from clsweep.sweeps import files, owner, verdict
from clsweep.sweeps.continued import OnePerPoint
from clsweep.sweeps.finals import Finals
from clsweep.sweeps.ledger import Ledger, open_study
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.promotion import Promotion
from clsweep.sweeps.pruners import pruner
from clsweep.sweeps.samplers import sampler
from clsweep.sweeps.status import status
from clsweep.sweeps.storage import ERRORS as STORAGE_ERRORS
from clsweep.sweeps.storage import not_waited_for_when_interrupted
from clsweep.sweeps.taken import remove_checkpoints
from clsweep.sweeps.trial import Runner
from clsweep.training.machine import give_back_memory, prepare_cpu
from clsweep.training.rehearsal import rehearse
from clsweep.training.run import PrunedError, check_fit, pick_device

_SECONDS_BETWEEN_LOOKS = 1.0


class StudyWorker:
    """This process's part in one study.

    Args:
        plan: the study's.
        storage: where it is.
        streams: makes the contexts.

    Attributes:
        plan: the study's.
        ledger: its trials.
    """

    def __init__(self, plan: StudyPlan, storage: BaseStorage, streams: ContextCache) -> None:
        self.plan = plan
        search = plan.config.search
        study = open_study(storage, plan.name)
        study.sampler = OnePerPoint(sampler(search.sampler, search.sampler_options, plan.config.seed))
        study.pruner = pruner(search.pruner, search.pruner_options, plan.steps)
        points = spaces.grid(plan.space)
        self.ledger = Ledger(study, storage, plan.space, plan.n_trials, plan.first_points, points, search.timeout)
        self._storage = storage
        self._streams = streams
        self._runner = Runner(plan, study, streams)
        self._decided_before = self.ledger.decided()
        self._data_is_there = False
        self._final_study: Study | None = None

    def stopped(self) -> str | None:
        """Why the study is given up: too many failures in a row."""
        reasons = self.ledger.failures_in_a_row(self._decided_before)
        if len(reasons) < self.plan.config.search.max_failures:
            return None
        last = reasons[-1].rstrip(".")
        return f"{len(reasons)} trials in a row failed, the last because {last}."

    def problem(self) -> str | None:
        """What a study at its end lacks, and why; None where it has all that was asked for."""
        problem = self.stopped() or (verdict.no_best(self.ledger) if self.plan.way.searches else None)
        finals = self.finals()
        if problem is None and finals is not None:
            problem = verdict.missing_finals(finals.ledger)
        return f"{self.plan.name}: {problem}" if problem is not None else None

    def is_done(self) -> bool:
        """Whether nothing is left to do, here or in another process."""
        if self.stopped() is not None:
            return True
        if not self.ledger.is_complete():
            return False
        finals = self.finals()
        return finals is None or finals.ledger.is_complete()

    def finals(self) -> Finals | None:
        """The final runs; None while the search goes on, and where there are none to be."""
        best = status(self.ledger.trials()).best
        lacks_best = best is None and self.plan.way.searches
        if lacks_best or not self.plan.final_seeds or not self.ledger.is_complete():
            return None
        if self._final_study is None:
            self._final_study = open_study(self._storage, self.plan.name_of_finals)
        values = None if best is None else best.params
        return Finals(self.plan, self._final_study, self._storage, values, self._streams)

    def rehearse(self) -> list[str]:
        """Try the functions of a method's file, or a method that tells what it does to layers, with the default values.

        Returns:
            What the user should know of the method, in sentences.

        Raises:
            InputError: the data or the method don't fit.
        """
        config, file = self.plan.config, self.plan.method_file
        if config.stream == "joint":
            return []
        notes: list[str] = []
        if file is None:
            loaded = load(config.regularizer)
            notes = loaded.steps_note(config.optimizer_setting)
            if not loaded.method.tells_layers:
                return notes
        prepare_cpu(config.threads)
        return notes + rehearse(*self._first(), file)

    def work_once(self) -> bool:
        """Run one trial or one final run.

        Returns:
            Whether there was one to be had.

        Raises:
            InputError: the data or the method don't fit; the trial's point waits for another try.
            KeyboardInterrupt: as above.
        """
        if not self._data_is_there:  # what is wrong with it is no trial's fault
            self._first()
            self._data_is_there = True
        if not self.ledger.is_complete():
            return self._work(self.ledger, self._objective)
        finals = self.finals()
        return finals is not None and self._work(finals.ledger, finals.objective)

    def _first(self) -> tuple[Config, Stream, torch.device]:
        """The setting of the first run with the default values, its contexts and its device, all checked."""
        final = self.plan.final_config(self.plan.default, self.plan.seeds[0])
        self.plan.way.check_data(final, self._streams, pick_device(final.device))
        return self._checked(self.plan.default)

    def _checked(self, point: Point) -> tuple[Config, Stream, torch.device]:
        config = self.plan.trial_config(point, self.plan.seeds[0])
        device = pick_device(config.device)
        stream = self._streams(config, device)
        check_fit(config, stream, device)
        return config, stream, device

    def _fits(self, point: Point) -> bool:
        try:
            self._checked(point)
        except InputError:
            return False
        return True

    def _objective(self, trial: Trial) -> float:
        """A trial's value; one whose own values can't be trained, such as a network's width, fails."""
        try:
            return self._runner.objective(trial)
        except InputError as error:
            if self._fits(self.plan.default) and not self._fits(trial.params):
                raise RunError(str(error)) from error
            raise

    def tidy(self) -> None:
        """Remove what no trial will go on from: all of it once the search, or the final runs, are over.

        Where the time is spent, what was stopped goes on with a longer one.
        """
        for trial in self.ledger.left_behind():
            remove_checkpoints(self.plan, trial)
        if not self.ledger.is_complete():
            return
        finals = self.finals()
        over = [] if self.ledger.is_out_of_time(self.ledger.trials()) else [self.ledger]
        over += [finals.ledger] if finals is not None and finals.ledger.is_complete() else []
        for trial in (one for ledger in over for one in ledger.trials()):
            if trial.state.is_finished():
                remove_checkpoints(self.plan, trial)

    def write(self) -> None:
        """Write the study's files."""
        files.write(self.plan, self.ledger.trials())
        finals = self.finals()
        if finals is not None:
            files.write_finals(self.plan, finals.runs())

    def _work(self, ledger: Ledger, objective: Callable[[Trial], float]) -> bool:
        try:
            with not_waited_for_when_interrupted(self._storage):
                trial = ledger.claim()
                if trial is None:
                    return False
                try:
                    self._run(ledger, trial, objective)
                finally:
                    owner.let_go(trial)
        except BaseException:
            # What ends the work must not be hidden by what follows from it.
            with suppress(OSError, *STORAGE_ERRORS):
                ledger.reclaim()  # what this process has claimed and runs no more: others would wait for it
            with suppress(OSError, *STORAGE_ERRORS):
                self.write()
            raise
        self.write()
        self.tidy()
        return True

    def _run(self, ledger: Ledger, trial: Trial, objective: Callable[[Trial], float]) -> None:
        try:
            with (
                ledger.heartbeats(trial),
                not_waited_for_when_interrupted(self._storage),
                interrupts_told_from_errors(),
            ):
                if not (self.plan.folder / TRIALS_FILE).is_file():  # which tells that the folders within are trials
                    self.write()
                ledger.complete(trial, objective(trial))
        except PrunedError as reason:
            ledger.prune(trial, str(reason))
            if not isinstance(ledger.study.pruner, Promotion) and ledger.is_decided(trial):
                remove_checkpoints(self.plan, trial)
        except (InputError, MachineError, KeyboardInterrupt, SystemExit, OSError, *STORAGE_ERRORS) as error:
            # Not the trial's fault. What the method's own code does to files is: the contract has made it a RunError.
            # So is memory that doesn't suffice, which comes of the setting: the study's other points, and the other
            # studies, are not held up by it.
            if isinstance(error, OSError) and not ledger.still_runs(trial):
                return  # another process took this one for gone, and goes on with the trial's folder
            with suppress(OSError, *STORAGE_ERRORS):  # otherwise the trial is lost with its process, and tried again
                ledger.interrupt(trial, _reason(error))
            raise
        except Exception as error:
            ledger.fail(trial, str(error) if isinstance(error, RunError) else named(error))
            if ledger.is_decided(trial):  # else another process took it for gone, and goes on from them
                remove_checkpoints(self.plan, trial)


def _reason(error: BaseException) -> str:
    """What interrupted a trial."""
    if isinstance(error, OSError):
        return str(machine_error(error))
    return str(error) if isinstance(error, ClsweepError) else "interrupted"


def rehearse_all(studies: Sequence[StudyWorker]) -> list[str]:
    """Try the method's files of all studies, before the first trial: what is wrong with a file is no trial's fault.

    Returns:
        What the user should know of them, a line each.

    Raises:
        InputError: the data or a method don't fit.
    """
    pending = [study for study in studies if not study.is_done()]
    return [f"{study.plan.name}  {note}" for study in pending for note in study.rehearse()]


def work(plans: Sequence[StudyPlan], storage: BaseStorage, *, rehearsed: bool = False) -> None:
    """Run trials of these studies, the first ones first, until all are done.

    Where other processes have claimed the rest of a study, this one goes on with the next, and comes back in case one
    of those trials is lost.

    Args:
        plans: the studies.
        storage: where they are.
        rehearsed: whether the methods' files have been tried.
    """
    streams = ContextCache()
    workers = [StudyWorker(plan, storage, streams) for plan in plans]
    with _what_is_there_frozen():
        for line in [] if rehearsed else rehearse_all(workers):
            print(line, flush=True)
        give_back_memory()
        while pending := [worker for worker in workers if not worker.is_done()]:
            if not any(worker.work_once() for worker in pending):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            give_back_memory()


@contextmanager
def _what_is_there_frozen() -> Iterator[None]:
    """Let garbage collections within take only milliseconds: they pass over what PyTorch and pandas have made."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
