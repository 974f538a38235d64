"""Successive halving with promotion, on tables of learning curves: nothing is trained here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sharing
from builders import ROOT
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from clsweep.space import Point, Space
from clsweep.sweeps.continued import OnePerPoint, current
from clsweep.sweeps.ledger import Ledger, open_study
from clsweep.sweeps.marks import CONTINUES, ENDED, INTERRUPTED, LOST, VOID
from clsweep.sweeps.promotion import Promotion
from clsweep.sweeps.pruners import pruner
from clsweep.sweeps.samplers import sampler
from clsweep.sweeps.status import status

SPACE: Space = {"x": FloatDistribution(0.0, 1.0)}
Table = Callable[[Point], Sequence[float]]


pytestmark = pytest.mark.usefixtures("closed")


@pytest.fixture
def place() -> InMemoryStorage:
    return InMemoryStorage()


def halving(
    place: BaseStorage,
    n_trials: int,
    steps: int = 9,
    points: Sequence[float] = (),
    name: str = "successive_halving",
    eta: int = 3,
) -> Ledger:
    """A ledger whose trials report `steps` times; `points` are tried first, in this order."""
    study = open_study(place, "halving")
    study.sampler = OnePerPoint(RandomSampler(0))
    study.pruner = pruner(name, {"reduction_factor": eta}, steps)
    return Ledger(study, place, SPACE, n_trials, [{"x": x} for x in points], None)


def flat(steps: int) -> Table:
    """Curves that say from the beginning what a point is worth."""
    return lambda point: [float(point["x"])] * steps


def run(shared: Ledger, trial: Trial, values: Sequence[float]) -> None:
    """A trial's course by a table."""
    for step, value in enumerate(values, start=1):
        trial.report(value, step)
        if step < len(values) and trial.should_prune():
            return shared.prune(trial, "stopped")
    return shared.complete(trial, values[-1])


def claimed(shared: Ledger) -> Trial:
    trial = shared.claim()
    assert trial is not None
    return trial


def replay(shared: Ledger, table: Table) -> list[FrozenTrial]:
    while (trial := shared.claim()) is not None:
        run(shared, trial, table(trial.params))
    assert shared.is_complete()
    return shared.trials()


def told(trials: Sequence[FrozenTrial]) -> list[tuple[float, str, int | None, int | None]]:
    return [(one.params["x"], one.state.name, one.last_step, one.user_attrs.get(CONTINUES)) for one in trials]


def test_rungs_are_contexts_that_grow_by_the_reduction_factor() -> None:
    def rungs(steps: int, **options: int) -> tuple[int, ...]:
        made = pruner("successive_halving", options, steps)
        assert isinstance(made, Promotion)
        return made.rungs

    assert rungs(5) == (2,)
    assert rungs(10) == (2, 6)
    assert rungs(18) == (2, 6)
    assert rungs(19) == (2, 6, 18)
    assert rungs(10, reduction_factor=2) == (2, 4, 8)
    assert rungs(10, min_resource=3, reduction_factor=2) == (3, 6)


def test_a_trial_goes_on_at_once_where_it_is_among_the_best_and_later_when_it_is(place: InMemoryStorage) -> None:
    """Rungs 2 and 6, of three one goes on: by hand."""
    trials = replay(halving(place, 6, points=[0.5, 0.3, 0.4, 0.2, 0.1, 0.45]), flat(9))
    assert told(trials) == [
        (0.5, "COMPLETE", 9, None),  # the best so far, and so is the first at any rung
        (0.3, "PRUNED", 2, None),
        (0.4, "PRUNED", 2, None),
        (0.2, "PRUNED", 2, None),
        (0.1, "PRUNED", 2, None),
        (0.45, "PRUNED", 6, None),  # the second best of six, and of two at the second rung
    ]
    later = replay(halving(place, 9, points=[0.5, 0.3, 0.4, 0.2, 0.1, 0.45, 0.01, 0.02, 0.03]), flat(9))
    assert told(later[6:]) == [
        (0.01, "PRUNED", 2, None),
        (0.02, "PRUNED", 2, None),
        (0.03, "PRUNED", 2, None),
        (0.4, "PRUNED", 6, 2),  # the third best of nine by now
    ]


def recorded(shared: Ledger, x: float, last_step: int, state: TrialState = TrialState.PRUNED) -> None:
    """A trial of a flat curve that has ended."""
    values = dict.fromkeys(range(1, last_step + 1), x)
    shared.study.add_trial(
        create_trial(params={"x": x}, distributions=SPACE, state=state, value=x, intermediate_values=values)
    )


def test_what_was_stopped_at_a_higher_rung_goes_on_before_what_is_lower_and_that_before_new_points(
    place: InMemoryStorage,
) -> None:
    shared = halving(place, 20)
    recorded(shared, 0.9, 9, TrialState.COMPLETE)
    for x in (0.8, 0.7, 0.6, 0.5, 0.45):
        recorded(shared, x, 6)  # of six two go on
    for x in (0.83, 0.85, 0.1):
        recorded(shared, x, 2)  # of nine three go on
    trials = [claimed(shared) for _ in range(4)]
    assert [trial.params["x"] for trial in trials[:3]] == [0.8, 0.85, 0.83]
    assert [trial.user_attrs.get(CONTINUES) for trial in trials] == [1, 7, 6, None]


def naive(curves: Sequence[Sequence[float]], rungs: Sequence[int], eta: int) -> tuple[list[int], list[int]]:
    """Asynchronous successive halving by one worker (the paper's algorithm 2), with at least one at each rung.

    Returns:
        How many steps each point has taken in the end, and the points in the order in which they were begun or went on.
    """
    at: list[list[int]] = [[] for _ in rungs]  # the points at each rung
    gone_on: list[set[int]] = [set() for _ in rungs]
    taken, fresh = [0] * len(curves), 0
    order: list[int] = []

    def candidates(rung: int) -> list[int]:
        best = sorted(at[rung], key=lambda one: (-curves[one][rungs[rung] - 1], one))
        return [one for one in best[: max(1, len(best) // eta)] if one not in gone_on[rung]]

    while True:
        jobs = [(one, rung) for rung in reversed(range(len(rungs))) for one in candidates(rung)]
        if not jobs and fresh == len(curves):
            return taken, order
        if jobs:
            point, rung = jobs[0]
            gone_on[rung].add(point)
        else:
            point, rung, fresh = fresh, -1, fresh + 1
        order.append(point)
        while rung + 1 < len(rungs):
            rung += 1
            taken[point] = rungs[rung]
            at[rung].append(point)
            if point not in candidates(rung):  # else this worker goes on with it, before any other
                break
            gone_on[rung].add(point)
        else:
            taken[point] = len(curves[point])


@pytest.mark.parametrize(("eta", "seed"), [(2, 0), (3, 1), (3, 2), (4, 3)])
def test_every_point_comes_as_far_as_in_the_papers_algorithm(place: InMemoryStorage, eta: int, seed: int) -> None:
    steps, points = 9, 24
    noise = np.random.default_rng(seed)
    curves = {float(x): (x + noise.normal(0, 0.2, steps)).tolist() for x in noise.random(points)}
    shared = halving(place, points, steps, list(curves), eta=eta)
    assert isinstance(shared.study.pruner, Promotion)
    claims: list[float] = []

    def table(point: Point) -> Sequence[float]:
        claims.append(float(point["x"]))
        of_point: list[float] = curves[claims[-1]]
        return of_point

    trials = replay(shared, table)
    taken, order = naive(list(curves.values()), shared.study.pruner.rungs, eta)
    reached = {one.params["x"]: one.last_step for one in current(trials)}
    assert [reached[x] for x in curves] == taken
    assert taken.count(steps) >= 1
    assert [list(curves).index(x) for x in claims] == order


def test_a_promoted_point_counts_once(place: InMemoryStorage) -> None:
    shared = halving(place, 9, points=[0.5, 0.3, 0.4, 0.2, 0.1, 0.45, 0.01, 0.02, 0.03])
    trials = replay(shared, flat(9))
    now = status(trials)
    assert now.finished == 9
    promoted = [trial for trial in trials if CONTINUES in trial.user_attrs]
    assert promoted
    assert len(trials) == 9 + len(promoted)
    points = [trial.params["x"] for trial in [*now.complete, *now.pruned]]
    assert len(set(points)) == len(points) == 9


def test_one_worker_makes_the_same_sweep_again() -> None:
    def made() -> list[Any]:
        shared = halving(InMemoryStorage(), 20, name="hyperband")
        shared.study.sampler = OnePerPoint(sampler("tpe", {"n_startup_trials": 5}, 3))
        return told(replay(shared, flat(9)))

    assert made() == made()


def test_nothing_is_complete_until_what_is_promotable_has_gone_on(place: InMemoryStorage) -> None:
    shared = halving(place, 2, steps=5, points=[0.5, 0.4])
    first, second = claimed(shared), claimed(shared)
    second.report(0.4, 1)
    second.report(0.4, 2)
    first.report(0.3, 1)
    first.report(0.3, 2)
    assert first.should_prune()
    shared.prune(first, "stopped")
    assert not shared.is_complete()
    shared.fail(second, "it diverged")  # its place is free, and it is still what the other was compared with
    third = claimed(shared)
    assert CONTINUES not in third.user_attrs
    shared.fail(third, "it diverged")


def promotable(place: InMemoryStorage, n_trials: int = 3) -> Ledger:
    """A study of three points where the second of those at the first rung, of six, is to go on."""
    shared = halving(place, n_trials, steps=5, points=[0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    for x in (0.5, 0.4, 0.3, 0.2, 0.1, 0.05):
        run(shared, claimed(shared), [x] * 5)
    assert [trial.params["x"] for trial in shared._to_continue(shared.trials())] == [0.4]
    return shared


def test_of_two_workers_one_goes_on(place: InMemoryStorage) -> None:
    mine = promotable(place, 6)
    other = halving(place, 6, steps=5)
    assert not mine.is_complete()
    taken = claimed(mine)
    assert (taken.params["x"], taken.user_attrs[CONTINUES]) == (0.4, 1)
    assert other.claim() is None  # it is taken, and there are six points
    assert not other.is_complete()
    run(mine, taken, [0.4] * 5)
    assert other.is_complete()
    assert status(mine.trials()).finished == 6


def test_of_two_that_go_on_at_the_same_moment_the_later_steps_back(
    place: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = promotable(place, 6)
    other = halving(place, 6, steps=5)
    seen = mine.trials()
    first = claimed(other)
    with monkeypatch.context() as patch:
        before = [seen]
        patch.setattr(mine, "trials", lambda: before.pop() if before else Ledger.trials(mine))
        assert mine._go_on() is None
    last = mine.trials()[-1]
    assert (last.state, last.user_attrs[ENDED]) == (TrialState.FAIL, VOID)
    assert first.number < last.number
    run(other, first, [0.4] * 5)
    with monkeypatch.context() as patch:  # the same where the other's has ended by then
        before = [seen]
        patch.setattr(mine, "trials", lambda: before.pop() if before else Ledger.trials(mine))
        assert mine._go_on() is None
    assert mine.trials()[-1].user_attrs[ENDED] == VOID
    assert mine.is_complete()
    assert status(mine.trials()).finished == 6


def test_what_went_on_twice_goes_on_again(place: InMemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that goes away between a claim and its answer is asked again, and makes another."""
    shared = promotable(place, 6)
    create = place.create_new_trial

    def twice(*args: Any, **kwargs: Any) -> int:
        create(*args, **kwargs)
        return create(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(place, "create_new_trial", twice)
        assert shared.claim() is None  # this process steps back from the first, which it doesn't know of
    trial = claimed(shared)
    assert trial.user_attrs[CONTINUES] == 1
    assert [one.user_attrs.get(ENDED) for one in shared.trials()[6:]] == [LOST, VOID, None]
    run(shared, trial, [0.4] * 5)
    assert shared.is_complete()


@pytest.mark.parametrize("how", [INTERRUPTED, LOST])
def test_what_went_on_and_was_lost_goes_on_again_whatever_its_place_is_by_then(
    place: InMemoryStorage, how: str
) -> None:
    shared = promotable(place, 7)
    trial = claimed(shared)
    assert trial.user_attrs[CONTINUES] == 1
    for step, value in enumerate([0.4, 0.4, 0.4], start=1):
        trial.report(value, step)
    if how == LOST:
        shared._mark_lost(shared.trials()[trial.number], "killed")
    else:
        shared.interrupt(trial)
    better = shared.study.ask(SPACE)  # which takes its place at the rung
    for step in (1, 2, 3, 4, 5):
        better.report(0.99, step)
    shared.complete(better, 0.99)
    again = claimed(shared)
    assert again.user_attrs[CONTINUES] == 1
    assert again.params == trial.params
    run(shared, again, [0.4] * 5)
    assert shared.is_complete()
    now = status(shared.trials())
    assert (now.finished, len(now.marked)) == (7, 1)


def test_what_fails_when_it_goes_on_is_not_tried_again_and_does_not_count(place: InMemoryStorage) -> None:
    shared = promotable(place, 6)
    shared.fail(claimed(shared), "it diverged")
    now = status(shared.trials())
    assert (now.finished, len(now.failed)) == (5, 1)
    trial = claimed(shared)
    assert CONTINUES not in trial.user_attrs
    assert trial.params["x"] not in (0.5, 0.4, 0.3, 0.2, 0.1, 0.05)


def test_what_too_many_are_better_than_is_left_behind(place: InMemoryStorage) -> None:
    shared = halving(place, 7, steps=5, points=[0.5, 0.4, 0.3, 0.2])
    for _ in range(4):
        trial = claimed(shared)
        run(shared, trial, [float(trial.params["x"])] * 5)
    assert [one.params["x"] for one in shared.left_behind()] == [0.3, 0.2]  # of seven two go on
    assert isinstance(shared.study.pruner, Promotion)
    assert shared.study.pruner.most_waiting(7) == 2
    more = halving(place, 9, steps=5)
    assert [one.params["x"] for one in more.left_behind()] == [0.2]
    replay(more, flat(5))
    behind = {one.params["x"] for one in shared.left_behind()}
    assert behind.isdisjoint(one.params["x"] for one in more.trials() if one.state == TrialState.COMPLETE)
    more.study.pruner = pruner("median", None, 5)
    assert more.left_behind() == []


def test_every_point_of_a_finite_space_is_begun_once(place: InMemoryStorage) -> None:
    values = (0.9, 0.5, 0.3, 0.1, 0.4, 0.2)
    points: list[Point] = [{"x": x} for x in values]
    study = open_study(place, "grid")
    study.pruner = pruner("successive_halving", {}, 5)
    shared = Ledger(study, place, {"x": CategoricalDistribution(values)}, 100, points, points)
    while (trial := shared.claim()) is not None:
        if trial.params["x"] == 0.3:
            shared.fail(trial, "it diverged")
        else:
            run(shared, trial, [float(trial.params["x"])] * 5)
    assert shared.is_complete()
    begun = [one.params["x"] for one in shared.trials() if CONTINUES not in one.user_attrs]
    assert sorted(begun) == sorted(values)
    now = status(shared.trials())
    assert (now.finished, len(now.failed), [one.params["x"] for one in now.complete]) == (5, 1, [0.9])


def test_time_that_is_spent_ends_promotion_too(place: InMemoryStorage) -> None:
    shared = promotable(place, 6)
    shared.timeout = 1e-9
    assert shared.claim() is None
    assert shared.is_complete()


def test_other_rungs_than_before_are_no_harm(place: InMemoryStorage) -> None:
    shared = promotable(place, 6)
    shared.study.pruner = pruner("successive_halving", {"min_resource": 3}, 5)
    assert shared._to_continue(shared.trials()) == []  # stopped below the lowest one
    shared.study.pruner = pruner("successive_halving", {"reduction_factor": 2}, 5)
    assert [trial.params["x"] for trial in shared._to_continue(shared.trials())] == [0.4, 0.3]
    shared.study.pruner = pruner("median", None, 5)
    assert shared._to_continue(shared.trials()) == []
    assert shared.is_complete()


def test_a_run_that_has_to_start_over_is_not_stopped_where_it_was_promoted_from(place: InMemoryStorage) -> None:
    shared = promotable(place, 7)
    trial = claimed(shared)
    for x in (0.91, 0.92, 0.93):
        better = shared.study.ask(SPACE)
        better.report(x, 1)
        better.report(x, 2)
    trial.report(0.4, 1)
    trial.report(0.4, 2)
    assert not trial.should_prune()


def test_hyperbands_brackets_differ_in_their_lowest_rung(place: InMemoryStorage) -> None:
    shared = halving(place, 60, steps=19, name="hyperband")
    trials = replay(shared, lambda point: [0.0, *[float(point["x"])] * 18])
    reached = [one.last_step for one in current(trials)]
    assert set(reached) == {2, 6, 18, 19}
    promotion = shared.study.pruner
    assert isinstance(promotion, Promotion)
    brackets = [promotion._bracket(number) for number in range(1000)]
    # 4/4 27, 4/3 9, 4/2 3 and 4/1 1 points, which take about the same time in all.
    assert [brackets.count(one) for one in range(4)] == [pytest.approx(1000 * n / 49, abs=2) for n in (27, 12, 6, 4)]
    free = {number for number, bracket in enumerate(brackets) if bracket == 3}
    begun = [one for one in trials if CONTINUES not in one.user_attrs]
    assert all(one.state == TrialState.COMPLETE for one in begun if one.number in free)
    for bracket, lowest in ((0, 2), (1, 6), (2, 18)):
        mine = [one for one in begun if brackets[one.number] == bracket and one.state == TrialState.PRUNED]
        assert all((one.last_step or 0) >= lowest for one in mine)
        assert any(one.state == TrialState.COMPLETE for one in trials if brackets[begun_by(one, trials)] == bracket)


def begun_by(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """The number of the first trial of the same point."""
    return next(one.number for one in trials if one.params == trial.params)


class Looking(RandomSampler):
    """Keeps what it is shown."""

    seen: list[FrozenTrial]

    def sample_independent(self, study: optuna.Study, *others: Any) -> Any:
        self.seen = study.get_trials(deepcopy=False)
        assert study._get_trials(use_cache=True) == self.seen
        return super().sample_independent(study, *others)


def test_a_sampler_is_shown_each_point_once_with_what_is_known_of_it(place: InMemoryStorage) -> None:
    shared = promotable(place, 10)
    looking = Looking()
    shared.study.sampler = OnePerPoint(looking)
    going_on = claimed(shared)
    new = claimed(shared)
    assert CONTINUES not in new.user_attrs
    shown = {one.number: one.state.name for one in looking.seen if one.number != new.number}
    assert shown == {0: "COMPLETE", 1: "PRUNED", 2: "PRUNED", 3: "PRUNED", 4: "PRUNED", 5: "PRUNED"}
    run(shared, going_on, [0.4] * 5)
    newer = claimed(shared)
    shown = {one.number: one.state.name for one in looking.seen if one.number not in (new.number, newer.number)}
    assert shown == {0: "COMPLETE", 2: "PRUNED", 3: "PRUNED", 4: "PRUNED", 5: "PRUNED", 6: "COMPLETE"}


@pytest.mark.parametrize("kind", [TPESampler, optuna.samplers.GPSampler])
def test_optunas_samplers_choose_among_points_that_have_gone_on(place: InMemoryStorage, kind: type[Any]) -> None:
    shared = promotable(place, 8)
    shared.study.sampler = OnePerPoint(kind(n_startup_trials=2, seed=0))
    trials = replay(shared, flat(5))
    assert status(trials).finished == 8


@pytest.mark.parametrize("kind", [pytest.param("sqlite", marks=pytest.mark.slow), "journal"])
def test_processes_share_promotions(kind: str, tmp_path: Path) -> None:
    url = f"journal:{tmp_path / 'journal.log'}" if kind == "journal" else f"sqlite:///{tmp_path / 'studies.db'}"
    with ExitStack() as stack:
        command = [sys.executable, str(ROOT / "tests" / "sharing.py"), "take_part_in_halving", url, "12"]
        processes = [stack.enter_context(subprocess.Popen(command)) for _ in range(3)]
        assert [process.wait(timeout=120) for process in processes] == [0] * 3
    trials = sharing.ledger(url, 12).trials()
    ran = [one for one in trials if one.state != TrialState.WAITING and one.user_attrs.get(ENDED) != VOID]
    went_on = [one.user_attrs[CONTINUES] for one in ran if CONTINUES in one.user_attrs]
    assert len(set(went_on)) == len(went_on)  # each once
    assert len(went_on) >= 1
    assert len({one.params["reg_strength"] for one in ran}) == len(ran) - len(went_on) == 12
    now = status(trials)
    assert now.finished == 12
    assert now.complete
    assert all(trial.last_step == 9 for trial in now.complete)
