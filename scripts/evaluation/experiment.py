"""What an experiment is: settings, the methods that are run in each, and the runs that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from missing_runs import digest

from clsweep.methods.files import read
from clsweep.report.plots.style import Plot

ROOT = Path(__file__).resolve().parent.parent.parent
SEARCH_SEED = "seed=0"
_HELD_OUT = "validation_fraction=0.1"


@dataclass(frozen=True)
class Method:
    """A method as one setting has it.

    Attributes:
        name: what tables call it.
        overrides: what chooses it, and its values but for a strength that is searched.
        strengths: what is tried of `regularizer.reg_strength` on validation data; none: nothing is searched.
        cost: of a run, in those of one without a penalty.
        draws: how many of the setting's it is run with, the first ones; None: all.
        file: the method's, where it is one: another version of it makes other runs.
    """

    name: str
    overrides: tuple[str, ...]
    strengths: tuple[float, ...] = ()
    cost: float = 1.0
    draws: int | None = None
    file: Path | None = None


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        setting, method: their names.
        overrides: Hydra's; all that decides its result.
        minutes: of a core, about.
        strength: that is tried, or was chosen; None where nothing is searched.
        searches: whether it is one that a strength is chosen by.
        draw: what this repetition has of its own; empty for one that searches.
        waits: for the runs that its strength is chosen by; `overrides` lack it.
        file: the method's.
    """

    setting: str
    method: str
    overrides: tuple[str, ...]
    minutes: float
    strength: float | None = None
    searches: bool = False
    draw: tuple[str, ...] = ()
    waits: bool = False
    file: Path | None = None

    @property
    def name(self) -> str:
        """The name of its folder: whatever decides its result is in it, the content of the method's file too."""
        return f"{self.setting}-{self.method}-{digest(sorted([*self.overrides, self.version]))}"

    @property
    def version(self) -> str:
        """The digest of the method's file and of the modules that it imports; empty where it has none."""
        return "" if self.file is None else _version(self.file)


@cache
def _version(file: Path) -> str:
    return read(str(file)).digest("sha256")


@dataclass(frozen=True)
class Setting:
    """One setting that methods are compared in.

    Attributes:
        name: of a column or a section.
        overrides: what all its runs have.
        methods: in the order that they are run in.
        draws: what each repetition has of its own, such as its seed; the most telling first.
        minutes: of a core, that a run without a penalty takes.
        search: how runs that a strength is chosen by differ from the others, beside held-out data and a seed of their
            own.
        search_part: of the time of another run, that one of them takes.
    """

    name: str
    overrides: tuple[str, ...]
    methods: tuple[Method, ...]
    draws: tuple[tuple[str, ...], ...]
    minutes: float
    search: tuple[str, ...] = ()
    search_part: float = 1.0

    def runs(self, made: pd.DataFrame) -> Iterator[Run]:
        """All runs, in the order that they are to be made in: a cut-off leaves complete comparisons.

        Args:
            made: those that are there, as `Made` has them.
        """
        for method in self.methods:
            yield from self.searches(method)
        chosen = {method.name: self.chosen(method, made) for method in self.methods}
        for number, draw in enumerate(self.draws):
            for method in self.methods:
                if method.draws is None or number < method.draws:
                    yield self._final(method, draw, chosen[method.name])

    def searches(self, method: Method) -> Iterator[Run]:
        """The runs that a method's strength is chosen by."""
        minutes = self.minutes * method.cost * self.search_part
        for strength in method.strengths:
            overrides = merged(self.overrides, method.overrides, _of(strength), (_HELD_OUT, SEARCH_SEED), self.search)
            yield Run(self.name, method.name, overrides, minutes, strength, searches=True, file=method.file)

    def chosen(self, method: Method, made: pd.DataFrame) -> float | None:
        """The strength with the best accuracy on validation data; None until all are there, or where none is searched.

        Args:
            method: one of the setting's.
            made: see `runs`.
        """
        tried = {run.strength: run.name for run in self.searches(method) if run.strength is not None}
        if not tried or not set(tried.values()) <= set(made.index):
            return None
        accuracy = made["validation_average_accuracy"].astype(float).to_dict()
        return max(tried, key=lambda strength: accuracy[tried[strength]])

    def _final(self, method: Method, draw: tuple[str, ...], strength: float | None) -> Run:
        overrides = merged(self.overrides, method.overrides, () if strength is None else _of(strength), draw)
        waits = bool(method.strengths) and strength is None
        minutes = self.minutes * method.cost
        return Run(self.name, method.name, overrides, minutes, strength, draw=draw, waits=waits, file=method.file)


@dataclass(frozen=True)
class Made:
    """The finished runs of an experiment that are kept.

    Attributes:
        runs: `clsweep.results.load`'s, by the name of their folder.
        cells: their accuracies, with a column `name` of those.
    """

    runs: pd.DataFrame
    cells: pd.DataFrame

    def of(self, setting: Setting) -> pd.DataFrame:
        """A setting's runs but those that search: `runs` with the columns `method` and `draw`."""
        there = [
            run for run in setting.runs(self.runs) if not (run.searches or run.waits) and run.name in self.runs.index
        ]
        methods, draws = [run.method for run in there], [" ".join(run.draw) for run in there]
        return self.runs.loc[[run.name for run in there]].assign(method=methods, draw=draws)

    def learned(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The mean test accuracy over the contexts learned so far: a row for each run, a column for each count."""
        cells = self.cells[self.cells["name"].isin(list(runs.index)) & (self.cells["split"] == "test")]
        known = cells[cells["context"] <= cells["after_context"]]
        return known.pivot_table(index="name", columns="after_context", values="accuracy", aggfunc="mean")


Tables = Callable[["Experiment", Made], str]
Draw = Callable[["Experiment", Made], Plot | None]


@dataclass(frozen=True)
class Experiment:
    """A question, the runs that answer it, and what is made of them.

    Attributes:
        name: of its page and its folders.
        title: of its page.
        question: in a sentence.
        settings: what is run, the most telling first.
        tables: Markdown of the runs that are there.
        draw: the figure of these; None where there is nothing to be drawn yet.
    """

    name: str
    title: str
    question: str
    settings: tuple[Setting, ...]
    tables: Tables
    draw: Draw

    def runs(self, made: pd.DataFrame) -> list[Run]:
        """All its runs; see `Setting.runs`."""
        return [run for setting in self.settings for run in setting.runs(made)]


def merged(*parts: Iterable[str]) -> tuple[str, ...]:
    """Overrides of several parts; a key that comes again takes the later value."""
    by_key = {one.lstrip("+~").partition("=")[0]: one for part in parts for one in part}
    return tuple(by_key.values())


def _of(strength: float) -> tuple[str, ...]:
    return (f"regularizer.reg_strength={strength:g}",)
