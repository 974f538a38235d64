"""The trials of a study as several processes share them: nothing is trained here."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import postgres
import pytest
from builders import ROOT
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sharing import QUEUED, ledger

from clsweep.errors import InputError
from clsweep.space import Space
from clsweep.sweeps import database, owner
from clsweep.sweeps import ledger as ledgers
from clsweep.sweeps.ledger import Ledger
from clsweep.sweeps.marks import CARRIED, ENDED, FAILED, INTERRUPTED, LOST, REASON, VOID
from clsweep.sweeps.spent import seconds, spent
from clsweep.sweeps.status import status

N_TRIALS = 25
TEN = {"reg_strength": 10.0}


pytestmark = pytest.mark.usefixtures("closed")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest.fixture
def postgresql(postgresql_server: postgres.Server) -> str:
    """An empty database."""
    return postgresql_server.new_database()


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tests" / "sharing.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(shared: Ledger) -> list[dict[str, float]]:
    trials = [trial for trial in shared.trials() if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return [trial.params for trial in trials]


def share(url: str, n_processes: int) -> None:
    """Twenty queued points, five that a sampler chooses, and several processes that take them."""
    ledger(url, N_TRIALS, first=QUEUED).queue_points()
    with ExitStack() as stack:
        processes = [stack.enter_context(start("take_part", url, str(N_TRIALS))) for _ in range(n_processes)]
        claimed = [int(line) for process in processes for line in process.communicate(timeout=120)[0].split()]
        assert [process.returncode for process in processes] == [0] * n_processes
    assert len(claimed) == len(set(claimed)) == N_TRIALS
    points = finished(ledger(url, N_TRIALS))
    assert len(points) == N_TRIALS
    assert len({point["reg_strength"] for point in points}) == N_TRIALS
    assert all(point in points for point in QUEUED)


@pytest.mark.parametrize("n_processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_share_a_budget_on_sqlite(sqlite: str, n_processes: int) -> None:
    share(sqlite, n_processes)


@pytest.mark.parametrize("n_processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_share_a_budget_on_a_journal(tmp_path: Path, n_processes: int) -> None:
    share(f"journal:{tmp_path / 'journal.log'}", n_processes)


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 4])
def test_processes_share_a_budget_on_postgresql(postgresql: str, n_processes: int) -> None:
    share(postgresql, n_processes)


def test_a_database_that_is_restarted_is_waited_for(
    postgresql_server: postgres.Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database, "_SECONDS_BETWEEN_TRIES", 0.2)
    url = postgresql_server.new_database()
    shared = ledger(url, 3)
    trial = shared.claim()
    assert trial is not None
    postgresql_server.stop()
    starter = threading.Timer(1, postgresql_server.start)
    starter.start()
    shared.complete(trial, 0.5)
    starter.join()
    assert [one.value for one in shared.trials()] == [0.5]
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"clsweep: search.storage={url}: ")
    assert first.endswith("; waiting up to 4 minutes for it.")
    assert last.startswith(f"clsweep: search.storage={url}: is back after ")


def test_the_trial_of_a_killed_process_is_marked_and_tried_again(sqlite: str) -> None:
    with start("claim_and_hang", sqlite) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        shared = ledger(sqlite, 3, first=(TEN,))
        other = shared.claim()
        assert other is not None
        assert other.params != TEN  # its process is alive
        process.send_signal(signal.SIGKILL)

    again = shared.claim()

    assert again is not None
    assert again.params == TEN
    lost = shared.trials()[0]
    assert lost.state == TrialState.FAIL
    assert lost.user_attrs[ENDED] == LOST
    assert str(process.pid) in lost.user_attrs[REASON]
    shared.complete(other, 0.1)
    shared.complete(again, 0.2)
    last = shared.claim()
    assert last is not None
    assert last.params != TEN


def test_an_interrupted_trial_is_tried_again_and_a_failed_one_is_not(sqlite: str) -> None:
    shared = ledger(sqlite, 3, first=(TEN,))
    trial = shared.claim()
    assert trial is not None
    assert trial.params == TEN
    shared.interrupt(trial)
    assert shared.trials()[0].user_attrs[ENDED] == INTERRUPTED
    trial = shared.claim()
    assert trial is not None
    assert trial.params == TEN
    shared.fail(trial, "it diverged")
    trial = shared.claim()
    assert trial is not None
    assert trial.params != TEN
    assert [one.user_attrs.get(REASON) for one in shared.trials()] == ["interrupted", "it diverged", None]


def test_of_equal_points_the_one_tried_first_is_the_best_though_it_was_lost(sqlite: str) -> None:
    shared = ledger(sqlite, 2)
    lost, other = shared.claim(), shared.claim()
    assert lost is not None
    assert other is not None
    shared.interrupt(lost)
    shared.complete(other, 0.5)
    again = shared.claim()
    assert again is not None
    assert again.params == lost.params
    shared.complete(again, 0.5)
    best = status(shared.trials()).best
    assert best is not None
    assert (best.number, best.params) == (again.number, lost.params)


def test_nothing_is_claimed_beyond_the_budget_while_others_run(sqlite: str) -> None:
    shared = ledger(sqlite, 2)
    first, second = shared.claim(), shared.claim()
    assert first is not None
    assert second is not None
    assert shared.claim() is None
    shared.prune(first, "worse")
    assert shared.claim() is None
    assert not shared.is_complete()
    shared.fail(second, "it diverged")  # its place is free again
    third = shared.claim()
    assert third is not None
    shared.complete(third, 0.5)
    assert shared.is_complete()
    assert shared.claim() is None


def test_a_claim_beyond_the_budget_is_put_back_for_later(sqlite: str) -> None:
    mine, other = ledger(sqlite, 1), ledger(sqlite, 1)
    taken = other.claim()
    assert taken is not None
    assert mine._ask() is None  # as in the moment between two processes' counting and claiming
    assert [trial.state for trial in mine.trials()] == [TrialState.RUNNING, TrialState.WAITING]
    other.fail(taken, "it diverged")
    again = mine.claim()
    assert again is not None
    assert again.number == 1


def test_a_point_that_another_trial_has_is_not_run_twice(sqlite: str) -> None:
    mine, other = ledger(sqlite, 5, first=(TEN,)), ledger(sqlite, 5, first=(TEN,))
    for one in (mine, other):
        one.study.enqueue_trial(TEN)
    first, second = mine.claim(), other.claim()
    assert first is not None
    assert second is not None
    assert first.params == TEN
    assert second.params != TEN
    assert [trial.user_attrs.get(ENDED) for trial in mine.trials()] == [None, VOID, None]


def test_every_point_of_a_finite_space_comes_once(sqlite: str) -> None:
    points = [{"gamma": value} for value in (0.2, 0.4, 0.6, 0.8, 1.0)]
    space: Space = {"gamma": CategoricalDistribution([point["gamma"] for point in points])}
    shared = ledger(sqlite, 100, space=space, points=points)
    for number in range(5):
        trial = shared.claim()
        assert trial is not None
        if number == 2:
            shared.fail(trial, "it diverged")
        else:
            shared.complete(trial, 0.5)
    assert shared.claim() is None
    assert shared.is_complete()  # what failed is not to be had
    assert len(finished(shared)) == 4


def test_a_sampler_that_proposes_the_same_integer_does_not_end_the_search(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_STEP_BACK_SECONDS", (0, 0))
    shared = ledger(sqlite, 3, space={"reg_strength": IntDistribution(1, 5000, log=True)})
    monkeypatch.setattr(shared.study.sampler, "sample_independent", lambda *_: 3)
    while (trial := shared.claim()) is not None:
        shared.complete(trial, 0.5)
    strengths = [point["reg_strength"] for point in finished(shared)]
    assert len(set(strengths)) == 3
    assert all(isinstance(value, int) for value in strengths)


def test_failures_count_in_a_row_from_this_process_on(sqlite: str) -> None:
    shared = ledger(sqlite, 10)

    def end(how: str) -> None:
        trial = shared.claim()
        assert trial is not None
        if how == "complete":
            shared.complete(trial, 0.5)
        elif how == "interrupt":
            shared.interrupt(trial)
        else:
            shared.fail(trial, how)

    for how in ("a", "complete", "b", "interrupt", "c"):
        end(how)
    assert shared.failures_in_a_row(before=set()) == ["b", "c"]
    assert shared.failures_in_a_row(before=shared.decided()) == []


def claimed_without_an_owner(shared: Ledger, seconds_ago: float) -> None:
    """What a process leaves that was killed between claiming a trial and saying whose it is."""
    claimed = create_trial(state=TrialState.RUNNING, system_attrs={"fixed_params": TEN})
    claimed.datetime_start = datetime.now() - timedelta(seconds=seconds_ago)
    shared.study.add_trial(claimed)


def test_a_claim_without_an_owner_is_lost_by_its_own_time_whoever_sees_it_first(sqlite: str) -> None:
    claimed_without_an_owner(ledger(sqlite, 3, first=(TEN,)), seconds_ago=50)
    ledger(sqlite, 3).reclaim()
    assert ledger(sqlite, 3).trials()[0].state == TrialState.RUNNING
    claimed_without_an_owner(ledger(sqlite, 3), seconds_ago=70)
    restarted = ledger(sqlite, 3, first=(TEN,))  # as a job is that never lives for a minute
    restarted.reclaim()
    assert [trial.state for trial in restarted.trials()] == [TrialState.RUNNING, TrialState.FAIL]
    assert restarted.trials()[1].user_attrs[ENDED] == LOST


def test_a_claim_of_a_clock_that_is_ahead_is_lost_after_a_while(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ledger(sqlite, 3)
    claimed_without_an_owner(shared, seconds_ago=-7200)
    shared.reclaim()
    assert shared.trials()[0].state == TrialState.RUNNING
    monkeypatch.setattr(ledgers, "_SECONDS_UNTIL_OWNED", 0)
    shared.reclaim()
    assert shared.trials()[0].user_attrs[ENDED] == LOST


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_claim_says_at_once_whose_it_is(kind: str, sqlite: str, tmp_path: Path) -> None:
    """Before the sampler chooses, which takes long enough to be killed in."""
    shared = ledger(sqlite if kind == "sqlite" else f"journal:{tmp_path / 'journal.log'}", 3)
    shared.study.enqueue_trial(TEN)

    class Killed(optuna.samplers.RandomSampler):
        def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
            raise KeyboardInterrupt

    shared.study.sampler = Killed()
    for number in range(2):  # the queued one, then a new one
        with pytest.raises(KeyboardInterrupt):
            shared.claim()
        trial = shared.trials()[number]
        assert trial.state == TrialState.RUNNING
        assert owner.from_json(trial.user_attrs[owner.OWNER]) == owner.this_process()


def test_a_claim_that_was_made_twice_is_given_back(sqlite: str) -> None:
    """A database that goes away between a claim and its answer is asked again, and makes another."""
    shared = ledger(sqlite, 2)
    shared.study.ask()  # no values: what the first try left
    done = [shared.claim() for _ in range(2)]
    assert all(trial is not None and trial.params for trial in done)
    first = shared.trials()[0]
    assert (first.state, first.user_attrs[ENDED]) == (TrialState.FAIL, LOST)


def test_a_point_that_no_process_came_to_run_is_not_given_up(sqlite: str) -> None:
    shared = ledger(sqlite, 2, first=(TEN,))
    for _ in range(ledgers.MOST_LOST + 1):
        claimed_without_an_owner(shared, seconds_ago=70)
    trial = shared.claim()
    assert trial is not None
    assert trial.params == TEN


def test_a_point_whose_process_ends_again_and_again_is_given_up(sqlite: str) -> None:
    shared = ledger(sqlite, 2, first=(TEN,))
    for number in range(ledgers.MOST_LOST):
        trial = shared.claim()
        assert trial is not None
        assert trial.params == TEN
        shared._mark_lost(shared.trials()[number], "killed")
    trial = shared.claim()
    assert trial is not None
    assert trial.params != TEN


def test_a_point_that_gets_further_each_time_is_not_given_up(sqlite: str) -> None:
    shared = ledger(sqlite, 2, first=(TEN,))
    for step in range(1, ledgers.MOST_LOST + 3):
        trial = shared.claim()
        assert trial is not None
        assert trial.params == TEN
        trial.report(0.5, min(step, 3))  # killed in the fourth context from then on
        shared._mark_lost(shared.trials()[trial.number], "killed")
    trial = shared.claim()
    assert trial is not None
    assert trial.params != TEN


def test_a_point_outside_of_a_narrower_space_is_not_run(sqlite: str) -> None:
    shared = ledger(sqlite, 2, space={"reg_strength": FloatDistribution(20.0, 30.0)})
    shared.study.enqueue_trial(TEN)
    with pytest.warns(UserWarning, match="out of range"):
        trial = shared.claim()
    assert trial is not None
    assert 20 <= trial.params["reg_strength"] <= 30
    assert shared.trials()[0].user_attrs[ENDED] == VOID


def test_a_sampler_without_new_points_is_not_asked_forever(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_STEP_BACK_SECONDS", (0, 0))
    monkeypatch.setattr(ledgers, "_MOST_STEPS_BACK", 5)
    shared = ledger(sqlite, 2, space={"reg_strength": FloatDistribution(1.0, 1.0)})
    trial = shared.claim()
    assert trial is not None
    shared.complete(trial, 0.5)
    with pytest.raises(InputError, match=r"search.sampler: proposed points that have been tried 5 times in a row"):
        shared.claim()


def recorded(shared: Ledger, state: TrialState, took: float, **attributes: Any) -> None:
    """A trial that ended a moment ago."""
    value = 0.5 if state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    trial = create_trial(state=state, value=value, user_attrs=attributes)
    if state != TrialState.WAITING:
        trial.datetime_complete = None if state == TrialState.RUNNING else datetime.now()
        trial.datetime_start = datetime.now() - timedelta(seconds=took)
    shared.study.add_trial(trial)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_the_time_of_all_trials_counts_once_however_they_ended(kind: str, sqlite: str, tmp_path: Path) -> None:
    url = sqlite if kind == "sqlite" else f"journal:{tmp_path / 'journal.log'}"
    shared = ledger(url, 100)
    assert spent(shared.trials()) == 0
    recorded(shared, TrialState.COMPLETE, 1000)
    recorded(shared, TrialState.PRUNED, 200)
    recorded(shared, TrialState.FAIL, 30, **{ENDED: FAILED})
    recorded(shared, TrialState.FAIL, 4, **{ENDED: INTERRUPTED})
    recorded(shared, TrialState.FAIL, 7200, **{ENDED: LOST, owner.BEAT: time.time() - 7100})  # noticed much later
    recorded(shared, TrialState.COMPLETE, 3, **{CARRIED: 100.0})  # which the lost one had trained
    recorded(shared, TrialState.WAITING, 0)
    total = 1000 + 200 + 30 + 4 + 100 + 3
    assert spent(shared.trials()) == pytest.approx(total, abs=1)
    assert seconds(shared.trials()[5]) == pytest.approx(103, abs=1)

    over = ledger(url, 100, timeout=total - 5)
    assert over.is_complete()
    assert over.claim() is None
    larger = ledger(url, 100, timeout=total + 600)
    assert not larger.is_complete()
    assert larger.claim() is not None


def test_a_trial_that_runs_when_the_time_is_spent_is_waited_for(sqlite: str) -> None:
    mine, other = (ledger(sqlite, 10, timeout=60) for _ in range(2))
    trial = other.claim()
    assert trial is not None
    recorded(mine, TrialState.PRUNED, 61)
    assert mine.claim() is None
    assert not mine.is_complete()
    other.complete(trial, 0.5)
    assert mine.is_complete()
    assert len(finished(mine)) == 2


def test_the_time_until_a_loss_was_noticed_is_not_spent(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ledger(sqlite, 10, first=(TEN,), timeout=60)
    beat = {owner.BEAT: time.time() - 3600, owner.OWNER: owner.to_json(owner.this_process())}
    recorded(shared, TrialState.RUNNING, 3610, **beat)
    assert shared.is_out_of_time(shared.trials())
    assert not shared.is_complete()
    monkeypatch.setattr("clsweep.sweeps.owner.Owner.has_ended", lambda *_: True)
    trial = shared.claim()
    assert trial is not None
    assert trial.number == 1


def test_whichever_budget_is_spent_first_ends_the_search(sqlite: str) -> None:
    shared = ledger(sqlite, 1, timeout=60)
    trial = shared.claim()
    assert trial is not None
    shared.complete(trial, 0.5)
    assert shared.is_complete()
    assert shared.claim() is None
