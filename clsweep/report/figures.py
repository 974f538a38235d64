"""Which figures a report has, and drawing them on several cores."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import joblib
import pandas as pd

from clsweep.report.names import numbered
from clsweep.report.plots.contexts import JOINT, accuracy_curves, forgetting_curves, matrices
from clsweep.report.plots.style import Look, Plot
from clsweep.report.unit import FRACTION, Unit
from clsweep.results import Results
from clsweep.results.statistics import estimates

# Fewer are drawn before other processes would have started.
_FEWEST_FOR_PROCESSES = 12


@dataclass(frozen=True)
class Drawn:
    """A figure as it is written and put on the page.

    Attributes:
        name: of its files, without an ending.
        title: one line.
        caption: what is to be seen.
        svg: the file's content.
        csv: the numbers in it.
        pdf: the file's content, None where it isn't wanted.
        png: likewise.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    csv: bytes
    pdf: bytes | None = None
    png: bytes | None = None

    @property
    def width(self) -> float:
        """In pixels, at the size that it is drawn for."""
        found = re.search(r'width="([\d.]+)pt"', self.svg.decode())
        assert found is not None  # matplotlib writes it
        return float(found[1]) * 4 / 3

    def files(self) -> dict[str, bytes]:
        """The content of its files, by their names."""
        contents = {ending: getattr(self, ending) for ending in ("pdf", "png", "svg", "csv")}
        return {f"{self.name}.{ending}": content for ending, content in contents.items() if content is not None}


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
    slug: str,
    where: str,
    table: pd.DataFrame,
    runs: pd.DataFrame,
    cells: pd.DataFrame,
    looks: Mapping[str, Look],
    unit: Unit = FRACTION,
) -> Iterator[Job]:
    """The figures of one protocol.

    Args:
        slug: the beginning of the files' names.
        where: the protocol's name for titles.
        table: its rows of the leaderboard; the main ones are drawn.
        runs: its runs.
        cells: of `Results`.
        looks: of the methods.
        unit: of accuracies.
    """
    measured = _measured(table, runs, cells)
    learned = measured[measured["context"] <= measured["after_context"]]
    run = ["method", "folder", "after_context"]
    means = learned.groupby(run, sort=False)["accuracy"].mean().reset_index()
    over_contexts = estimates(means, ["method", "after_context"], "accuracy")
    yield partial(accuracy_curves, f"{slug}-accuracy", over_contexts, means, where, looks, unit)
    sequential = learned[learned["method"] != JOINT]
    if sequential["context"].nunique() > 1:
        curves = estimates(sequential, ["method", "context", "after_context"], "accuracy")
        yield partial(forgetting_curves, f"{slug}-forgetting", curves, sequential, where, looks, unit)
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


def of_study(
    slug: str, name: str, trials: pd.DataFrame, ranges: dict[str, str], unit: Unit = FRACTION
) -> Iterator[Job]:
    """The figures of one study.

    Args:
        slug: the beginning of the files' names.
        name: the study's, for titles.
        trials: its rows of `Results.trials`.
        ranges: what was searched, in Hydra's syntax, by hyperparameter.
        unit: of accuracies.

    Raises:
        InputError: a range can't be read.
    """
    from clsweep import space
    from clsweep.report.plots import studies  # here, since it imports optuna

    searched = space.parse(ranges)
    if not searched or trials.empty:
        return
    yield partial(studies.search, f"{slug}-search", trials, searched, name, unit)
    yield partial(studies.sensitivity, f"{slug}-sensitivity", trials, searched, name, unit)
    if len(searched) > 1:
        import optuna.importance  # noqa: F401  # it imports scikit-learn, which each drawing process would do
    yield partial(studies.importances, f"{slug}-importance", trials, searched, name)


def slugs(names: Sequence[str]) -> list[str]:
    """Names for files: the unusual characters replaced, and a number after those that would be the same.

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


def draw(jobs: Sequence[Job], printed: Sequence[bool]) -> list[Drawn | Undrawn | None]:
    """Draw figures, on several cores where there are many.

    Args:
        jobs: each makes a figure, or None where there is nothing to be seen.
        printed: whether each is made as a PDF and a PNG, too: these take longer than all else.
    """
    if len(jobs) < _FEWEST_FOR_PROCESSES or joblib.cpu_count() == 1:
        return [*map(_drawn, jobs, printed)]
    forked = get_context("fork")  # nothing is imported again
    with ProcessPoolExecutor(min(joblib.cpu_count(), 8), mp_context=forked, initializer=_begin_worker) as pool:
        try:
            return list(pool.map(_drawn, jobs, printed))
        except BrokenProcessPool:  # the machine ended one, for its memory perhaps
            return [*map(_drawn, jobs, printed)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin_worker() -> None:
    """Let a worker end at once: it inherits this process's signal handlers, which wind up a whole command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes: this one's parent ends it
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def _drawn(job: Job, printed: bool) -> Drawn | Undrawn | None:
    try:
        plot = job()
        if plot is None:
            return None
        pdf, png = (plot.pdf(), plot.png()) if printed else (None, None)
        return Drawn(plot.name, plot.title, plot.caption, plot.svg(), plot.csv(), pdf, png)
    except Exception as error:  # whatever it is, it must not cost the rest of the report
        return Undrawn(job.args[0], f"{type(error).__name__}: {error}")
