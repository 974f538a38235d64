"""Which figures a report has, and drawing them on several cores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
import pandas as pd

from clsweep.report.names import numbered
from clsweep.report.plots.contexts import JOINT, accuracy_curves, forgetting_curves, matrices
from clsweep.report.plots.style import INK, Look, Plot
from clsweep.results import Results
from clsweep.results.statistics import estimates

# Fewer are drawn sooner than other processes have started.
_FEWEST_FOR_PROCESSES = 12


@dataclass(frozen=True)
class Drawn:
    """A figure as it is written and put on the page.

    Attributes:
        name: of its files, without an ending.
        title: one line.
        caption: what is to be seen.
        png: the file's content.
        svg: likewise.
        csv: the numbers in it.
    """

    name: str
    title: str
    caption: str
    png: bytes
    svg: bytes
    csv: bytes

    @property
    def width(self) -> float:
        """In pixels, at the size that it is drawn for."""
        found = re.search(r'width="([\d.]+)pt"', self.svg.decode())
        assert found is not None  # matplotlib writes it
        return float(found[1]) * 4 / 3

    @property
    def inline(self) -> str:
        """The SVG to be put into a page: in the page's text colour, its ids its own."""
        text = self.svg.decode()
        text = text[text.index("<svg") :].replace(INK.lower(), "currentColor")
        text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{self.name}-", text)

    def files(self) -> dict[str, bytes]:
        """The content of its files, by their names."""
        return {f"{self.name}.{ending}": getattr(self, ending) for ending in ("png", "svg", "csv")}


Job = partial[Plot] | partial[Plot | None]  # its first argument is the name of the files


@dataclass(frozen=True)
class Undrawn:
    """A figure that could not be drawn; the others are.

    Attributes:
        name: what it is of.
        reason: what went wrong.
    """

    name: str
    reason: str


def of_protocol(
    slug: str, where: str, table: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame, looks: Mapping[str, Look]
) -> Iterator[Job]:
    """The figures of one protocol.

    Args:
        slug: the beginning of the files' names.
        where: the protocol's name for titles.
        table: its rows of the leaderboard; the main ones are drawn.
        runs: its runs.
        cells: of `Results`.
        looks: of the methods.
    """
    measured = _measured(table, runs, cells)
    learned = measured[measured["context"] <= measured["after_context"]]
    run = ["method", "folder", "after_context"]
    means = learned.groupby(run, sort=False)["accuracy"].mean().reset_index()
    over_contexts = estimates(means, ["method", "after_context"], "accuracy")
    yield partial(accuracy_curves, f"{slug}-accuracy", over_contexts, where, looks)
    sequential = learned[learned["method"] != JOINT]
    if sequential["context"].nunique() > 1:
        curves = estimates(sequential, ["method", "context", "after_context"], "accuracy")
        yield partial(forgetting_curves, f"{slug}-forgetting", curves, where, looks)
    if len(sequential):
        all_cells = measured[measured["method"] != JOINT]
        grid = estimates(all_cells, ["method", "after_context", "context"], "accuracy")
        yield partial(matrices, f"{slug}-matrices", grid, where)


def _measured(table: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The test cells of the main rows' runs after each context, methods in the leaderboard's order."""
    shown = table[table["main"] & (table["kind"] != "published")]
    chosen = runs.merge(shown[["method", "setting"]], on=["method", "setting"])
    mine = cells[(cells["split"] == "test") & (cells["after_context"] > 0)]
    measured = mine.merge(chosen[["folder", "method"]], on="folder")
    ranks = {method: rank for rank, method in enumerate(shown["method"])}
    order = measured["method"].map(ranks)
    return measured.assign(order=order).sort_values(["order", "after_context", "context"], kind="stable")


def of_study(slug: str, name: str, trials: pd.DataFrame, ranges: dict[str, str]) -> Iterator[Job]:
    """The figures of one study.

    Args:
        slug: the beginning of the files' names.
        name: the study's, for titles.
        trials: its rows of `Results.trials`.
        ranges: what was searched, in Hydra's syntax, by hyperparameter.

    Raises:
        InputError: a range can't be read.
    """
    from clsweep.report.plots import studies  # here, since it imports optuna
    from clsweep.sweeps import space

    searched = space.parse(ranges)
    if not searched or trials.empty:
        return
    yield partial(studies.search, f"{slug}-search", trials, searched, name)
    yield partial(studies.sensitivity, f"{slug}-sensitivity", trials, searched, name)
    yield partial(studies.importances, f"{slug}-importance", trials, searched, name)


def slugs(names: Sequence[str]) -> list[str]:
    """Names for files: the unusual characters replaced, and a number behind those that would be the same.

    Args:
        names: of whatever is drawn.
    """
    return [_plain(name) for name in numbered([_plain(name) for name in names])]


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")


def study_names(results: Results) -> list[str]:
    """The studies' names; those of the same name in several sweeps with their sweep's folder."""
    names = results.studies["name"]
    counts = names.value_counts()
    return [
        f"{Path(study).parent.name} {name}" if counts[name] > 1 else name
        for study, name in zip(results.studies["study"], names, strict=True)
    ]


def draw(jobs: Sequence[Job]) -> list[Drawn | Undrawn | None]:
    """Draw figures, on several cores where there are many.

    Args:
        jobs: each makes a figure, or None where there is nothing to be seen.
    """
    processes = min(joblib.cpu_count(), 8) if len(jobs) >= _FEWEST_FOR_PROCESSES else 1
    parallel = joblib.Parallel(n_jobs=processes, backend="multiprocessing")  # forked: nothing is imported again
    return list(parallel(joblib.delayed(_drawn)(job) for job in jobs))


def _drawn(job: Job) -> Drawn | Undrawn | None:
    try:
        plot = job()
        if plot is None:
            return None
        return Drawn(plot.name, plot.title, plot.caption, plot.png(), plot.svg(), plot.csv())
    except Exception as error:  # whatever it is, it must not cost the rest of the report
        return Undrawn(job.args[0], f"{type(error).__name__}: {error}")
