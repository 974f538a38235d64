"""The pages of `docs/experiments/`: what stands between two comments in them is written from the kept runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from clsweep.report.plots.style import Plot
from clsweep.results import write_bytes
from evaluation import keeping, performance, tuned
from evaluation.declared import EXPERIMENTS
from evaluation.experiment import ROOT, Experiment
from evaluation.tables import markdown

PAGES: Final = ROOT / "docs" / "experiments"
README: Final = ROOT / "README.md"
PERFORMANCE: Final = ROOT / "docs" / "performance.md"
FIGURES: Final = ROOT / "docs" / "figures" / "experiments"
INDEX: Final = "README.md"
BEGIN: Final = "<!-- from here on written by scripts/experiments.py tables -->"
END: Final = "<!-- to here -->"


def write(experiments: Iterable[Experiment], figures: Path = FIGURES) -> None:
    """Write the tables and figures of some experiments into their pages, the index, and the tables of other pages.

    Prints what has changed.

    Args:
        experiments: whose.
        figures: the folder of the SVG files.
    """
    figures.mkdir(parents=True, exist_ok=True)
    changed: list[Path | None] = []
    for experiment in experiments:
        page = PAGES / f"{experiment.name}.md"
        changed.append(renew(page, tables(experiment)))
        plot, drawn = figure(experiment), figures / f"{experiment.name}.svg"
        if plot is not None:
            changed.append(replaced(drawn, plot.svg()))
        elif drawn.exists():
            drawn.unlink()
            changed.append(drawn)
    changed.append(renew(PAGES / INDEX, index()))
    changed += [renew(README, tuned.overview()), renew(PERFORMANCE, performance.tables())]
    tell(changed)


def tables(experiment: Experiment) -> str:
    """What an experiment's page has between the comments."""
    plot, told = figure(experiment), experiment.tables(experiment, keeping.kept(experiment))
    if plot is None:
        return told
    return f"{told}\n\n![{plot.title}](../figures/experiments/{experiment.name}.svg)\n\n{plot.caption}"


def figure(experiment: Experiment) -> Plot | None:
    """An experiment's figure; None where there is nothing to be drawn yet."""
    return experiment.draw(experiment, keeping.kept(experiment))


def index() -> str:
    """What the index has between the comments: the experiments that have results, then those that are only declared."""
    results, declared = ([["experiment", "question", last]] for last in ("runs", "core hours"))
    for one in EXPERIMENTS.values():
        made = keeping.kept(one)
        count, missing = len(one.runs(made)), one.missing(made)
        row = [f"[{one.title}]({one.name}.md)", one.question]
        if missing and len(missing) == count:
            declared.append([*row, f"{sum(run.minutes for run in missing) / 60:.1f}"])
        else:
            results.append([*row, f"{count - len(missing)} of {count}" if count else ""])
    later = f"\n\n## Declared, not run yet\n\n{markdown(declared)}" if len(declared) > 1 else ""
    return f"{markdown(results)}{later}"


def renew(page: Path, content: str, begin: str = BEGIN) -> Path | None:
    """Write other content between a page's comments.

    Returns:
        The page; None where it stays as it is.
    """
    return replaced(page, renewed(page.read_text(), content, begin).encode())


def replaced(file: Path, content: bytes) -> Path | None:
    """Write a file.

    Returns:
        It; None where it has that content already.
    """
    if file.is_file() and file.read_bytes() == content:
        return None
    write_bytes(content, file)
    return file


def tell(changed: Sequence[Path | None]) -> None:
    """Print which files have changed."""
    files = [file for file in changed if file is not None]
    for file in files:
        print(f"changed  {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}")
    if not files:
        print("nothing has changed")


def renewed(page: str, content: str, begin: str = BEGIN) -> str:
    """A page with other content between the comments.

    Raises:
        ValueError: it hasn't both of them.
    """
    before, found, rest = page.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"expected a line {begin} and a line {END} below it")
    return f"{before}{begin}\n\n{content}\n\n{END}{after}"
