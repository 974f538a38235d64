"""The terminal during a sweep. It reads only the storage, so it shows what all processes do."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Collection, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from clsweep.hyperparameters import TUNED, values_of
from clsweep.results import short
from clsweep.results.statistics import estimate
from clsweep.results.tuning import finished_told, not_counted_told
from clsweep.sweeps import finals, status
from clsweep.sweeps import owner as owners
from clsweep.sweeps.files import reproduce
from clsweep.sweeps.finals import FinalRun
from clsweep.sweeps.marks import CONTINUES, ENDED, LOST
from clsweep.sweeps.owner import OWNER
from clsweep.sweeps.spent import own_seconds, seconds, spent
from clsweep.sweeps.status import Status
from clsweep.sweeps.worker import StudyWorker
from clsweep.training.display import clock

_SECONDS_BETWEEN_LOOKS = 1.0
_BAR_WIDTH = 20
_TITLE = "average accuracy after the last context"
_HEADS = ("study", "validation", "test, tuned", "test, default", "seeds")
_TUNED_BEFORE = " *"  # after the accuracy of default values
_PLAIN_WIDTH = 160  # where the output is no terminal


def console() -> Console:
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = _PLAIN_WIDTH
    return made


class Monitor:
    """Shows the studies of a sweep while they are searched: a live table, or a line for each trial that ends.

    Without a table, a line says that a study's first trial is running, since it may take long.

    Several sweeps may share a storage. The line of a trial that another one's process ran names the process.

    Args:
        studies: what is shown; with a connection of their own, since only one thread at a time uses a connection.
        out: where.
    """

    def __init__(self, studies: Sequence[StudyWorker], out: Console) -> None:
        self._studies = studies
        self._out = out
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)
        self._family: set[int] = set()  # those that have ended, too
        self._seen = {name for study in studies for name in _events(study, set(), set())}
        self._live = Live(console=out, auto_refresh=False, transient=True) if out.is_terminal else None
        self._silent = {study.plan.name for study in studies} if self._live is None else set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time, and stop."""
        self._stop.set()
        self._thread.join()
        try:
            with suppress(Exception):  # whatever ends the sweep must not be hidden by what ends its display
                self._look()
        finally:
            if self._live is not None:
                self._live.stop()

    def _keep_looking(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                self._look()
            except Exception:  # the storage is away for a moment: look again
                continue

    def _look(self) -> None:
        self._family |= owners.family()
        for study in self._studies:
            for name, line in self._news(study).items():
                self._seen.add(name)
                self._silent.discard(study.plan.name)
                self._out.print(_fitted(line, self._out), markup=False, soft_wrap=True)
        if self._live is not None:
            self._live.update(_progress(self._studies, self._out.width), refresh=True)

    def _news(self, study: StudyWorker) -> dict[tuple[str, ...], str]:
        """A line for what has ended in a study since; in a log that has none on it yet, for the trial that runs."""
        ended = _events(study, self._family, self._seen)
        now = status.status(study.ledger.trials())
        if ended or not now.running or study.plan.name not in self._silent:
            return ended
        name, trial = study.plan.name, now.running[0]
        line = f"{name}  {now.finished:>3}/{study.plan.n_trials}  trial {trial.number} started  "
        return {(name, "started"): line + status.named(trial.params) + _by(trial, self._family)}


def _fitted(line: str, out: Console) -> str:
    """A line; in a terminal that is too narrow for it, broken between words and indented from there on."""
    if not out.is_terminal:
        return line
    return textwrap.fill(line, out.width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _events(
    study: StudyWorker, family: Collection[int], seen: Container[tuple[str, ...]]
) -> dict[tuple[str, ...], str]:
    """What has ended in a study, in that order: a line each, by what it is about.

    Args:
        study: the study.
        family: the processes of this machine whose trials are this sweep's own.
        seen: what needs no line any more.
    """
    name = study.plan.name
    ended = [trial for trial in study.ledger.trials() if trial.datetime_complete is not None]
    ended.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    lines: dict[tuple[str, ...], str] = {}
    finished, best, so_far = 0, None, 0.0  # when the trial ended: others have ended since
    for trial in ended:
        if CONTINUES not in trial.user_attrs:  # whose point counts already
            finished += trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            best = trial.value if best is None else max(best, trial.value)
        so_far += own_seconds(trial)
        if (about := (name, str(trial.number))) not in seen:
            lines[about] = _trial_line(study, trial, finished, best, so_far) + _by(trial, family) + status.notes(trial)
    runs = _final_runs(study)
    done = [(run, run.trial) for run in runs if run.trial is not None]
    done.sort(key=lambda one: (one[1].datetime_complete, one[1].number))  # so that a number stays the run's
    for number, (run, trial) in enumerate(done, start=1):
        if (of_run := (name, str(run.point), str(run.seed))) in seen:
            continue
        values = values_of(study.plan.default_origin if run.setting == finals.DEFAULT else run.setting)
        line = f"{name}  final run {number}/{len(runs)}  {values}, seed {run.seed}: test {trial.value:.4f}"
        lines[of_run] = line + _by(trial, family) + status.notes(trial)
    return lines


def _by(trial: FrozenTrial, family: Collection[int]) -> str:
    """Who ran a trial, where it wasn't this sweep; for a lost one the reason says so."""
    attribute = trial.user_attrs.get(OWNER)
    if attribute is None or trial.user_attrs.get(ENDED) == LOST:
        return ""
    owner = owners.from_json(attribute)
    return "" if owner.is_here and owner.pid in family else f"  by {owner}"


def _final_runs(study: StudyWorker) -> list[FinalRun]:
    """The final runs, each once: where the best values are the default ones, a run is both, and named as the former."""
    final = study.finals()
    runs = final.runs() if final is not None else []
    return list({(str(run.point), run.seed): run for run in reversed(runs)}.values())[::-1]


def _trial_line(study: StudyWorker, trial: FrozenTrial, finished: int, best: float | None, so_far: float) -> str:
    how = status.how_it_ended(trial)
    why = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else status.reason(trial)
    took = clock(seconds(trial)) + (f", best {best:.4f}" if best is not None else "")
    time = f"{_of_time(study, so_far)} spent" if study.ledger.timeout is not None else ""
    parts = [how, why if why != how else "", status.named(trial.params), took, time]
    return (
        f"{study.plan.name}  {finished:>3}/{study.plan.n_trials}  trial {trial.number} {_of(trial)}"
        f"{'  '.join(part for part in parts if part)}"
    )


def _of(trial: FrozenTrial) -> str:
    """Which stopped trial it goes on with, if any."""
    before = trial.user_attrs.get(CONTINUES)
    return "" if before is None else f"(trial {before} promoted) "


def _progress(studies: Sequence[StudyWorker], width: int) -> Group:
    """Two lines a study; in a terminal of 80 columns the longest name has room, and the bar gets what is left."""
    lines: list[RenderableType] = []
    for study in studies:
        trials = study.ledger.trials()
        now, so_far = status.status(trials), spent(trials)
        name, count, left = study.plan.name, f"{now.finished}/{study.plan.n_trials}", _left(study, now, so_far)
        room = width - len(f"{name} {count} {left} ") - 1
        done = _part_done(study, now, so_far)
        bar = ProgressBar(total=1.0, completed=done, width=max(1, min(_BAR_WIDTH, room)))
        grid = Table.grid(*(Column(no_wrap=True) for _ in range(4)), padding=(0, 1))
        grid.add_row(name, bar, count, left)
        lines += [grid, Text(f"  {_details(study, now, so_far)}", overflow="ellipsis", no_wrap=True)]
    return Group(*lines)


def _details(study: StudyWorker, now: Status, so_far: float) -> str:
    parts = [_of_time(study, so_far)]
    parts += [_running(study, trial) for trial in now.running] or [_final_progress(study)]
    parts.append(f"{len(now.pruned)} pruned, {len(now.failed)} failed")
    if now.best is not None:
        parts.append(f"best {now.best.value:.4f} with {status.named(now.best.params)}")
    return "; ".join(part for part in parts if part)


def _running(study: StudyWorker, trial: FrozenTrial) -> str:
    return f"trial {trial.number} in context {1 + (trial.last_step or 0) % study.plan.contexts}/{study.plan.contexts}"


def _final_progress(study: StudyWorker) -> str:
    runs = _final_runs(study)
    done = sum(run.test_average_accuracy is not None for run in runs)
    return f"final runs {done}/{len(runs)}" if runs else ""


def _of_time(study: StudyWorker, so_far: float) -> str:
    timeout = study.ledger.timeout
    return "" if timeout is None else status.of_time(so_far, timeout)


def _part_done(study: StudyWorker, now: Status, so_far: float) -> float:
    """How much of the budget is spent, of trials or of time, whichever is nearer to its end: from 0 to 1."""
    parts = [now.finished / study.plan.n_trials if study.plan.n_trials else 1.0]
    if study.ledger.timeout is not None:
        parts.append(so_far / study.ledger.timeout)
    return min(1.0, max(parts))


def _left(study: StudyWorker, now: Status, so_far: float) -> str:
    each, trials = now.seconds_per_trial, study.plan.n_trials - now.finished
    if each is None or trials <= 0:
        return ""
    left = each * trials
    if study.ledger.timeout is not None:
        left = min(left, max(0.0, study.ledger.timeout - so_far))
    return f"{clock(left / max(1, len(now.running)))} left"


@dataclass(frozen=True)
class Outcome:
    """How a study ended.

    Attributes:
        study: this process's part in it.
        now: its trials.
        spent: how long these took, in seconds.
        runs: its final runs.
    """

    study: StudyWorker
    now: Status
    spent: float
    runs: list[FinalRun]


def outcome(study: StudyWorker) -> Outcome:
    final = study.finals()
    trials = study.ledger.trials()
    return Outcome(study, status.status(trials), spent(trials), final.runs() if final is not None else [])


def summary(outcomes: Sequence[Outcome], out: Console) -> None:
    """Print the table at the end of a sweep, then for each study its best values, its files, and how to go on.

    Args:
        outcomes: the studies; those without a finished or failed trial, and without final runs, are left out.
        out: where.
    """
    begun = [one for one in outcomes if one.now.finished or one.now.failed or one.runs]
    if not begun:
        return
    rows = [_row(one) for one in begun]
    _print_table(rows, out)
    meaning = "validation: the best trial; test: mean and 95 % interval over the seeds of the final runs"
    out.print(_fitted(meaning, out), soft_wrap=True)
    if any(cell.endswith(_TUNED_BEFORE) for row in rows for cell in row):
        out.print(f"{_TUNED_BEFORE.strip()} {values_of(TUNED)}, on the benchmark (conf/tuned)", soft_wrap=True)
    for one in begun:
        _print_details(one, out)


def _print_table(rows: Sequence[Sequence[str]], out: Console) -> None:
    """Print a row for each study; in a terminal too narrow for it, each name on a line of its own above its figures."""
    table = Table(*(Column(head, no_wrap=True) for head in _HEADS), title=_TITLE, title_justify="left")
    for row in rows:
        table.add_row(*row)
    needed = Measurement.get(out, out.options.update(max_width=_PLAIN_WIDTH), table).maximum
    if needed <= out.width or not out.is_terminal:
        out.print(table, soft_wrap=True)
        return
    widths = [max(map(len, column)) for column in list(zip(_HEADS, *rows, strict=True))[1:]]

    def figures(row: Sequence[str]) -> str:
        return "  ".join(["", *(cell.ljust(width) for cell, width in zip(row[1:], widths, strict=True))]).rstrip()

    for line in (_TITLE, figures(_HEADS), *(line for row in rows for line in (row[0], figures(row)))):
        out.print(line, markup=False, soft_wrap=True)


def _row(one: Outcome) -> list[str]:
    best = one.now.best
    tuned, default = (finals.accuracies(one.runs, setting) for setting in (finals.TUNED, finals.DEFAULT))
    same = best is not None and best.params == one.study.plan.default
    mark = _TUNED_BEFORE if default and one.study.plan.default_origin == TUNED else ""
    return [
        one.study.plan.name,
        f"{best.value:.4f}" if best is not None else "",
        _shown(tuned),
        "the same values" if tuned and same else _shown(default) + mark,
        str(len(finals.accuracies(one.runs, finals.chosen(one.study.plan)))),
    ]


def _shown(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return ""
    made = estimate(accuracies)
    return f"{made.mean:.4f}" + ("" if np.isnan(made.half_width) else f" ± {made.half_width:.4f}")


def _searched(one: Outcome, time: str) -> str:
    """What became of a study's search, in a line."""
    plan, now = one.study.plan, one.now
    if not plan.way.searches:
        return "nothing was searched"
    on = f", tuned on {plan.way.shown}" if plan.way.identity else ""
    finished = f"{status.of_budget(now.finished, plan.n_trials)} finished{f' in {time}' if time else ''}{on}"
    return finished_told(finished, len(now.pruned), len(now.failed))


def _print_details(one: Outcome, out: Console) -> None:
    plan, now = one.study.plan, one.now
    time = _of_time(one.study, one.spent)
    lines = [_fitted(f"{plan.name}: {_searched(one, time)}", out)]
    if time and now.finished < plan.n_trials:
        lines.append("  time             is spent: the same command with a larger search.timeout goes on")
    if plan.method_file is not None:
        lines.append(f"  method           {plan.method_file.shown}")
    if now.marked:
        lines.append(f"  not counted      {not_counted_told(len(now.marked))} (FAIL, with the reason)")
    if now.best is not None:
        lines.append(
            f"  best values      {status.named(now.best.params) or 'the only ones'}  (trial {now.best.number})"
        )
    if plan.space:
        lines.append(f"  default values   {status.named(plan.default)}  ({plan.default_origin})")
    elif not plan.way.searches:
        lines.append("  default values   the only ones")
    if now.best is not None or not plan.way.searches:
        lines.append(f"  run it again     {reproduce(plan)}")
    if now.pruned and now.complete:
        spent = sum(seconds(trial) for trial in [*now.complete, *now.pruned])
        part = now.seconds_saved / (spent + now.seconds_saved)
        lines.append(f"  pruning saved    about {clock(now.seconds_saved)}, {part:.0%} of the search")
    if now.failed:
        lines.append(f"  last failure     {status.reason(now.failed[-1])}")
    made = [
        "trials.csv",
        "best.yaml" if now.best or not plan.way.searches else "",
        "final.csv" if finals.accuracies(one.runs, finals.chosen(plan)) else "",
    ]
    lines.append(f"  files            {short(plan.folder)}/{', '.join(name for name in made if name)}")
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
