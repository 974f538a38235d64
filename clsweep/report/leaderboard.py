"""The leaderboard: a row for each method and its values under each protocol, with intervals over seeds.

A method's place must not be chosen by what is being reported. Where it was run with several values, its row on the
leaderboard is that of the values a sweep chose on validation data, else that of the most seeds, else that of a sweep's
default values, else that of the latest run, and never that of the best test accuracy. The row says which it was.

A single seed is no basis for a lead: where any method of a protocol has several, those with one stand below them. Nor
are the seeds that are left where others failed: such a method is never marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from clsweep.config import ON_STREAM
from clsweep.published import published
from clsweep.report import stability
from clsweep.report.plots.contexts import BOUNDS
from clsweep.report.selection import PROTOCOL, TUNED
from clsweep.report.trials import COMPLETE, PRUNED
from clsweep.results import Results
from clsweep.results.statistics import LEVEL, all_differ, compare, estimates, holm

# Whether more is better.
METRICS: Final = {
    "average_accuracy": True,
    "forgetting": False,
    "backward_transfer": True,
    **stability.METRICS,
    "seconds": False,
}
# Times depend on the machine and on what else ran on it: none is marked.
MARKED: Final = ("average_accuracy", "forgetting", "backward_transfer", *stability.METRICS)
METHOD, BOUND, PUBLISHED = "method", "bound", "published"
TEST: Final = "paired t-test over common seeds, two-sided, 5 % over all rivals by Holm's procedure"
_ROW: Final = ["protocol", "method", "setting"]


def rows(runs: pd.DataFrame) -> pd.DataFrame:
    """The whole leaderboard, the file `leaderboard.csv`.

    Args:
        runs: of `clsweep.report.selection.select`.

    Returns:
        A row for each protocol, method and setting, in the order in which they are shown: the columns of `PROTOCOL`;
        `kind` (method, bound or published); `method`; `setting`; `chosen` (tuned by
        a sweep, or its default, which may have been tuned before; see `clsweep.report.selection.origins`);
        `tune_on`, what a sweep tuned these values on, where it wasn't the whole stream for all of
        the method's rows; `main`, whether it is the method's row; `why`, how that was chosen among several, else
        empty; `seeds`, their number; `failed`, how many more failed; for each of `METRICS`
        `<metric>` (the mean), `<metric>_low` and `<metric>_high` (of its 95 % interval), and for those in `MARKED`
        `<metric>_best`, whether it is better than all other methods by `TEST`; then the comparison with the leader, the
        method whose own row (`main`) has the highest mean average accuracy: `difference` (less than 0 where worse),
        `difference_low`, `difference_high`, `p`, `common_seeds`; and `evaluate_every` of the runs that have a
        min-ACC. Times are in seconds: training, importance and evaluation.
    """
    timed = stability.comparable(runs).assign(
        seconds=runs["train_seconds"] + runs["importance_seconds"] + runs["eval_seconds"]
    )
    table = _summaries(timed)
    table["kind"] = table["method"].isin(BOUNDS).map({True: BOUND, False: METHOD})
    table = table.assign(**_main(table))
    parts = [_compared(group.copy(), timed) for _, group in table.groupby("protocol", sort=False)]
    parts += [_published_rows(group) for _, group in table.groupby("protocol", sort=False)]
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True) if parts else table
    whole = whole.reindex(columns=_columns()).assign(order=whole["kind"].map({METHOD: 0, BOUND: 1, PUBLISHED: 2}))
    places = {digest: place for place, digest in enumerate(runs["protocol"].unique())}
    whole = whole.assign(place=whole["protocol"].map(places), single=_is_single(whole)).sort_values(
        ["place", "order", "main", "single", "average_accuracy"],
        ascending=[True, True, False, True, False],
        kind="stable",
    )
    return whole[_columns()].reset_index(drop=True)


def _is_single(table: pd.DataFrame) -> pd.Series:
    """Whether a method's row has one seed, under a protocol where another one has several."""
    is_method = table["kind"] == METHOD
    several = (is_method & table["main"] & (table["seeds"] > 1)).groupby(table["protocol"]).transform("any")
    return is_method & several & (table["seeds"] == 1)


def _columns() -> list[str]:
    columns = [*PROTOCOL, "kind", "method", "setting", "chosen", "tune_on", "main", "why", "seeds", "failed"]
    for metric in METRICS:
        columns += [metric, f"{metric}_low", f"{metric}_high", *([f"{metric}_best"] if metric in MARKED else [])]
    return [*columns, "difference", "difference_low", "difference_high", "p", "common_seeds", stability.EVERY]


def _summaries(runs: pd.DataFrame) -> pd.DataFrame:
    first = runs.groupby(_ROW, sort=False)
    table = runs.loc[first.head(1).index, list(dict.fromkeys([*PROTOCOL, *_ROW]))].reset_index(drop=True)
    table["chosen"] = first["chosen"].max().to_numpy()  # tuned > default > neither, as it is spelt
    ways = first["tune_on"].first().to_numpy()
    has_other = (
        pd.Series(~np.isin(ways, ("", ON_STREAM))).groupby([table["protocol"], table["method"]]).transform("any")
    )
    table["tune_on"] = np.where(has_other, ways, "")
    table["failed"] = first["failed"].first().to_numpy()
    table["started_at"] = first["started_at"].max().to_numpy()
    table[stability.EVERY] = first[stability.EVERY].max().to_numpy()
    for metric in METRICS:
        made = estimates(runs, _ROW, metric)
        table[[metric, f"{metric}_low", f"{metric}_high"]] = made[["mean", "low", "high"]]
        table["seeds"] = first["seed"].nunique().to_numpy()
    return table


def _main(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Whether a row stands for its method, and why; see the module."""
    ordered = table.assign(rank=(table["chosen"] != TUNED).astype(int)).sort_values(
        ["rank", "seeds", "chosen", "started_at"], ascending=[True, False, False, False], kind="stable"
    )
    groups = ordered.groupby(["protocol", "method"], sort=False)
    reasons = {group.index[0]: _why(group) for _, group in groups}
    return {
        "main": pd.Series(table.index.isin(list(reasons)), index=table.index),
        "why": pd.Series(reasons).reindex(table.index, fill_value=""),
    }


def _why(settings: pd.DataFrame) -> str:
    """What puts the first of a method's settings before the others, in words."""
    first, others = settings.iloc[0], settings.iloc[1:]
    if others.empty:
        return ""
    among = f"of {len(settings)} settings"
    rivals = others[others["rank"] == first["rank"]]
    if rivals.empty:
        return f"{among} the one tuned on validation data"
    tuned = ", tuned on validation data," if first["rank"] == 0 else ""
    level = rivals[rivals["seeds"] == first["seeds"]]
    if level.empty:
        return f"{among} the one{tuned} with the most seeds"
    if (level["chosen"] != first["chosen"]).all():
        return f"{among} a sweep's default values"
    untuned = ", none of them tuned" if first["rank"] else ", tuned on validation data"
    return f"{among} the latest with the most seeds{untuned}"


def _compared(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One protocol's rows with the best of each column marked, each compared with the highest mean accuracy."""
    mine = runs[runs["protocol"] == table["protocol"].iloc[0]]
    seeds = {key: own.set_index("seed") for key, own in mine.groupby(["method", "setting"])}
    keys = dict(zip(table.index, zip(table["method"], table["setting"], strict=True), strict=True))

    def by_seed(index: Any, metric: str) -> dict[int, float]:
        return {int(seed): float(value) for seed, value in seeds[keys[index]][metric].dropna().items()}

    methods = table[table["main"] & (table["kind"] == METHOD)]
    rivals = methods[~_is_single(methods)]
    for metric in MARKED:
        best = _best(rivals, metric)
        others = [index for index in methods.index if index != best] if best is not None else []
        made = [compare(by_seed(best, metric), by_seed(one, metric)) for one in others]
        # A mean over other seeds may be higher where the common ones say the opposite.
        ahead = all((one.difference > 0) is METRICS[metric] for one in made)
        told = bool(others) and ahead and all_differ([one.p for one in made])
        table[f"{metric}_best"] = (table.index == best) & (table["failed"] == 0) & told
    best = _best(rivals, "average_accuracy")
    for index in table.index[table.index != best] if best is not None else ():
        one = compare(by_seed(index, "average_accuracy"), by_seed(best, "average_accuracy"))
        compared = [one.difference, one.low, one.high, one.p, one.seeds]
        table.loc[index, ["difference", "difference_low", "difference_high", "p", "common_seeds"]] = compared
    return table


def _best(rivals: pd.DataFrame, metric: str) -> Any:
    """The index of the best mean; None where there is none."""
    known = rivals[metric].dropna()
    if known.empty:
        return None
    return known.idxmax() if METRICS[metric] else known.idxmin()


def verdict(table: pd.DataFrame) -> str:
    """What one protocol's rows say about average accuracy, in a sentence; empty where there is nothing to compare.

    Args:
        table: of `rows`, of one protocol.
    """
    methods = table[table["main"] & (table["kind"] == METHOD)]
    rivals = methods[~_is_single(methods)]
    best = _best(rivals, "average_accuracy")
    if best is None or len(methods) < 2:
        return ""
    leader, others = rivals.loc[best, "method"], methods.drop(best)
    failed, finished = rivals.loc[best, "failed"], rivals.loc[best, "seeds"]
    if failed:
        runs = f"{failed} of its {failed + finished} seeds failed"
        return f"{leader} has the highest mean of what finished, but {runs}: it isn't told from the others."
    tested = others["p"].notna()
    is_alike = others["common_seeds"] > 1  # without a p: on each seed the same accuracy, or the same difference
    is_marked = bool(rivals.loc[best, "average_accuracy_best"])
    corrected = np.array(_corrected(others.loc[tested, "p"].tolist()))
    is_alike[tested] = (corrected > 1 - LEVEL) & (not is_marked)
    alike = others.loc[is_alike, "method"].tolist()
    is_better = tested & ~is_alike & (others["difference"] > 0)  # the mean is over other seeds, too
    better = others.loc[is_better, "method"].tolist()
    untested = others.loc[~tested & ~is_alike, "method"].tolist()
    if len(untested) == len(others):
        return f"{leader} has the highest mean; nothing tells it from the others, for lack of seeds in common."
    told = f"{leader} has the highest mean"
    if alike:
        told += f", and can't be told from {', '.join(alike)}"
    elif not better:
        told += ", and is told from every method that it was compared with"
    if better:
        told += f"; on the seeds that both have, {' and '.join(better)} did better"
    apart = f"; {', '.join(untested)}: too few seeds in common" if untested else ""
    return f"{told}{apart}."


def _corrected(p_values: Sequence[float]) -> list[float]:
    """The leader's p-values by Holm's procedure over all pairs of methods, the other pairs' taken for 1.

    The leader is chosen on the data that test it: of many equal methods it is a lucky one, and corrected for its own
    pairs alone it would be told from some method too often. The mark is stricter by itself: it needs every pair.

    Args:
        p_values: of the leader with each rival, none of them NaN.

    Returns:
        A value for each, in the same order.
    """
    pairs = len(p_values) * (len(p_values) + 1) // 2
    return holm([*p_values, *[1.0] * (pairs - len(p_values))])[: len(p_values)]


def _published_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The published figures, where the protocol is the one that they were measured under."""
    protocol = table.iloc[0]
    figures = published().get(protocol["benchmark"])
    if figures is None or figures.protocol.digest != protocol["protocol"]:
        return table.iloc[:0]
    made = pd.DataFrame(
        {
            "method": list(figures.accuracy),
            "setting": figures.described,
            "chosen": "",
            "tune_on": "",
            "kind": PUBLISHED,
            "main": True,
            "why": "",
            "seeds": 1,
            "failed": 0,
            "average_accuracy": list(figures.accuracy.values()),
        }
    )
    return made.assign(**{name: protocol[name] for name in PROTOCOL})


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Method by benchmark: the rows of the first protocol of each benchmark, as in the first table of `leaderboard.md`.

    Args:
        table: of `rows`.

    Returns:
        The rows of `table` with `main` of those protocols.
    """
    first = table.groupby("benchmark", sort=False)["protocol"].transform("first")
    return table[table["main"] & (table["protocol"] == first)]


def not_in_it(found: Results, table: pd.DataFrame) -> str:
    """Which methods the overview lacks because none of their final runs is finished, in a sentence; may be empty.

    Args:
        found: what was read.
        table: of `rows`.
    """
    first = overview(table)
    there = {(row["benchmark"], row["method"].partition(" @")[0]) for row in first.to_dict("records")}
    finals = found.finals[found.finals["test_average_accuracy"].notna()]
    runs = set(map(_place_in_study, found.runs["folder"]))  # one that was removed is still in `final.csv`
    finished = finals.loc[finals["folder"].fillna("").map(_place_in_study).isin(runs), "study"]
    lacking = []
    for study in found.studies[~found.studies["study"].isin(finished)].to_dict("records"):
        if (study["benchmark"], study["method"]) in there:
            continue
        states = found.trials.loc[found.trials["study"] == study["study"], "state"]
        count = int(states.isin([COMPLETE, PRUNED]).sum())
        name = study["name"] if pd.isna(study["method"]) else f"{study['method']} on {study['benchmark']}"
        lacking.append(f"{name} ({count} trial{'' if count == 1 else 's'} finished)")
    return f"Not in the table, for lack of a final run: {', '.join(lacking)}." if lacking else ""


def _place_in_study(folder: str) -> tuple[str, ...]:
    """A run's folder by the name of its study's folder and its own: a sweep may have been started elsewhere."""
    return Path(folder).parts[-2:]


def methods_in_order(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Kind and name of each method, as the overview lists them: methods, bounds, published."""
    kinds: Iterable[str] = (METHOD, BOUND, PUBLISHED)
    # By their places, not their means: not all methods are run on the same benchmarks.
    place = table.groupby(["benchmark", "kind"])["average_accuracy"].rank(pct=True)
    mean = table.assign(place=place).groupby(["kind", "method"])["place"].mean()
    return [
        (kind, method)
        for kind in kinds
        if kind in mean.index
        for method in mean.loc[kind].sort_values(ascending=False, kind="stable").index
    ]
