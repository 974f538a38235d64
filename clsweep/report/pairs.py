"""Methods in pairs, over benchmarks: the files `pairs.csv` and `seeds_needed.csv`, and their tables on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, Final

import pandas as pd

from clsweep.report import leaderboard
from clsweep.report.leaderboard import BOUND, METHOD
from clsweep.report.unit import FRACTION, Unit
from clsweep.results import power, rivals
from clsweep.results.rivals import RESAMPLES, Resampling, Rivals

DIFFERENCE: Final = 0.005  # of average accuracy, to be found
ALL: Final = "all"
ACCURACY, GAP = "accuracy", "share of the gap"
_SHOWN: Final = 12
_COLLAPSED: Final = 200
_MANY_SEEDS: Final = 10_000
Scores = dict[str, dict[str, dict[int, float]]]  # method -> benchmark -> seed -> accuracy
Failures = dict[str, dict[str, int]]  # method -> benchmark -> seeds


@dataclass(frozen=True)
class PairRow:
    """A pair of methods on the page.

    Attributes:
        first: the method that is more often better, with how many of its runs failed, if any did.
        second: the other one, likewise.
        benchmarks: which, as text.
        improvement: the probability of improvement with its interval.
        probability: the same as a number.
        won: on how many common seeds.
        difference: of the interquartile means with its interval.
        gained: the same as a number.
    """

    first: str
    second: str
    benchmarks: str
    improvement: str
    probability: float
    won: str
    difference: str
    gained: float


@dataclass(frozen=True)
class SeedsRow:
    """How many seeds a difference between two methods needs, on the page.

    Attributes:
        benchmark: where.
        first: a method.
        second: another one.
        test: paired or not, and from how many seeds the variance was estimated.
        deviation: that standard deviation.
        needed: how many, with the interval.
        count: the same as a number.
    """

    benchmark: str
    first: str
    second: str
    test: str
    deviation: str
    needed: str
    count: float


@dataclass(frozen=True)
class Comparisons:
    """Both tables, what is open and what is behind a click.

    Attributes:
        pairs: the leading method among those in pairs, with each other one, over all benchmarks.
        more_pairs: the others, and all on each benchmark.
        seeds: the two leading methods of each benchmark.
        more_seeds: all other pairs.
        hidden: how many rows of both are in the files alone.
        resamples: of the bootstrap.
        difference: the one that the seeds are to find.
        gap: whether a difference is a share of the gap between the bounds.
        unpaired: whether some pairs have no common seeds.
    """

    pairs: list[PairRow]
    more_pairs: list[PairRow]
    seeds: list[SeedsRow]
    more_seeds: list[SeedsRow]
    hidden: int
    resamples: int = RESAMPLES
    difference: float = DIFFERENCE
    gap: bool = False
    unpaired: bool = False


def scores(table: pd.DataFrame, runs: pd.DataFrame) -> Scores:
    """The accuracies that are compared: of the main row of each method, under each benchmark's first protocol.

    Args:
        table: the whole leaderboard.
        runs: of `clsweep.report.selection.select`.

    Returns:
        By method, the leading ones first, then by benchmark and seed.
    """
    first = leaderboard.overview(table)
    first = first[first["kind"] == METHOD]
    key = ["protocol", "method", "setting"]
    chosen = runs.merge(first[key], on=key).dropna(subset=["average_accuracy", "seed"])
    made: Scores = {method: {} for _, method in leaderboard.methods_in_order(first)}
    for (method, benchmark), mine in chosen.groupby(["method", "benchmark"], sort=False):
        seeds = zip(mine["seed"], mine["average_accuracy"], strict=True)
        made[str(method)][str(benchmark)] = {int(seed): float(value) for seed, value in seeds}
    return made


def failures(table: pd.DataFrame) -> Failures:
    """With how many seeds each method's main row failed under each benchmark's first protocol, where it did.

    Args:
        table: the whole leaderboard.
    """
    first = leaderboard.overview(table)
    counts: Failures = {}
    for row in first[(first["kind"] == METHOD) & (first["failed"] > 0)].to_dict("records"):
        counts.setdefault(row["method"], {})[row["benchmark"]] = int(row["failed"])
    return counts


def gaps(table: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """The accuracies of `none` and `joint` under each benchmark's first protocol, where both were run."""
    first = leaderboard.overview(table)
    bounds = first[first["kind"] == BOUND].pivot_table(index="benchmark", columns="method", values="average_accuracy")
    if not {"none", "joint"} <= set(bounds):
        return {}
    both = bounds[bounds["joint"] > bounds["none"]]
    return {str(name): (float(row["none"]), float(row["joint"])) for name, row in both.iterrows()}


def pairs(made: Scores, bounds: Mapping[str, tuple[float, float]], failed: Failures) -> pd.DataFrame:
    """Each pair of methods over all benchmarks that both were run on, and on each: the file `pairs.csv`.

    Seeds that failed have no score: a method is compared on those that it finished; the row says how many more failed.

    Scores of several benchmarks are pooled as shares of the gap between `none` and `joint`, where these bounds were run
    on all of them, else as they are. The bounds' own uncertainty isn't in the intervals.

    Args:
        made: of `scores`.
        bounds: of `gaps`.
        failed: of `failures`.

    Returns:
        A row for each pair and scope (`all`, or a benchmark where there are several): `first` (more often better),
        `second`, `scope`, `benchmarks`, `common_seeds` and `won` (by the first, a tie is half), `paired_benchmarks`,
        `first_runs`, `second_runs`, `first_failed`, `second_failed`, `improvement`, `improvement_low`,
        `improvement_high`, `scale`, `first_iqm`, `second_iqm`, `iqm_difference`, `iqm_difference_low`,
        `iqm_difference_high`, `resamples`.
    """
    resampling = Resampling()
    rows = []
    for one, other in combinations(made, 2):
        whole = _compared(made, one, other, None, bounds, resampling)
        if whole is None:
            continue
        rows.append(whole)
        benchmarks = whole["benchmarks"].split()
        for benchmark in benchmarks if len(benchmarks) > 1 else ():
            row = _compared(made, one, other, benchmark, bounds, resampling)
            rows += [] if row is None else [row]
    for row in rows:
        for place in ("first", "second"):
            of_method = failed.get(row[place], {})
            row[f"{place}_failed"] = sum(of_method.get(benchmark, 0) for benchmark in row["benchmarks"].split())
    return pd.DataFrame(rows, columns=_PAIR_COLUMNS)


_PAIR_COLUMNS: Final = [
    *(
        "first",
        "second",
        "scope",
        "benchmarks",
        "common_seeds",
        "won",
        "paired_benchmarks",
        "first_runs",
        "second_runs",
        "first_failed",
        "second_failed",
    ),
    *("improvement", "improvement_low", "improvement_high"),
    *("scale", "first_iqm", "second_iqm", "iqm_difference", "iqm_difference_low", "iqm_difference_high", "resamples"),
]


def _compared(
    made: Scores,
    one: str,
    other: str,
    benchmark: str | None,
    bounds: Mapping[str, tuple[float, float]],
    resampling: Resampling,
) -> dict[str, Any] | None:
    mine, theirs = (_within(made[method], benchmark) for method in (one, other))
    names = rivals.benchmarks(mine, theirs)
    in_gaps = len(names) > 1 and all(name in bounds for name in names)
    if in_gaps:
        mine, theirs = (_in_gaps(values, names, bounds) for values in (mine, theirs))
    found = rivals.compare(mine, theirs, resampling)
    if found is None:
        return None
    if found.improvement.value < 0.5:
        one, other, found = other, one, found.turned()
    return _row(one, other, found, ALL if benchmark is None else benchmark, GAP if in_gaps else ACCURACY)


def _within(values: Mapping[str, dict[int, float]], benchmark: str | None) -> dict[str, dict[int, float]]:
    return {name: seeds for name, seeds in values.items() if benchmark in (None, name)}


def _in_gaps(
    values: Mapping[str, dict[int, float]], benchmarks: Sequence[str], bounds: Mapping[str, tuple[float, float]]
) -> dict[str, dict[int, float]]:
    """The same as shares of the gap between the bounds, which keeps their order on each benchmark."""
    made = {}
    for name in benchmarks:
        none, joint = bounds[name]
        made[name] = {seed: (value - none) / (joint - none) for seed, value in values[name].items()}
    return made


def _row(first: str, second: str, found: Rivals, scope: str, scale: str) -> dict[str, Any]:
    return {
        "first": first,
        "second": second,
        "scope": scope,
        "benchmarks": " ".join(found.benchmarks),
        "common_seeds": found.common,
        "won": found.won,
        "paired_benchmarks": found.paired,
        "first_runs": found.runs[0],
        "second_runs": found.runs[1],
        "improvement": found.improvement.value,
        "improvement_low": found.improvement.low,
        "improvement_high": found.improvement.high,
        "scale": scale,
        "first_iqm": found.first,
        "second_iqm": found.second,
        "iqm_difference": found.difference.value,
        "iqm_difference_low": found.difference.low,
        "iqm_difference_high": found.difference.high,
        "resamples": RESAMPLES,
    }


def seeds_needed(made: Scores) -> pd.DataFrame:
    """How many seeds each pair of methods needs for a difference of `DIFFERENCE`: the file `seeds_needed.csv`.

    Args:
        made: of `scores`.

    Returns:
        A row for each benchmark and pair, the leading methods of the benchmark first: `benchmark`, `first`, `second`,
        `difference` (to be found), `test` (paired or unpaired), `seeds` (that gave the variance), `deviation`,
        `needed`, `needed_low`, `needed_high` (with the ends of the deviation's 95 % interval).
    """
    rows = []
    for benchmark in dict.fromkeys(name for values in made.values() for name in values):
        for one, other in _in_pairs(made, benchmark):
            found = power.needed(made[one][benchmark], made[other][benchmark], DIFFERENCE)
            if found is None:
                continue
            test = "paired" if found.paired else "unpaired"
            seen = [test, found.seeds, found.deviation, found.needed, found.low, found.high]
            rows.append([benchmark, one, other, DIFFERENCE, *seen])
    return pd.DataFrame(rows, columns=_SEEDS_COLUMNS)


_SEEDS_COLUMNS: Final = [
    *("benchmark", "first", "second", "difference", "test", "seeds", "deviation"),
    *("needed", "needed_low", "needed_high"),
]


def _in_pairs(made: Scores, benchmark: str) -> Iterator[tuple[str, str]]:
    """Pairs of the methods that were run on a benchmark, the highest means first."""
    ran = [name for name, values in made.items() if benchmark in values]
    return combinations(sorted(ran, key=lambda name: -fmean(made[name][benchmark].values())), 2)


def comparisons(compared: pd.DataFrame, needed: pd.DataFrame, made: Scores, unit: Unit = FRACTION) -> Comparisons:
    """What the page shows of both tables.

    Args:
        compared: of `pairs`.
        needed: of `seeds_needed`.
        made: of `scores`.
        unit: of accuracies.
    """
    paired = {*compared["first"], *compared["second"]}
    leader = next((method for method in made if method in paired), "")
    leads = (compared["scope"] == ALL) & ((compared["first"] == leader) | (compared["second"] == leader))
    leads &= leads.cumsum() <= _SHOWN
    first = ~needed["benchmark"].duplicated()
    more_pairs, more_seeds = compared[~leads], needed[~first]
    hidden = sum(max(0, len(one) - _COLLAPSED) for one in (more_pairs, more_seeds))
    return Comparisons(
        [_pair(row, unit) for row in compared[leads].to_dict("records")],
        [_pair(row, unit) for row in more_pairs.head(_COLLAPSED).to_dict("records")],
        [_seeds(row, unit) for row in needed[first].to_dict("records")],
        [_seeds(row, unit) for row in more_seeds.head(_COLLAPSED).to_dict("records")],
        hidden,
        gap=bool((compared["scale"] == GAP).any()),
        unpaired=bool((compared["common_seeds"] == 0).any()),
    )


_OF_GAP: Final = Unit(1, 3, "as a share of the gap")


def _pair(row: Mapping[Any, Any], unit: Unit) -> PairRow:
    shown, of = (_OF_GAP, " of the gap") if row["scale"] == GAP else (unit, "")
    ends = ", ".join(shown.text(row[f"iqm_difference_{end}"], "+") for end in ("low", "high"))
    return PairRow(
        _with_failures(row["first"], row["first_failed"]),
        _with_failures(row["second"], row["second_failed"]),
        row["benchmarks"].replace(" ", ", "),
        f"{row['improvement']:.2f} [{row['improvement_low']:.2f}, {row['improvement_high']:.2f}]",
        row["improvement"],
        f"{row['won']:g} of {row['common_seeds']}" if row["common_seeds"] else "no common seeds",
        f"{shown.text(row['iqm_difference'], '+')} [{ends}]{of}",
        row["iqm_difference"],
    )


def _with_failures(method: str, failed: int) -> str:
    return f"{method} ({failed} failed)" if failed else method


def _seeds(row: Mapping[Any, Any], unit: Unit) -> SeedsRow:
    ends = " to ".join(_count(row[f"needed_{end}"]) for end in ("low", "high"))
    return SeedsRow(
        row["benchmark"],
        row["first"],
        row["second"],
        f"{row['test']}, {row['seeds']} {'seeds' if row['test'] == 'paired' else 'runs'}",
        unit.text(row["deviation"]),
        f"{_count(row['needed'])} ({ends})",
        row["needed"],
    )


def _count(seeds: float) -> str:
    return f"{seeds:,.0f}" if seeds < _MANY_SEEDS else f"over {_MANY_SEEDS:,}"
