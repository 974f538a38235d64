"""What a sweep prints."""

from __future__ import annotations

import io
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sweeping
from optuna.trial import FrozenTrial
from rich.console import Console
from sweeping import finish, worker

from clsweep.sweeps import monitor, owner, storage
from clsweep.sweeps.monitor import Monitor, outcome, summary
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.status import of_time
from clsweep.sweeps.worker import StudyWorker

OVERRIDES = ("regularizer=si", "search.n_trials=2", "search.final_seeds=2", "search.pruner=null")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while sweeping.opened:
        storage.close(sweeping.opened.pop())


def printed(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def ended(out: Console) -> list[str]:
    """The lines of what has ended: that a first trial has started is said if it takes long."""
    return [line for line in printed(out).splitlines() if " started  " not in line]


def test_a_line_for_each_trial_and_final_run_where_there_is_no_terminal(tmp_path: Path) -> None:
    study = worker(tmp_path, *OVERRIDES)
    out = Console(file=io.StringIO(), width=200)
    with Monitor([study], out):
        finish(worker(tmp_path, *OVERRIDES))
    name = study.plan.name
    lines = ended(out)
    trials = study.ledger.trials()
    expected = [f"{name}    {n}/2  trial {n - 1} complete  {trials[n - 1].value:.4f}  reg_strength=" for n in (1, 2)]
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=False))
    assert lines[0].endswith(f"best {trials[0].value:.4f}")
    finals = [line.partition(":")[0] for line in lines if "final run" in line]
    # On random images the default values are the best: each run once, not once for either.
    assert finals == [f"{name}  final run {n}/2  tuned values, seed {999 + n}" for n in (1, 2)]
    with Monitor([study], again := Console(file=io.StringIO(), width=200)):
        pass
    assert printed(again) == ""  # what was there before is no news


def test_the_live_display_fits_a_narrow_terminal(tmp_path: Path) -> None:
    study = worker(tmp_path, *OVERRIDES)
    assert study.work_once()
    out = Console(file=io.StringIO(), width=80)
    out.print(monitor._progress([study], 80))
    lines = printed(out).splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith(study.plan.name)
    assert "1/2" in lines[0]
    assert "left" in lines[0]
    assert "0 pruned, 0 failed; best 0." in lines[1]


def test_the_summary_names_the_files_and_the_command(tmp_path: Path) -> None:
    study = worker(tmp_path, *OVERRIDES)
    out = Console(file=io.StringIO(), width=120)
    summary([outcome(study)], out)
    assert printed(out) == ""  # nothing to tell
    finish(study)
    summary([outcome(study)], out)
    text = printed(out)
    assert f"{study.plan.name}: 2 of 2 trials finished, 0 of them pruned; 0 failed" in text
    assert f"python -m clsweep --config-dir {tmp_path} --config-name best" in text
    assert f"{tmp_path}/trials.csv, best.yaml, final.csv" in text
    assert text.count(" ± ") == 1
    assert "the same values" in text  # on random images nothing is better than the default


@pytest.mark.parametrize(
    ("spent", "timeout", "shown"),
    [
        (12.4, 40, "12 of 40 s"),
        (65, 90, "1:05 of 1:30 min"),
        (1890, 3600, "0:31 of 1:00 h"),
        (7140, 90000, "1:59 of 25:00 h"),
    ],
)
def test_time_is_shown_in_the_unit_of_its_budget(spent: float, timeout: float, shown: str) -> None:
    assert of_time(spent, timeout) == shown


def test_a_budget_of_time_is_shown(tmp_path: Path) -> None:
    study = worker(tmp_path, *OVERRIDES, "search.timeout=36000")
    assert study.work_once()
    out = Console(file=io.StringIO(), width=80)
    out.print(monitor._progress([study], 80))
    lines = printed(out).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "1/2" in lines[0]
    assert lines[1].startswith("  0:00 of 10:00 h; 0 pruned, 0 failed; best 0.")


LONG = "split_cifar100-ewc_separate-0a1b2c3d"


def terminal() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, highlight=False)


def test_no_name_wraps_in_a_terminal_of_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StudyPlan, "name", LONG)
    study = worker(tmp_path, *OVERRIDES)
    out = terminal()
    with Monitor([study], out):
        finish(worker(tmp_path, *OVERRIDES))
    summary([outcome(study)], out)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in printed(out).splitlines()]
    trials = [line for line in lines if "trial" in line and line.startswith(LONG)]
    assert trials[0].startswith(f"{LONG}    1/2  trial 0 complete  0.")
    assert lines[lines.index(trials[0]) + 1].startswith("    ")
    table = lines[lines.index("average accuracy after the last context") :][:4]
    assert table[1] == "  validation  test, tuned      test, default    seeds"
    assert table[2] == LONG
    assert re.fullmatch(r"  0\.\d{4}      0\.\d{4} ± 0\.\d{4}  the same values  2", table[3])
    copied = ("run it again", "files")  # a command and a path stay whole
    assert all(len(line) <= 80 for line in lines if not line.strip().startswith(copied))
    monitor_line = terminal()
    monitor_line.print(monitor._progress([study], 80))
    first = printed(monitor_line).splitlines()[0]
    assert LONG in first
    assert "2/2" in first


def test_each_line_says_how_its_trial_ended_and_counts_what_had_ended_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = worker(tmp_path, *OVERRIDES, "search.final_seeds=0")
    ledger = study.ledger
    claimed = [trial for trial in (ledger.claim(), ledger.claim()) if trial is not None]
    ledger.complete(claimed[1], 0.75)
    ledger.interrupt(claimed[0])
    again = ledger.claim()
    assert again is not None
    with monkeypatch.context() as patched:
        patched.setattr("clsweep.sweeps.owner.Owner.has_ended", lambda *_: True)
        ledger.reclaim()
    last = ledger.claim()
    assert last is not None
    ledger.fail(last, "it diverged.")
    lines = [line.removeprefix(study.plan.name) for line in monitor._events(study, owner.family(), set()).values()]
    assert [line.partition("  reg_strength=")[0] for line in lines] == [
        "    1/2  trial 1 complete  0.7500",
        "    1/2  trial 0 interrupted",
        f"    1/2  trial 2 lost  its process ended (process {os.getpid()} on {socket.gethostname()})",
        "    1/2  trial 3 failed  it diverged.",
    ]


def test_a_log_says_once_that_a_study_has_begun(tmp_path: Path) -> None:
    study = worker(tmp_path, *OVERRIDES)
    shown = Monitor([study], Console(file=io.StringIO(), width=200))
    assert shown._news(study) == {}
    first = study.ledger.claim()
    assert first is not None
    shown._look()
    started = f"{study.plan.name}    0/2  trial 0 started  reg_strength="
    assert printed(shown._out).startswith(started)
    assert study.ledger.claim() is not None
    study.ledger.complete(first, 0.75)
    shown._look()
    lines = printed(shown._out).splitlines()
    assert len(lines) == 2  # the second trial's start is no news
    assert "trial 0 complete" in lines[1]


def test_a_line_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    line = monitor._trial_line

    def counted(study: StudyWorker, trial: FrozenTrial, *more: Any) -> str:
        made.append(trial.number)
        return line(study, trial, *more)

    monkeypatch.setattr(monitor, "_trial_line", counted)
    study = worker(tmp_path, *OVERRIDES)
    shown = Monitor([study], Console(file=io.StringIO(), width=200))
    for number in range(2):
        assert study.work_once()
        shown._look()
        shown._look()
        assert made == list(range(number + 1))


def test_a_final_run_keeps_its_number_when_one_before_it_ends_later(tmp_path: Path) -> None:
    study = worker(tmp_path, *OVERRIDES)
    while not study.ledger.is_complete():
        assert study.work_once()
    finals = study.finals()
    assert finals is not None
    first, second = finals.ledger.claim(), finals.ledger.claim()
    assert first is not None
    assert second is not None
    shown = []
    for trial, value in ((second, 0.25), (first, 0.75)):
        finals.ledger.complete(trial, value)
        lines = monitor._events(study, owner.family(), set()).values()
        shown.append([line.removeprefix(study.plan.name) for line in lines if "final run" in line])
    assert shown[0] == ["  final run 1/2  tuned values, seed 1001: test 0.2500"]
    assert shown[1] == [*shown[0], "  final run 2/2  tuned values, seed 1000: test 0.7500"]


def test_lines_say_which_trials_another_sweeps_process_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = worker(tmp_path, *OVERRIDES)
    logs = [Console(file=io.StringIO(), width=300) for _ in range(2)]
    with Monitor([study], logs[0]):
        finish(worker(tmp_path, *OVERRIDES))
    monkeypatch.setattr(owner, "family", lambda: {1})
    others = Monitor([study], logs[1])
    others._seen.clear()
    others._look()
    own, foreign = (ended(log) for log in logs)
    by = f"  by process {os.getpid()} on {socket.gethostname()}"
    assert len(own) == 4
    assert foreign == [f"{line}{by}" for line in own]


def test_a_budget_that_was_lowered_is_told_as_such(tmp_path: Path) -> None:
    study = worker(tmp_path, *OVERRIDES, "search.final_seeds=0")
    finish(study)
    out = Console(file=io.StringIO(), width=120)
    summary([outcome(worker(tmp_path, *OVERRIDES, "search.final_seeds=0", "search.n_trials=1"))], out)
    assert f"{study.plan.name}: 2 trials (n_trials is 1) finished, 0 of them pruned; 0 failed" in printed(out)
