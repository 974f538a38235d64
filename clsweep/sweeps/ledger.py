"""The trials of one study, as several processes share them.

Every process reads and writes the same storage and waits for nobody. What makes that safe:

- A process first makes its claim visible (Optuna's `ask` sets a trial RUNNING), then counts what others have claimed.
  Of two processes that claim at the same moment at least one sees the other, and whoever sees that the budget would be
  exceeded, or that another trial has the same point, steps back. The budget is never exceeded and no point is run
  twice. Both may step back; then they try again.
- A trial whose process is gone is marked as failed, and its point is put into the queue unless another trial has it.
  Both can be done twice, or be left half done, without harm.
- A trial that was stopped at a rung may go on as another one (`promotion.py`), which is claimed with its point, its
  owner and the stopped trial's number in one stroke. Of two that go on with the same one, the later steps back; where
  one is lost or interrupted, the stopped trial goes on as yet another.
- A process knows which trials it runs. One that is its own by the storage, but that it doesn't run, counts as lost: it
  was interrupted while it claimed it, or the storage refused the trial's end.
- Whose a trial is stands in the storage with its claim (`database.py`, `journal.py`). Only between claiming a queued
  trial and saying so is there a moment in which a killed process leaves a trial without an owner.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from clsweep import space as spaces
from clsweep.errors import InputError
from clsweep.space import Point, Space
from clsweep.sweeps import owner as owners
from clsweep.sweeps.continued import current
from clsweep.sweeps.marks import CONTINUES, ENDED, FAILED, INTERRUPTED, LOST, REASON, VOID
from clsweep.sweeps.owner import BEAT, OWNER, heartbeats
from clsweep.sweeps.promotion import Promotion
from clsweep.sweeps.spent import spent

_TAKEN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_SECONDS_UNTIL_OWNED = 60
_STEP_BACK_SECONDS = (0.05, 0.5)
_MOST_STEPS_BACK = 100
MOST_LOST: Final = 5  # trials of a point without one more finished context


@dataclass
class Ledger:
    """The trials of one study.

    Attributes:
        study: Optuna's; where its pruner is a `Promotion`, stopped trials may go on.
        storage: where it is.
        space: what is searched.
        n_trials: how many points are to be tried, to their end or until they are stopped.
        first: points to be tried before the sampler chooses any.
        points: all that may be tried; None where the space is not finite.
        timeout: how long trials may take, in seconds, all together; None: as long as it takes.
    """

    study: Study
    storage: BaseStorage
    space: Space
    n_trials: int
    first: Sequence[Point]
    points: Sequence[Point] | None
    timeout: float | None = None
    _unowned_since: dict[int, float] = field(default_factory=dict)

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number, as they are now."""
        return self.study.get_trials(deepcopy=False)

    def is_complete(self) -> bool:
        """Whether the budget, of trials or of time, is spent, and what it was spent on is finished."""
        trials = self.trials()
        if self.is_out_of_time(trials):
            return not any(trial.state == TrialState.RUNNING for trial in trials)
        if self._to_continue(trials) or any(_is_running_on(trial) for trial in trials):
            return False
        return len(self._counted(trials, _FINISHED)) >= self._budget(trials)

    def is_out_of_time(self, trials: Iterable[FrozenTrial]) -> bool:
        """Whether these trials, all of the study's, have taken the time that there is."""
        return self.timeout is not None and spent(trials) >= self.timeout

    def claim(self) -> Trial | None:
        """The next trial for this process: one that goes on where it was stopped before one with a new point.

        None where the time is spent, or others have claimed all that is left; those that run are to be waited for. The
        trial is this process's until `owner.let_go`.
        """
        for _ in range(_MOST_STEPS_BACK):
            self.reclaim()
            if self.is_out_of_time(self.trials()):
                return None
            going_on = self._go_on()
            if going_on is not None:
                owners.hold(going_on)
                return going_on
            self.queue_points()
            trials = self.trials()
            if len(self._counted(trials, _TAKEN)) >= self._budget(trials):
                return None
            trial = self._ask()
            if trial is not None:
                owners.hold(trial)
                return trial
            time.sleep(random.uniform(*_STEP_BACK_SECONDS))
        raise InputError(
            f"search.sampler: proposed points that have been tried {_MOST_STEPS_BACK} times in a row; expected another "
            "sampler, or a smaller search.n_trials."
        )

    def _to_continue(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The stopped trials whose points are to go on, the most urgent first."""
        promotion = self.study.pruner
        if not isinstance(promotion, Promotion):
            return []
        given_up = _given_up(trials)
        return [
            trial
            for trial in promotion.to_continue(trials)
            if self._may_be_tried(trial.params) and trial.params not in given_up
        ]

    def left_behind(self) -> list[FrozenTrial]:
        """The stopped trials that won't go on, if there are to be no more points than `n_trials`."""
        promotion = self.study.pruner
        return promotion.left_behind(self.trials(), self.n_trials) if isinstance(promotion, Promotion) else []

    def _go_on(self) -> Trial | None:
        """Claim a trial that goes on with a stopped one's point; None where there is none for this process."""
        for stopped in self._to_continue(self.trials()):
            attributes = {**owners.signature(), CONTINUES: stopped.number}
            claimed = create_trial(
                state=TrialState.RUNNING,
                params=stopped.params,
                distributions=stopped.distributions,
                user_attrs=attributes,
            )
            number = self.study._storage.create_new_trial(self.study._study_id, template_trial=claimed)
            trial = Trial(self.study, number)
            before = [one for one in self.trials() if one.user_attrs.get(CONTINUES) == stopped.number]
            others = [one for one in before if one.number != trial.number and _stands_before(one, trial.number)]
            if not others:
                return trial
            self._end(trial, VOID, f"trial {others[0].number} goes on with trial {stopped.number}")
        return None

    def _ask(self) -> Trial | None:
        """Claim a trial; None where this process has to step back."""
        try:
            trial = self.study.ask(self.space)
        except UpdateFinishedTrialError:
            return None  # it took too long: another process has marked it as lost
        trials = self.trials()
        others = [one for one in trials if one.number != trial.number]
        if len(self._counted(others, _TAKEN)) >= self._budget(trials):
            trial.set_user_attr(OWNER, None)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            return None
        reason = self._void(trial.params, others)
        if reason is not None:
            self._end(trial, VOID, reason)
            self._queue_untried()
            return None
        return trial

    def _void(self, point: Point, others: Iterable[FrozenTrial]) -> str | None:
        """Why a point that was claimed should not be run, if so."""
        if not self._may_be_tried(point):
            return "outside of what is searched now"
        twins = [one for one in others if one.params == point and (one.state in _TAKEN or _has_failed(one))]
        return f"trial {twins[0].number} has the same values" if twins else None

    def _may_be_tried(self, point: Point) -> bool:
        return spaces.contains(self.space, point) and (self.points is None or point in self.points)

    def _counted(self, trials: Iterable[FrozenTrial], states: tuple[TrialState, ...]) -> list[FrozenTrial]:
        """Trials that count towards the budget, each point once."""
        chosen = [trial for trial in current(trials) if trial.state in states]
        return chosen if self.points is None else [trial for trial in chosen if trial.params in self.points]

    def _budget(self, trials: Iterable[FrozenTrial]) -> int:
        """`n_trials`, or the number of points that can be finished where that is less."""
        if self.points is None:
            return self.n_trials
        given_up = _given_up(trials)
        return min(self.n_trials, sum(point not in given_up for point in self.points))

    # What ends a trial

    def complete(self, trial: Trial, value: float) -> None:
        """Record the objective's value, from 0 to 1."""
        with suppress(UpdateFinishedTrialError):  # another process took this one for gone, and has marked it
            self.study.tell(trial, value, skip_if_finished=True)

    def prune(self, trial: Trial, reason: str) -> None:
        """Record that a trial was stopped early, and why."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(REASON, reason)
            self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)

    def fail(self, trial: Trial, reason: str) -> None:
        """Record that a trial failed, and why; its point is not tried again."""
        self._end(trial, FAILED, reason)

    def interrupt(self, trial: Trial, reason: str = "interrupted") -> None:
        """Record that a trial was interrupted, and by what; its point is tried again."""
        self._end(trial, INTERRUPTED, reason)
        self.queue_points()

    def _end(self, trial: Trial, how: str, reason: str) -> None:
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(ENDED, how)
            trial.set_user_attr(REASON, reason)
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def is_decided(self, trial: Trial) -> bool:
        """Whether a trial is finished for good, well or badly, and not taken for lost by another process."""
        return _is_decided(self.storage.get_trial(trial._trial_id))

    def decided(self) -> set[int]:
        """The numbers of the trials that are finished for good, well or badly."""
        return {trial.number for trial in self.trials() if _is_decided(trial)}

    def failures_in_a_row(self, before: set[int]) -> list[str]:
        """The reasons of the trials that failed one after the other, by number, the latest last.

        Args:
            before: the trials that were decided when this process began, which don't count.
        """
        reasons: list[str] = []
        for trial in self.trials():
            if trial.number not in before and _is_decided(trial):
                reasons = [*reasons, trial.user_attrs.get(REASON, "")] if _has_failed(trial) else []
        return reasons

    # Points that wait

    def queue_points(self) -> None:
        """Queue the first points and those of trials that were lost or interrupted, where no trial has them."""
        trials = self.trials()
        points = [_point(trial) for trial in trials if _is_settled(trial)]
        settled = [point for point in points if spaces.contains(self.space, point)]  # claimed this moment: none yet
        again = [trial.params for trial in trials if trial.user_attrs.get(ENDED) in (INTERRUPTED, LOST)]
        settled += _given_up(trials)
        for point in [*self.first, *again]:
            if point not in settled and self._may_be_tried(point):
                self.study.enqueue_trial(dict(point))
                settled.append(point)

    def _queue_untried(self) -> None:
        """Queue an untried point of a discrete space: the sampler keeps proposing those that have been tried."""
        settled = [_point(trial) for trial in self.trials() if _is_settled(trial)]
        points = [spaces.drawn(self.space)] if self.points is None else self.points
        untried = [point for point in points if point is not None and point not in settled]
        if untried:
            self.study.enqueue_trial(dict(random.choice(untried)))

    def reclaim(self) -> None:
        """Mark the trials whose process is gone; their points are queued with the next claim."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            reason = self._lost(trial)
            if reason is not None:
                self._mark_lost(trial, reason)

    def _lost(self, trial: FrozenTrial) -> str | None:
        """Why a running trial counts as lost, if it does."""
        attribute = trial.user_attrs.get(OWNER)
        if attribute is None:  # claimed this moment, or its process was killed in that moment
            waited = self._seconds_without_owner(trial) > _SECONDS_UNTIL_OWNED
            return "its process ended before it could say who it was" if waited else None
        self._unowned_since.pop(trial.number, None)
        owner = owners.from_json(attribute)
        if owner.is_this_process and not owners.holds(trial):
            return "its process runs it no more: its claim or its end was interrupted, or refused by the storage"
        if owner.has_ended(trial):
            return f"its process ended ({owner})"
        return None

    def _seconds_without_owner(self, trial: FrozenTrial) -> float:
        """For how long a trial has been claimed by nobody, by its own clock or by this one, whichever says longer.

        Its own counts also for a process that is restarted every few seconds. The claim may be another machine's, whose
        clock or time zone differs. Where it is ahead, this one counts; where it is behind, a claim is taken for lost in
        the very moment of its making: its process steps back then, and claims again.
        """
        here = time.monotonic() - self._unowned_since.setdefault(trial.number, time.monotonic())
        return here if trial.datetime_start is None else max(here, time.time() - trial.datetime_start.timestamp())

    def _mark_lost(self, trial: FrozenTrial, reason: str) -> None:
        with suppress(UpdateFinishedTrialError):  # another process was faster
            self.storage.set_trial_user_attr(trial._trial_id, ENDED, LOST)
            self.storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def still_runs(self, trial: Trial) -> bool:
        """Whether no other process has taken this one for gone, and its trial for lost."""
        return self.storage.get_trial(trial._trial_id).state == TrialState.RUNNING

    def heartbeats(self, trial: Trial) -> AbstractContextManager[None]:
        """A context in which other machines see that the trial is being run; its claim was the first beat."""

        def beat() -> None:
            try:
                trial.set_user_attr(BEAT, time.time())
            except Exception:  # the storage is away for a moment: the next beat will do
                return

        return heartbeats(beat)


def _point(trial: FrozenTrial) -> Point:
    return trial.system_attrs.get("fixed_params", trial.params) if trial.state == TrialState.WAITING else trial.params


def _is_decided(trial: FrozenTrial) -> bool:
    """Finished for good, well or badly."""
    return trial.state in _FINISHED or _has_failed(trial)


def _is_settled(trial: FrozenTrial) -> bool:
    """Whether the trial's point needs no other trial."""
    return trial.state in (TrialState.WAITING, TrialState.RUNNING) or _is_decided(trial)


def _is_running_on(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and CONTINUES in trial.user_attrs


def _stands_before(trial: FrozenTrial, number: int) -> bool:
    """Whether the trial with this number leaves the point that it goes on with to `trial`, which does so, too."""
    return trial.number < number if trial.state == TrialState.RUNNING else _is_decided(trial)


def _has_failed(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get(ENDED) == FAILED)


def _given_up(trials: Iterable[FrozenTrial]) -> list[Point]:
    """Points that failed, or whose process ended so often that they seem to be the reason (out of memory, say).

    A trial that got further than the earlier ones of its point was ended by something else: the next one resumes it.
    """
    trials = list(trials)
    given_up: list[Point] = [trial.params for trial in trials if _has_failed(trial)]
    lost = [trial for trial in trials if trial.user_attrs.get(ENDED) == LOST and trial.user_attrs.get(OWNER)]
    for point in [trial.params for trial in lost]:
        steps = [-1 if one.last_step is None else one.last_step for one in lost if one.params == point]
        if len(steps) - steps.index(max(steps)) >= MOST_LOST:
            given_up.append(point)
    return given_up


def given_back(trials: Iterable[FrozenTrial], point: Point) -> list[FrozenTrial]:
    """The trials of a point that were lost, interrupted or stopped, the latest first: what they have is still good."""
    back = [
        trial
        for trial in trials
        if trial.state == TrialState.PRUNED or trial.user_attrs.get(ENDED) in (INTERRUPTED, LOST)
    ]
    return [trial for trial in reversed(back) if trial.params == point]


def open_study(storage: BaseStorage, name: str) -> Study:
    """The study with this name, made on first use."""
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
