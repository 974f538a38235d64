"""What samplers and pruners miss of the best accuracy: tables of the replays of `scripts/compare_search.py`."""

from __future__ import annotations

import itertools
from typing import Final

import pandas as pd
from compare_search import BUDGETS, KEPT, PRUNED_WITH, REPLAYS, SAMPLERS, SWEEP, Tables

from clsweep.results.statistics import estimate
from evaluation.experiment import Experiment, Made
from evaluation.tables import markdown

NAME: Final = "samplers"
_STARTS: Final = {"new": "from 1", "tuned": "tuned"}


def tables(experiment: Experiment, made: Made) -> str:
    """A table of the samplers, none with a pruner, and one of the pruners, all with one sampler."""
    missed = regrets(pd.read_csv(KEPT / REPLAYS))
    return f"### Samplers\n\n{samplers(missed)}\n\n### Pruners\n\n{pruners(missed)}"


def regrets(replays: pd.DataFrame) -> pd.DataFrame:
    """What each sweep missed at each budget: the best accuracy of its grid less what it found, in percent.

    Args:
        replays: a row for each sweep; see `compare_search.measured`.

    Returns:
        A row for each sweep, budget and way of counting (`per`: "trials" or "time"), with `search`, `start`, `missed`
        and `runs` (the time, in whole runs).
    """
    grids = Tables(KEPT)
    made = []
    for case in grids.cases():
        own = replays[replays["case"] == case.name]
        best = grids.of(case).best(case.plan.space)
        search, start = case.name.rsplit(" ", 1)
        for per, budget in itertools.product(("trials", "time"), BUDGETS):
            runs, found = own[f"runs_{per}_{budget}"], own[f"found_{per}_{budget}"]
            of_each = own[SWEEP].assign(search=search, start=start, per=per, budget=budget)
            made.append(of_each.assign(runs=runs, missed=100 * (best - found)))
    return pd.concat(made)


def samplers(missed: pd.DataFrame) -> str:
    """What samplers miss after so many trials: a row for each search and sampler.

    Args:
        missed: see `regrets`.
    """
    mine = missed[(missed["per"] == "trials") & (missed["pruner"] == "none")]
    columns = list(itertools.product(_STARTS, BUDGETS))
    lines = [["search", "sampler", *(f"{_STARTS[start]}: {budget} trials" for start, budget in columns)]]
    for search, name in itertools.product(mine["search"].unique(), SAMPLERS):
        rows = mine[(mine["search"] == search) & (mine["sampler"] == name)]
        cells = {key: _interval(one) for key, one in rows.groupby(["start", "budget"])}
        lines.append([_named(search), name, *(cells.get(key, "") for key in columns)])
    return markdown(lines)


def pruners(missed: pd.DataFrame) -> str:
    """What pruners miss in so much time, and with so many points: a row for each search and pruner.

    Args:
        missed: see `regrets`.
    """
    most = BUDGETS[-1]
    judged = missed[missed["case"].isin(missed.loc[missed["pruner"] != "none", "case"])]
    judged = judged[judged["sampler"] == PRUNED_WITH]
    lines = [["search", "pruner", *(f"time of {budget} runs" for budget in BUDGETS), f"{most} points"]]
    for (search, start, name), rows in judged.groupby(["search", "start", "pruner"], sort=False):
        timed = rows[rows["per"] == "time"]
        times = [_interval(timed[timed["budget"] == budget]) for budget in BUDGETS]
        points = rows[(rows["per"] == "trials") & (rows["budget"] == most)]
        whole = f"{_interval(points)}, in the time of {points['runs'].mean():.0f} runs"
        lines.append([f"{_named(str(search))}, {_STARTS[str(start)]}", str(name), *times, whole])
    return markdown(lines)


def _named(search: str) -> str:
    return ", ".join(f"`{part}`" for part in search.split())


def _interval(sweeps: pd.DataFrame) -> str:
    made = estimate(sweeps["missed"].dropna().tolist())
    return f"{made.mean:.2f} ± {made.half_width:.2f}"
