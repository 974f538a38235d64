"""The parts of the report, as its templates read them: tables of protocols, and studies."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pandas as pd

from clsweep.hyperparameters import values_of
from clsweep.protocol import Protocol
from clsweep.published import published
from clsweep.report import leaderboard, stability, tuning
from clsweep.report.figures import Drawn
from clsweep.report.leaderboard import MARKED, METRICS, PUBLISHED
from clsweep.report.selection import TUNED, origins
from clsweep.report.trials import best_trial, ended_told
from clsweep.report.unit import FRACTION, Unit, four_digits
from clsweep.results.statistics import estimate

_NUMBER: Final = r"=([+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?=[, ]|$)"
LABELS: Final = {
    "average_accuracy": "average accuracy",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Figure:
    """A cell of a table: a mean, half its interval's width, and whether it is the best.

    Attributes:
        mean: NaN where there is none.
        half_width: NaN for one seed.
        best: whether it is better than all others by the test.
        unit: that it is shown in.
        seeds: how many runs it is the mean of.
        failed: how many more failed.
        note: how a figure that is taken from a publication was measured; empty for one's own.
    """

    mean: float
    half_width: float = math.nan
    best: bool = False
    unit: Unit = FRACTION
    seeds: int = 0
    failed: int = 0
    note: str = ""

    @property
    def count(self) -> str:
        """The number of runs, as in `n=5` or `n=5, 2 failed`; empty where it is 1."""
        return f"n={_runs(self.seeds, self.failed)}" if self.seeds > 1 or self.failed else ""

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return ""
        text = self.unit.interval(self.mean, self.half_width)
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class Row:
    """A row of a leaderboard.

    Attributes:
        kind: method, bound or published.
        method: its name.
        setting: its hyperparameters, or what stands in for them.
        main: whether it is the method's row.
        seeds: how many.
        failed: how many more failed.
        figures: the cells.
        difference: to the leader's row in average accuracy, NaN where they have no two seeds in common.
        lead: the same with its interval, as text.
        test: p and the number of common seeds, as text.
        why: how the method's row was chosen among its settings, empty for another row and where there is but one.
        details: in the overview, the hyperparameters of each cell and how they were chosen.
    """

    kind: str
    method: str
    setting: str
    main: bool
    seeds: int
    figures: list[Figure | None]
    difference: float = math.nan
    lead: str = ""
    test: str = ""
    why: str = ""
    details: list[str] = field(default_factory=list)
    failed: int = 0

    @property
    def count(self) -> str:
        """The number of seeds, as in `5` or `5, 2 failed`."""
        return _runs(self.seeds, self.failed)


@dataclass(frozen=True)
class Table:
    """A further table on the page, below the figures of a protocol or of a study.

    Attributes:
        title: one line.
        caption: what it says, and how it was computed.
        heads: of the columns.
        rows: a text for each column.
    """

    title: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One protocol on the page.

    Attributes:
        slug: of its files and its place on the page.
        title: what tells it from the others.
        protocol: all of it in one line.
        verdict: what the rows say, in a sentence; may be empty.
        labels: of the metrics that it has.
        rows: its leaderboard.
        drawn: its figures.
        tables: what else is told of it.
    """

    slug: str
    title: str
    protocol: str
    verdict: str
    labels: list[str]
    rows: list[Row]
    drawn: list[Drawn]
    tables: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class StudySection:
    """One study on the page.

    Attributes:
        slug: of its files and its place on the page.
        title: what it is of.
        folder: where it lies.
        summary: its trials, in one line.
        best: its best trial, in one line.
        finals: what the final runs with the tuned and the default values reached, in one line each.
        tuning: how much tuning it needed, and how flat it is around its best values.
        note: why a figure is missing.
        drawn: its figures.
        tables: what else is told of it.
    """

    slug: str
    title: str
    folder: str
    summary: str
    best: str
    finals: list[str]
    tuning: list[str]
    note: str
    drawn: list[Drawn]
    tables: list[Table] = field(default_factory=list)


def section(slug: str, title: str, table: pd.DataFrame, drawn: Sequence[Drawn], unit: Unit) -> Section:
    """One protocol.

    Args:
        slug: of its files.
        title: what tells it from the others.
        table: its rows of the leaderboard.
        drawn: its figures.
        unit: of accuracies.
    """
    labels = LABELS | stability.labels(table)
    metrics = [metric for metric in METRICS if metric in labels]
    rows = [_row(row, metrics, unit) for row in table.to_dict("records")]
    protocol = _sentence(table.iloc[0].to_dict())
    shown = [labels[metric] for metric in metrics]
    return Section(slug, title, protocol, leaderboard.verdict(table), shown, rows, list(drawn))


def _sentence(row: dict[Any, Any]) -> str:
    return Protocol.of_row(row).sentence(row["searched"].split())


def _row(row: dict[Any, Any], metrics: Sequence[str], unit: Unit) -> Row:
    figures: list[Figure | None] = [_figure(row, metric, unit) for metric in metrics]
    setting = _setting(row)
    seeds, failed = int(row["seeds"]), int(row["failed"])
    made = Row(row["kind"], row["method"], setting, bool(row["main"]), seeds, figures, why=row["why"], failed=failed)
    if math.isnan(row["difference_low"]):
        return made
    low, high = row["difference_low"], row["difference_high"]
    lead = f"{unit.text(row['difference'], '+')} [{unit.text(low, '+')}, {unit.text(high, '+')}]"
    test = f"p {row['p']:.2g}, {row['common_seeds']:.0f} common seeds"
    return replace(made, difference=row["difference"], lead=lead, test=test)


def _runs(finished: int, failed: int) -> str:
    return f"{finished}, {failed} failed" if failed else str(finished)


def _setting(row: dict[Any, Any]) -> str:
    if not row["setting"]:
        return ""  # nothing was chosen
    on = f"{TUNED} on {row['tune_on']}" if row["tune_on"] else ""
    chosen = "" if on and row["chosen"] == TUNED else row["chosen"]
    said = ", ".join(filter(None, (chosen, on)))
    return _rounded(row["setting"]) + (f" ({said})" if said else "")


def _rounded(setting: str) -> str:
    """Hyperparameters with four digits."""
    return re.sub(_NUMBER, lambda found: f"={four_digits(float(found[1]))}" if len(found[1]) > 5 else found[0], setting)


def _figure(row: dict[Any, Any], metric: str, unit: Unit) -> Figure:
    return Figure(
        row[metric],
        row[f"{metric}_high"] - row[metric],
        metric in MARKED and row[f"{metric}_best"] is True,
        unit if metric != "seconds" else _SECONDS if row[metric] >= 10 else _FEW_SECONDS,
        int(row["seeds"]),
        int(row["failed"]),
        published()[row["benchmark"]].note if row["kind"] == PUBLISHED else "",
    )


_SECONDS: Final = Unit(1, 0, "in seconds")
_FEW_SECONDS: Final = Unit(1, 1, "in seconds")


def overview(table: pd.DataFrame, unit: Unit) -> tuple[list[str], list[Row]]:
    """Method by benchmark.

    Args:
        table: the whole leaderboard.
        unit: of accuracies.

    Returns:
        The heads of the columns, a benchmark each, and a row for each method.
    """
    first = leaderboard.overview(table)
    benchmarks = list(dict.fromkeys(first["benchmark"]))
    cells = {(row["kind"], row["method"], row["benchmark"]): row for row in first.to_dict("records")}
    rows = []
    for kind, method in leaderboard.methods_in_order(first):
        mine = [cells.get((kind, method, benchmark)) for benchmark in benchmarks]
        figures = [None if one is None else _figure(one, "average_accuracy", unit) for one in mine]
        name = f"{method} (published)" if kind == PUBLISHED else method
        details = ["" if one is None or kind == PUBLISHED else _setting(one) for one in mine]
        why = next((one["why"] for one in mine if one is not None and one["why"]), "")
        rows.append(Row(kind, name, "", True, 0, figures, why=why, details=details))
    return benchmarks, rows


def protocols(table: pd.DataFrame) -> dict[str, str]:
    """The protocol of each column of the overview, by benchmark."""
    first = leaderboard.overview(table).drop_duplicates("benchmark")
    return {str(row["benchmark"]): _sentence(row) for row in first.to_dict("records")}


def study_section(
    slug: str,
    title: str,
    folder: str,
    trials: pd.DataFrame,
    finals: pd.DataFrame,
    searched: Sequence[str],
    drawn: Sequence[Drawn],
    unit: Unit,
) -> StudySection:
    """One study.

    Args:
        slug: of its files.
        title: what it is of.
        folder: where it lies.
        trials: its rows of `Results.trials`.
        finals: its rows of `Results.finals`.
        searched: the hyperparameters that it searched.
        drawn: its figures.
        unit: of accuracies.
    """
    return StudySection(
        slug,
        title,
        folder,
        ended_told(trials),
        _best(trials, searched, unit),
        _finals(finals, unit),
        tuning.told(trials, searched, unit),
        _note(searched, drawn),
        list(drawn),
    )


def _best(trials: pd.DataFrame, searched: Sequence[str], unit: Unit) -> str:
    best = best_trial(trials, searched)
    if best is None:
        return "no trial is complete"
    values = ", ".join(f"{name}={_value(best[name])}" for name in searched)
    reached = unit.text(best["validation_average_accuracy"])
    return f"trial {best['number']}, validation accuracy {reached}: {values}"


def _value(value: object) -> str:
    return four_digits(value) if isinstance(value, int | float) else str(value)


def _finals(finals: pd.DataFrame, unit: Unit) -> list[str]:
    lines = []
    for origin, runs in finals.groupby(origins(finals), sort=False):
        made = estimate(runs["test_average_accuracy"].dropna().tolist())
        lines.append(
            f"{values_of(str(origin))}: test accuracy {unit.interval(made.mean, made.half_width)} ({made.n} seeds)"
        )
    return lines


def _note(searched: Sequence[str], drawn: Sequence[Drawn]) -> str:
    if not searched:
        return "What was searched is known once a trial is complete."
    if len(searched) == 1:
        return f"Only {searched[0]} was searched: there are no importances to compare."
    has_importances = any(one.name.endswith("-importance") for one in drawn)
    return "" if has_importances else "Too few trials are complete for importances."
