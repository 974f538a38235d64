"""One trial: a run for each seed, reported to Optuna context by context."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from optuna.pruners import NopPruner
from optuna.study import Study
from optuna.trial import Trial

from clsweep import decisive, results
from clsweep.config import Config
from clsweep.data.context_cache import ContextCache
from clsweep.folders import run_in
from clsweep.results import Summary
from clsweep.results.metrics import Cell
from clsweep.sweeps import status
from clsweep.sweeps.ledger import given_back
from clsweep.sweeps.marks import CARRIED, NOTES, REASON
from clsweep.sweeps.owner import BEAT
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.promotion import Promotion
from clsweep.sweeps.pruners import is_clearly_worse
from clsweep.sweeps.taken import FOLDER, Taken, take, take_up
from clsweep.training.observers import Observer
from clsweep.training.run import PartOf, PrunedError

SEEDS = "seeds"
TEST = "test_average_accuracy"
ON_CONTEXTS = "validation_on_contexts"


class Noting(Observer):
    """Keeps with the trial what the user should know of its runs, for the sweep to say.

    Args:
        trial: Optuna's.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def note(self, sentence: str) -> None:
        """Keep it, unless it is of the method, and another trial's already."""
        said = [one.user_attrs.get(NOTES, []) for one in self._trial.study.get_trials(deepcopy=False)]
        if not any(sentence in notes for notes in said):
            self._trial.set_user_attr(NOTES, [*self._trial.user_attrs.get(NOTES, []), sentence])


class Reporter(Noting):
    """Reports the average validation accuracy over the learned contexts to Optuna, and ends hopeless runs.

    With several seeds, what is reported is the mean of it and of what the earlier seeds reached in the end. The test
    accuracies in the same cells are not looked at.

    Args:
        trial: Optuna's.
        earlier: what the trial's earlier seeds reached.
        is_last: whether no seed follows: then the last context decides nothing any more.
        contexts: how many contexts a run has.

    Attributes:
        on_contexts: the validation accuracy on each learned context, after the latest one.
    """

    def __init__(self, trial: Trial, earlier: Sequence[float], is_last: bool, contexts: int) -> None:
        super().__init__(trial)
        self.on_contexts: list[float] = []
        self._earlier = earlier
        self._last = contexts if is_last else contexts + 1
        self._contexts = contexts

    def context_done(self, cells: Sequence[Cell]) -> None:
        """Report, and ask the pruner.

        Raises:
            PrunedError: the pruner says so.
        """
        after = cells[0].after_context
        if after == 0:
            return
        value = self._report(cells, after)
        self._trial.set_user_attr(BEAT, time.time())  # should the process be killed, it has worked until now
        self._judge(value, after)

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        """Report what an earlier trial has trained, context by context.

        It is judged only at a rung: what is stopped there is not lost.

        Raises:
            PrunedError: the trial ends at a rung, and no earlier one of its point went on from there.
        """
        for cells in measured:
            if cells[0].after_context > 0:
                value = self._report(cells, cells[0].after_context)
        if self.on_contexts and isinstance(self._trial.study.pruner, Promotion):
            self._judge(value, len(self.on_contexts))

    def _judge(self, value: float, after: int) -> None:
        if after < self._last and self._trial.should_prune():
            promotion, step = self._trial.study.pruner, len(self._earlier) * self._contexts + after
            where = f"stopped at {promotion.shown(step)}: " if isinstance(promotion, Promotion) else ""
            raise PrunedError(f"{where}validation accuracy {value:.4f} after context {after} of {self._contexts}")

    def _report(self, cells: Sequence[Cell], after: int) -> float:
        self.on_contexts = [cell.accuracy for cell in cells if cell.split == "validation" and cell.context <= after]
        value = float(np.mean([*self._earlier, np.mean(self.on_contexts)]))
        self._trial.report(value, len(self._earlier) * self._contexts + after)
        return value


@dataclass
class Runner:
    """Runs trials of one study.

    Attributes:
        plan: the study's.
        study: Optuna's.
        streams: makes the contexts.
    """

    plan: StudyPlan
    study: Study
    streams: ContextCache
    _seed_folders: bool = field(init=False)

    def __post_init__(self) -> None:
        """Several seeds each get a folder within the trial's."""
        self._seed_folders = len(self.plan.seeds) > 1

    def objective(self, trial: Trial) -> float:
        """Train with a trial's values and all seeds.

        Args:
            trial: Optuna's, with its values chosen.

        Returns:
            The average accuracy on the validation data after the last context, the mean over the seeds, from 0 to 1.

        Raises:
            PrunedError: the trial was stopped early.
            RunError: training diverged, or the regularizer failed.
            InputError: the data or the method don't fit.
        """
        plan, point = self.plan, trial.params
        name = f"trial-{trial.number:04d}"
        trial.set_user_attr(FOLDER, str(results.short(plan.folder / name)))
        on_contexts: list[list[float]] = []
        summaries: list[Summary | Taken] = []
        for number, seed in enumerate(plan.seeds):
            is_last = number == len(plan.seeds) - 1
            reached = [summary.validation_average_accuracy for summary in summaries]
            reporter = Reporter(trial, reached, is_last, plan.contexts)
            within = f"seed-{seed}" if self._seed_folders else ""
            trial.set_user_attr(SEEDS, plan.seeds[: number + 1])
            config = plan.trial_config(point, seed)
            made = take_or_run(trial, plan, plan.folder / name / within, config, reporter, self.streams)
            if isinstance(made, Taken):
                reporter.restored(made.measured, 0)
            summaries.append(made)
            on_contexts.append(reporter.on_contexts)
            trial.set_user_attr(ON_CONTEXTS, on_contexts)
            trial.set_user_attr(TEST, float(np.mean([summary.average_accuracy for summary in summaries])))
            if not is_last:
                self._compare(trial.number, on_contexts)
        return float(np.mean([summary.validation_average_accuracy for summary in summaries]))

    def _compare(self, number: int, on_contexts: list[list[float]]) -> None:
        """End a trial that is clearly worse than the best one."""
        if isinstance(self.study.pruner, NopPruner | Promotion):  # which judges at its rungs
            return
        best = status.best(self.study.get_trials(deepcopy=False))
        if best is None:
            return
        seeds = len(on_contexts)
        if is_clearly_worse(on_contexts, best.user_attrs[ON_CONTEXTS][:seeds]):
            raise PrunedError(f"worse than trial {best.number} on {seeds} of {len(self.plan.seeds)} seeds")


def take_or_run(
    trial: Trial, plan: StudyPlan, folder: Path, config: Config, observer: Observer, streams: ContextCache
) -> Summary | Taken:
    """One run of a trial; what an earlier trial of the same point has trained of it isn't trained again.

    Args:
        trial: Optuna's.
        plan: its study's.
        folder: where the run goes: the trial's, or one in it.
        config: the run's setting.
        observer: is told what happens, but for a run that was finished before.
        streams: makes the contexts.
    """
    within = folder.relative_to(plan.folder).parts[1:]
    earlier = given_back(trial.study.get_trials(deepcopy=False), trial.params)
    named = [Path(one.user_attrs[FOLDER]).name for one in earlier if FOLDER in one.user_attrs]
    left = [plan.folder.joinpath(name, *within) for name in named]
    setting = decisive.decisive(config, plan.method_file)
    found = take(folder, config, setting, left)
    if found is None:
        trained = take_up(folder, config, setting, left) if config.resume else None
        _carry(trial, trained or 0.0)
        part_of = PartOf(plan.name, folder.relative_to(plan.folder).as_posix())
        made = run_in(
            folder,
            config,
            observer,
            streams,
            plan.method_file,
            rehearsed=True,
            part_of=part_of,
            first_contexts=plan.first_contexts,
        )
        return made.summary
    _carry(trial, found.seconds)
    trial.set_user_attr(REASON, "finished by an earlier trial of the same values, which could not be recorded")
    return found


def _carry(trial: Trial, seconds: float) -> None:
    """Write down how long an earlier trial has trained what this one took over."""
    if seconds:
        trial.set_user_attr(CARRIED, trial.user_attrs.get(CARRIED, 0.0) + seconds)
