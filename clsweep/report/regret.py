"""What each way of tuning costs: `regret.csv`, and a table on the page.

Studies that differ in nothing but what they were tuned on (`search.tune_on`) are compared by their final runs, whose
protocol and seeds are the same. A way's regret is the mean over common seeds of the test accuracy with the values tuned
on the whole stream less that with the way's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from clsweep.config import NO_SEARCH, ON_STREAM
from clsweep.report import names
from clsweep.report.selection import TUNED
from clsweep.report.unit import FRACTION, Unit
from clsweep.results import Results
from clsweep.results.statistics import Comparison, compare, estimate

_DEFAULT: Final = "default"
COLUMNS: Final = (
    *("benchmark", "protocol", "method", "comparable", "tune_on", "seeds", "test_average_accuracy", "low", "high"),
    *("regret", "regret_low", "regret_high", "common_seeds", "rank", "rank_on_stream", "ranked"),
)


def rows(found: Results) -> pd.DataFrame:
    """A row for each method and way of tuning, where a method has another way besides the whole stream.

    Args:
        found: what was read.

    Returns:
        The columns `COLUMNS`: `test_average_accuracy` is the mean over `seeds` with its 95 % interval from `low` to
        `high`; `regret` is in accuracy, with the paired 95 % interval over `common_seeds`, NaN where there are none;
        `rank` is the method's among the `ranked` ones that have both this way and the whole stream, by means over the
        seeds that all of them have, 1 the best; `rank_on_stream` the same of the values tuned on the whole stream.
    """
    chosen = _chosen(found)
    made = [row for _, part in chosen.groupby(["protocol", "comparable"], sort=False) for row in _of_method(part)]
    table = pd.DataFrame(made, columns=list(COLUMNS))
    for (protocol, way), part in table.groupby(["protocol", "tune_on"], sort=False):
        mine = chosen[(chosen["protocol"] == protocol) & chosen["comparable"].isin(part["comparable"])]
        ranks = {one: _ranks(mine[mine["tune_on"] == one]) for one in (way, ON_STREAM)}
        for index, comparable in part["comparable"].items():
            both = [ranks[one].get(comparable) for one in (way, ON_STREAM)]
            table.loc[index, ["rank", "rank_on_stream", "ranked"]] = [*both, len(part)]
    whole = ["seeds", "common_seeds", "rank", "rank_on_stream", "ranked"]
    return table.astype(dict.fromkeys(whole, "Int64"))


def _chosen(found: Results) -> pd.DataFrame:
    """The final runs with the values that each study came to."""
    finals = found.finals
    came_to = finals["tune_on"].map(lambda way: _DEFAULT if way == NO_SEARCH else TUNED)
    mine = finals[(finals["setting"] == came_to) & finals["comparable"].ne("")]
    studies = found.studies[["study", "benchmark", "method"]]
    key = ["protocol", "comparable", "tune_on", "seed"]
    return mine.merge(studies, on="study").dropna(subset=["test_average_accuracy"]).drop_duplicates(key)


def _of_method(part: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of one method: none where it has only one way, or wasn't tuned on the whole stream."""
    by_way = {
        str(way): dict(zip(own["seed"].astype(int), own["test_average_accuracy"].astype(float), strict=True))
        for way, own in part.groupby("tune_on", sort=False)
    }
    if ON_STREAM not in by_way or len(by_way) < 2:
        return []
    ways = [ON_STREAM, *(way for way in by_way if way != ON_STREAM)]
    return [_row(part.iloc[0], way, by_way[way], compare(by_way[ON_STREAM], by_way[way])) for way in ways]


def _row(first: pd.Series, way: str, by_seed: dict[int, float], lost: Comparison) -> dict[str, Any]:
    mean = estimate(list(by_seed.values()))
    known = {name: first[name] for name in ("benchmark", "protocol", "method", "comparable")}
    is_stream = way == ON_STREAM
    return known | {
        "tune_on": way,
        "seeds": mean.n,
        "test_average_accuracy": mean.mean,
        "low": mean.mean - mean.half_width,
        "high": mean.mean + mean.half_width,
        "regret": 0.0 if is_stream else lost.difference,
        "regret_low": float("nan") if is_stream else lost.low,
        "regret_high": float("nan") if is_stream else lost.high,
        "common_seeds": lost.seeds,
    }


def _ranks(runs: pd.DataFrame) -> dict[str, int]:
    """The rank of each method, by its mean over the seeds that all have; none where there is no such seed."""
    means = runs.pivot_table(index="seed", columns="comparable", values="test_average_accuracy").dropna().mean()
    if means.isna().any():
        return {}
    return {str(name): int(rank) for name, rank in means.rank(ascending=False, method="min").items()}


@dataclass(frozen=True)
class Row:
    """A method tuned in one way, as texts."""

    method: str
    way: str
    accuracy: str
    regret: str
    rank: str


@dataclass(frozen=True)
class Part:
    """One protocol.

    Attributes:
        title: what tells it from others.
        rows: a method after the other, the whole stream first.
        told: whether the ranking holds, a sentence for each way.
    """

    title: str
    rows: list[Row]
    told: list[str]


def parts(table: pd.DataFrame, runs: pd.DataFrame, unit: Unit = FRACTION) -> list[Part]:
    """What the page shows.

    Args:
        table: of `rows`.
        runs: those that are compared, which say what a protocol is.
        unit: of accuracies.
    """
    protocols = {str(run["protocol"]): run for run in runs.drop_duplicates("protocol").to_dict("records")}
    made = []
    for protocol, part in table.groupby("protocol", sort=False):
        known = protocols.get(str(protocol))
        title = f"{part['benchmark'].iloc[0]}, protocol {protocol}" if known is None else names.protocol_title(known)
        ways = [way for way in part["tune_on"].unique() if way != ON_STREAM]
        told = [_told(part[part["tune_on"] == way], way) for way in ways]
        made.append(Part(title, [_shown(row, unit) for row in part.to_dict("records")], [one for one in told if one]))
    return made


def _shown(row: dict[Any, Any], unit: Unit) -> Row:
    accuracy = unit.interval(row["test_average_accuracy"], row["high"] - row["test_average_accuracy"])
    rank = "" if pd.isna(row["rank"]) or row["ranked"] < 2 else f"{row['rank']} of {row['ranked']}"
    return Row(row["method"], row["tune_on"], f"{accuracy} (n={row['seeds']})", _regret(row, unit), rank)


def _regret(row: dict[Any, Any], unit: Unit) -> str:
    if row["tune_on"] == ON_STREAM:
        return ""
    if pd.isna(row["regret"]):
        return "no common seed"
    ends = [unit.text(row[end], "+") for end in ("regret_low", "regret_high")]
    return unit.text(row["regret"], "+") + ("" if pd.isna(row["regret_low"]) else f" [{', '.join(ends)}]")


def _told(part: pd.DataFrame, way: str) -> str:
    """Whether a way ranks the methods as the whole stream does."""
    ranked = part.dropna(subset=["rank", "rank_on_stream"])
    if len(ranked) < 2:
        return ""
    moved = ranked[ranked["rank"] != ranked["rank_on_stream"]]
    if moved.empty:
        return f"{way}: ranks the {len(ranked)} methods as {ON_STREAM} does."
    changes = [f"{row['method']} {row['rank_on_stream']} → {row['rank']}" for row in moved.to_dict("records")]
    return f"{way}: ranks {len(moved)} of {len(ranked)} methods otherwise than {ON_STREAM}: {', '.join(changes)}."
