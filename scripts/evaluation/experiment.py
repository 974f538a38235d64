"""What an experiment is: settings, the methods that are run in each, and the runs that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd
from missing_runs import digest

from clsweep.methods.files import read
from clsweep.report.plots.style import Plot
from evaluation.names import BENCHMARKS

ROOT = Path(__file__).resolve().parent.parent.parent
SEARCH_SEED = "seed=0"
_HELD_OUT = "validation_fraction=0.1"
_STRENGTH = "reg_strength"

Values = Mapping[str, float | str]  # of hyperparameters, by name


@dataclass(frozen=True)
class Method:
    """A method as one setting has it.

    Attributes:
        name: what tables call it.
        overrides: what chooses it, and its values but for those that are searched.
        strengths: what is tried of `regularizer.reg_strength` on validation data; none: nothing is searched, unless the
            setting has trials.
        cost: of a run, in those of one without a penalty.
        draws: how many of the setting's it is run with, the first ones; None: all.
        file: the method's, where it is one: another version of it makes other runs.
        search: how its search differs from its other runs: ranges, and where a sweep starts.
        is_bound: whether it has nothing that could be tuned, as training without a penalty has.
    """

    name: str
    overrides: tuple[str, ...]
    strengths: tuple[float, ...] = ()
    cost: float = 1.0
    draws: int | None = None
    file: Path | None = None
    search: tuple[str, ...] = ()
    is_bound: bool = False


@dataclass(frozen=True)
class Run:
    """One run, or one sweep.

    Attributes:
        setting, method: their names.
        overrides: Hydra's; all that decides its result.
        minutes: of a core, about.
        strength: that is tried; None where it isn't one of the listed ones.
        searches: whether it is one that values are chosen by.
        draw: what this repetition has of its own; empty for one that searches.
        waits: for the search that its values are chosen by; `overrides` lack them.
        file: the method's.
        trials: of a sweep; 0: it is a run.
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
    trials: int = 0

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
class Study:
    """What is kept of a finished sweep.

    Attributes:
        values: the best ones, on validation data, of what was searched; four digits of each, which is what is run.
        accuracy: theirs on validation data, from 0 to 1.
        ranges: what was searched, in Hydra's syntax, by name.
        trials: how many counted.
        pruned: how many of these were stopped early.
        failed: how many more failed by themselves, as where training diverged; others were tried in their place.
    """

    values: Values
    accuracy: float
    ranges: Mapping[str, str]
    trials: int
    pruned: int
    failed: int = 0


@dataclass(frozen=True)
class Made:
    """The finished runs and sweeps of an experiment that are kept.

    Attributes:
        runs: `clsweep.results.load`'s, by the name of their folder.
        cells: their accuracies, with a column `name` of those.
        studies: the sweeps, by the name of their folder.
        diverged: the names of runs whose training didn't stay finite: made again, they would do the same.
    """

    runs: pd.DataFrame
    cells: pd.DataFrame
    studies: Mapping[str, Study] = field(default_factory=dict)
    diverged: frozenset[str] = frozenset()

    def has(self, run: Run) -> bool:
        """Whether a run or a sweep is kept, one that diverged, too."""
        return run.name in self.diverged or run.name in (self.studies if run.trials else self.runs.index)

    def of(self, setting: Setting) -> pd.DataFrame:
        """A setting's runs but those that search: `runs` with the columns `method` and `draw`."""
        there = [run for run in setting.runs(self) if not (run.searches or run.waits) and run.name in self.runs.index]
        methods, draws = [run.method for run in there], [" ".join(run.draw) for run in there]
        return self.runs.loc[[run.name for run in there]].assign(method=methods, draw=draws)

    def diverged_of(self, setting: Setting, method: str) -> int:
        """How many of a method's runs diverged, but those that search."""
        finals = (run for run in setting.runs(self) if run.method == method and not run.searches)
        return sum(run.name in self.diverged for run in finals)

    def learned(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The mean test accuracy over the contexts learned so far: a row for each run, a column for each count."""
        cells = self.cells[self.cells["name"].isin(list(runs.index)) & (self.cells["split"] == "test")]
        known = cells[cells["context"] <= cells["after_context"]]
        return known.pivot_table(index="name", columns="after_context", values="accuracy", aggfunc="mean")


NOTHING = Made(pd.DataFrame(columns=["regularizer_digest"]), pd.DataFrame())


@dataclass(frozen=True)
class Setting:
    """One setting that methods are compared in.

    Attributes:
        name: of a column or a section.
        overrides: what all its runs have.
        methods: in the order that they are run in.
        draws: what each repetition has of its own, such as its seed; the most telling first.
        minutes: of a core, that a run without a penalty takes.
        search: how runs that values are chosen by differ from the others, beside held-out data and a seed of their own.
        search_part: of the time of another run, that one of them takes.
        trials: of the sweep that chooses each method's values; 0: the strengths that are listed are tried.
        label: its title on the page; empty: the benchmark's.
    """

    name: str
    overrides: tuple[str, ...]
    methods: tuple[Method, ...]
    draws: tuple[tuple[str, ...], ...]
    minutes: float
    search: tuple[str, ...] = ()
    search_part: float = 1.0
    trials: int = 0
    label: str = ""

    @property
    def title(self) -> str:
        """What its table and its panel are called."""
        return self.label or BENCHMARKS[self.name]

    def runs(self, made: Made) -> Iterator[Run]:
        """All runs, in the order that they are to be made in: a cut-off leaves complete comparisons.

        Args:
            made: those that are there.
        """
        for method in self.methods:
            yield from self.searches(method)
        chosen = {method.name: self.chosen(method, made) for method in self.methods}
        for number, draw in enumerate(self.draws):
            for method in self.methods:
                if method.draws is None or number < method.draws:
                    yield self._final(method, draw, chosen[method.name])

    def searches(self, method: Method) -> Iterator[Run]:
        """The runs, or the sweep, that a method's values are chosen by."""
        minutes = self.minutes * method.cost * self.search_part
        common = merged(self.overrides, method.overrides, (_HELD_OUT, SEARCH_SEED), self.search, method.search)
        if self.trials and not method.is_bound:
            overrides = merged(common, (f"search.n_trials={self.trials}",))
            whole = minutes * self.trials
            yield Run(self.name, method.name, overrides, whole, searches=True, file=method.file, trials=self.trials)
            return
        for strength in method.strengths:
            overrides = merged(common, _typed({_STRENGTH: strength}))
            yield Run(self.name, method.name, overrides, minutes, strength, searches=True, file=method.file)

    def chosen(self, method: Method, made: Made) -> Values | None:
        """The values with the best accuracy on validation data; None until all is tried, empty if nothing is searched.

        Args:
            method: one of the setting's.
            made: what there is.
        """
        searches = list(self.searches(method))
        if not all(made.has(run) for run in searches):
            return None
        if not searches:
            return {}
        if self.trials:
            return made.studies[searches[0].name].values
        accuracy = made.runs["validation_average_accuracy"].astype(float).to_dict()
        best = max(searches, key=lambda run: accuracy.get(run.name, -1.0))  # one that diverged is the worst
        assert best.strength is not None
        return {_STRENGTH: best.strength}

    def _final(self, method: Method, draw: tuple[str, ...], values: Values | None) -> Run:
        overrides = merged(self.overrides, method.overrides, _typed(values or {}), draw)
        minutes = self.minutes * method.cost
        return Run(self.name, method.name, overrides, minutes, draw=draw, waits=values is None, file=method.file)


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

    def runs(self, made: Made) -> list[Run]:
        """All its runs; see `Setting.runs`."""
        return [run for setting in self.settings for run in setting.runs(made)]

    def missing(self, made: Made) -> list[Run]:
        """Those that aren't made, in the same order; runs that wait for others are among them."""
        return [run for run in self.runs(made) if run.waits or not made.has(run)]


def merged(*parts: Iterable[str]) -> tuple[str, ...]:
    """Overrides of several parts; a key that comes again takes the later value."""
    by_key = {one.lstrip("+~").partition("=")[0]: one for part in parts for one in part}
    return tuple(by_key.values())


def _typed(values: Values) -> tuple[str, ...]:
    """Values as they are typed; a name with a dot is a whole key."""
    return tuple(
        f"{name if '.' in name else f'regularizer.{name}'}={value if isinstance(value, str) else f'{value:g}'}"
        for name, value in values.items()
    )
