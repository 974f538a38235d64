"""Compare samplers and pruners: sweeps replayed against recorded learning curves.

    python scripts/compare_search.py record     # trains the grids that aren't kept yet: hours
    python scripts/compare_search.py replay     # replays thousands of sweeps; training is a look-up in the grids

`python scripts/experiments.py tables samplers` writes the tables.

A grid is a sweep of single runs without pruning, one for each value. A replay is a real sweep, with its ledger,
sampler, pruner, ranges and first point. Only its validation accuracies are the grid's, interpolated between the grid's
points. Test accuracy plays no part.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from hydra.types import RunMode
from learning_curves import GRIDS, Curves, Grid, record
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import Trial
from sobol_start import SobolStart

from clsweep import composing
from clsweep.space import Point, Space
from clsweep.sweeps import overrides
from clsweep.sweeps.continued import OnePerPoint
from clsweep.sweeps.ledger import Ledger, open_study
from clsweep.sweeps.marks import CONTINUES
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.pruners import pruner
from clsweep.sweeps.samplers import SeededByTrial, sampler

KEPT = Path(__file__).resolve().parent.parent / "outputs" / "reference" / "search"
REPLAYS = "replays.csv.gz"  # a row for each sweep
BUDGETS = (10, 20, 40)  # trials, or as much time as so many trials take that nothing stops
SWEEP = ["case", "sampler", "pruner", "seed"]  # what a row of the replays is of


@dataclass(frozen=True)
class Case:
    """A search: a grid, the ranges and the point that it starts at.

    Attributes:
        grid: what the curves are of.
        first: the first point, by name; `conf/tuned` may change, and what was replayed stays.
        ranges: by name, other than the method's own on the benchmark.
        is_new: whether nobody knows good values of the method on the benchmark.
    """

    grid: Grid
    first: Point
    ranges: Mapping[str, str] = field(default_factory=dict)
    is_new: bool = False

    @property
    def name(self) -> str:
        return f"{self.grid.benchmark} {self.grid.method} {'new' if self.is_new else 'tuned'}"

    @cached_property
    def plan(self) -> StudyPlan:
        """The study of a sweep as it ships."""
        ranges = [f"regularizer.{name}={text}" for name, text in self.ranges.items()]
        with composing.loader() as loader:
            composed = loader.load_configuration("config", ["hydra.sweep.dir=."], RunMode.RUN, from_shell=False)
            return overrides.read(composed, loader, [*self.grid.setting, *ranges]).plans[0]

    def curves(self, grid: Grid, kept: Path) -> Curves:
        """A grid of the same values, of this seed or another."""
        logs = [bool(getattr(self.plan.space[name], "log", False)) for name in grid.axes]
        return Curves(pd.read_csv(kept / f"{grid.name}.csv"), list(grid.axes), logs)


FIRST = {"reg_strength": 1.0, "epsilon": 0.1, "gamma": 1.0}  # a method's own defaults
STRENGTHS = {  # good ones, as `conf/tuned` had them
    ("split_mnist", "ewc"): 1e6,
    ("split_mnist", "si"): 10.0,
    ("perm_mnist", "ewc"): 250.0,
    ("perm_mnist", "si"): 5.0,
}
WIDE = {"reg_strength": "tag(log, interval(1, 1e5))"}


def _first(grid: Grid, strength: float) -> Point:
    return {name: strength if name == "reg_strength" else FIRST[name] for name in grid.axes}


# As a sweep ships for a method whose good values are known, and for a new one: from a strength of 1, in a wide range.
CASES = [
    *(Case(grid, _first(grid, STRENGTHS[grid.benchmark, grid.method])) for grid in GRIDS),
    *(Case(grid, _first(grid, 1.0), WIDE if grid.benchmark == "perm_mnist" else {}, is_new=True) for grid in GRIDS),
]

Chooses = Callable[[Space, int], BaseSampler]


def at_random(kind: type[Any], n_start: int) -> Chooses:
    """A sampler that begins at random, as Optuna's do."""
    return lambda space, seed: SeededByTrial(lambda own: kind(seed=own, n_startup_trials=n_start), seed)


def with_sobol(kind: type[Any], n_start: int) -> Chooses:
    """One that begins with a Sobol sequence."""
    return lambda space, seed: SobolStart(at_random(kind, n_start)(space, seed), n_start, space, seed)


SAMPLERS: dict[str, Chooses] = {
    "random": lambda space, seed: sampler("random", None, seed),
    "sobol": lambda space, seed: sampler("qmc", {"scramble": True}, seed),
    "tpe, 10 random": at_random(TPESampler, 10),
    "tpe, 5 random": lambda space, seed: sampler("tpe", None, seed),  # the default
    "tpe, 10 sobol": with_sobol(TPESampler, 10),
    "tpe, 5 sobol": with_sobol(TPESampler, 5),
    "tpe, 3 sobol": with_sobol(TPESampler, 3),
    "gp, 5 random": lambda space, seed: sampler("gp", None, seed),
}


def pruners(contexts: int) -> dict[str, tuple[str | None, dict[str, Any] | None]]:
    """`search.pruner` and its options, for runs of so many contexts: as they ship, and judging from 2/3 of these on."""
    late = contexts * 2 // 3
    from_late: dict[str, Any] = {"min_resource": late, "reduction_factor": 2}
    return {
        "none": (None, None),
        "median": ("median", None),
        "median, from 2/3 on": ("median", {"n_warmup_steps": late}),
        "halving": ("successive_halving", None),
        "halving, from 2/3 on, 1 of 2": ("successive_halving", from_late),
        "hyperband": ("hyperband", None),
        "hyperband, from 2/3 on, 1 of 2": ("hyperband", from_late),
    }


PRUNED_WITH = "tpe, 5 sobol"
SLOW = "gp, 5 random"  # ten times as slow as the others: a third of the seeds


def sweeps(case: Case) -> list[tuple[str, str]]:
    """The samplers and pruners that a case is replayed with."""
    is_new = case.first is not None
    samplers = [(one, "none") for one in SAMPLERS if is_new or one != SLOW]
    judged = is_new or case.grid.benchmark == "perm_mnist"
    return samplers + [(PRUNED_WITH, one) for one in pruners(5) if judged and one != "none"]


@dataclass
class Tables:
    """The kept grids.

    Attributes:
        kept: their folder.
    """

    kept: Path
    _read: dict[str, Curves] = field(default_factory=dict)

    def cases(self) -> list[Case]:
        """Those whose grid is there."""
        return [case for case in CASES if (self.kept / f"{case.grid.name}.csv").exists()]

    def of(self, case: Case) -> Curves:
        """What the case's trials look up."""
        return self._curves(case, case.grid)

    def _curves(self, case: Case, grid: Grid) -> Curves:
        if grid.name not in self._read:
            self._read[grid.name] = case.curves(grid, self.kept)
        return self._read[grid.name]


@dataclass
class Replayed:
    """A trial of a replay.

    Attributes:
        point: its values.
        value: its last accuracy; None where it was stopped.
        contexts: how many it was trained on itself; the first one is shared by a seed's trials, and counts for none.
        is_new: whether no trial of before goes on as this one.
    """

    point: Point
    value: float | None
    contexts: int
    is_new: bool


def replay(case: Case, curves: Curves, chooses: BaseSampler, judges: BasePruner) -> Iterator[Replayed]:
    """A study's trials, one after the other, without end: as `clsweep.sweeps.worker` and `.trial` go about it."""
    storage = InMemoryStorage()
    study = open_study(storage, case.name)
    study.sampler, study.pruner = OnePerPoint(chooses), judges
    ledger = Ledger(study, storage, case.plan.space, 1_000_000, [case.first], None)
    trained: dict[int, int] = {}
    while (trial := ledger.claim()) is not None:
        goes_on = trial.user_attrs.get(CONTINUES)
        curve = curves(trial.params)
        stopped_after = report(trial, curve.tolist())
        trained[trial.number] = stopped_after or curves.contexts
        contexts = trained[trial.number] - (1 if goes_on is None else trained[goes_on])
        if stopped_after is None:
            ledger.complete(trial, float(curve[-1]))
        else:
            ledger.prune(trial, "")
        yield Replayed(trial.params, None if stopped_after else float(curve[-1]), contexts, goes_on is None)


def report(trial: Trial, curve: Sequence[float]) -> int | None:
    """Report a trial's accuracies; the context after which the pruner stops it, if it does."""
    for after, value in enumerate(curve, start=1):
        trial.report(value, after)
        if after < len(curve) and trial.should_prune():
            return after
    return None


def measured(case: Case, tables: Tables, chooses: str, judges: str, seed: int) -> dict[str, Any]:
    """What a sweep has found after so many trials, and in the time of so many whole ones.

    Returns:
        By "trials" or "time" and budget: `found_*`, the best accuracy; `begun_*`, how many points were tried;
        `runs_*`, the time in whole runs.
    """
    curves = tables.of(case)
    a_run, most = curves.contexts - 1, BUDGETS[-1]
    row: dict[str, Any] = {**dict(zip(SWEEP, (case.name, chooses, judges, seed), strict=True))}
    best: Replayed | None = None
    begun = time = 0
    judge = pruner(*pruners(curves.contexts)[judges], curves.contexts)
    trials = replay(case, curves, SAMPLERS[chooses](case.plan.space, seed), judge)
    while begun < most or time <= most * a_run:
        trial = next(trials)
        for budget in BUDGETS:
            if time <= budget * a_run < time + trial.contexts:  # this one would be too late
                row |= found(f"time_{budget}", best, begun, time / a_run)
        begun, time = begun + trial.is_new, time + trial.contexts
        if trial.value is not None and (best is None or trial.value > (best.value or 0)):
            best = trial
        if trial.is_new and begun in BUDGETS:
            row |= found(f"trials_{begun}", best, begun, time / a_run)
    return row


def found(when: str, best: Replayed | None, begun: int, runs: float) -> dict[str, Any]:
    """The columns of one moment; see `measured`."""
    row = {f"begun_{when}": begun, f"runs_{when}": round(runs, 2)}
    return row if best is None or best.value is None else row | {f"found_{when}": round(best.value, 6)}


def replay_all(kept: Path, seeds: int, output: Path) -> None:
    """Replay, and write a row for each sweep; what `output` has already is not made again."""
    tables = Tables(kept)
    known = pd.read_csv(output) if output.exists() else pd.DataFrame(columns=SWEEP)
    done = set(known[SWEEP].itertuples(index=False, name=None))
    wanted = [(case, *sweep) for case in tables.cases() for sweep in sweeps(case)]
    for case, chooses, judges in wanted:
        of_each = seeds // 3 if chooses == SLOW else seeds
        missing = [seed for seed in range(of_each) if (case.name, chooses, judges, seed) not in done]
        rows = [measured(case, tables, chooses, judges, seed) for seed in missing]
        if rows:
            known = pd.concat([known, pd.DataFrame(rows)]) if len(known) else pd.DataFrame(rows)
            known.to_csv(output, index=False)
            print(f"{case.name}: {chooses}, {judges}: {len(rows)} sweeps", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "replay"])
    parser.add_argument("--kept", type=Path, default=KEPT, help="the grids' tables; default: %(default)s")
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/search"), help="the folder of the grids' runs; default: %(default)s"
    )
    parser.add_argument(
        "--seeds", type=int, default=20, help="seeds of the sampler, a third as many for gp; default: %(default)s"
    )
    a = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if a.what == "record":
        return record(a.kept, a.runs)
    replay_all(a.kept, a.seeds, a.kept / REPLAYS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
