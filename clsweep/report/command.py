"""The command line of the report."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from clsweep import results
from clsweep.errors import ClsweepError, InputError
from clsweep.report import figures, leaderboard, page, selection
from clsweep.report.figures import Drawn, Job
from clsweep.report.sections import Section, StudySection, overview, section, study_section
from clsweep.report.selection import Selection
from clsweep.results import REPORT_FILE, Results

_SHOWN_PROBLEMS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report on folders of results.

    Args:
        arguments: by default those of the command line.

    Returns:
        0 done, 2 wrong input.
    """
    options = _parser().parse_args(arguments)
    folders = [str(folder) for folder in options.folders]
    output = options.output or Path(folders[0]) / "report"
    try:
        _write(folders, output)
    except ClsweepError as error:
        if os.environ.get("CLSWEEP_TRACEBACK") == "1":
            raise
        print(f"clsweep-report: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clsweep-report",
        description="Collect every run and study below some folders: report.html (one page, opens without a network), "
        "leaderboard.csv and .md, left_out.csv, and figures as PNG, SVG and CSV.",
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("outputs")], metavar="FOLDER", help="outputs/")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write; FOLDER/report by default")
    return parser


def _write(folders: Sequence[str], output: Path) -> None:
    refuse_foreign(output)
    found = results.load(*folders)
    chosen = selection.select(found)
    if chosen.runs.empty and found.studies.empty:
        raise InputError(f"{', '.join(folders)}: {_nothing(found)}; expected folders below which clsweep has run.")
    table = leaderboard.rows(chosen.runs)
    sections, studies, drawn = _sections(found, chosen, table)
    _prepare(output)
    for one in drawn:
        one.write(output / "figures")
    results.write_csv(table.drop(columns="protocol"), output / "leaderboard.csv")
    results.write_text(page.markdown(table, sections, found, chosen), output / "leaderboard.md")
    results.write_csv(page.left_out(found), output / "left_out.csv")
    now = datetime.now(UTC)
    results.write_text(page.html(table, sections, studies, found, chosen, folders, now), output / REPORT_FILE)
    _print(table, found, chosen, output, len(drawn))


def _nothing(found: Results) -> str:
    counts = found.runs["status"].value_counts()
    return "no finished run" + "".join(f", {count} {status}" for status, count in counts.items())


def refuse_foreign(output: Path) -> None:
    """Refuse to write over something that is not a report.

    Args:
        output: where the report is to be written.

    Raises:
        InputError: the folder holds something else.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output}: is a file; expected a folder.")
    if output.is_dir() and any(output.iterdir()) and not (output / REPORT_FILE).is_file():
        raise InputError(f"--output={output}: holds something else than a report; expected an empty or a new folder.")


def _prepare(output: Path) -> None:
    """An empty folder for figures, those of an earlier report removed."""
    try:
        shutil.rmtree(output / "figures", ignore_errors=True)
        (output / "figures").mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--output={output}: {error.strerror}; expected a folder that can be written to.") from error


def _sections(
    found: Results, chosen: Selection, table: pd.DataFrame
) -> tuple[list[Section], list[StudySection], list[Drawn]]:
    """Everything on the page; the figures of all parts are drawn together, on several cores."""
    groups = [part for _, part in table.groupby("protocol", sort=True)]
    names = figures.slugs([_short_name(part) for part in groups])
    study_names = figures.study_names(found)
    study_slugs = figures.slugs([f"study-{name}" for name in study_names])
    spaces = [space if isinstance(space, dict) else {} for space in found.studies["space"]]
    trials = [found.trials[found.trials["study"] == study] for study in found.studies["study"]]
    jobs: list[list[Job]] = []
    for slug, part in zip(names, groups, strict=True):
        runs = chosen.runs[chosen.runs["protocol"] == part["protocol"].iloc[0]]
        jobs.append(list(figures.of_protocol(slug, slug, part, runs, found.cells)))
    for slug, name, mine, space in zip(study_slugs, study_names, trials, spaces, strict=True):
        jobs.append(list(figures.of_study(slug, name, mine, space)))
    drawn = iter(figures.draw([job for part in jobs for job in part]))
    parts = [[one for one in (next(drawn) for _ in part) if one is not None] for part in jobs]
    sections = [section(slug, part, own) for slug, part, own in zip(names, groups, parts, strict=False)]
    studies = [
        study_section(slug, name, mine, found.finals[found.finals["study"] == study], list(space), own)
        for slug, name, mine, study, space, own in zip(
            study_slugs, study_names, trials, found.studies["study"], spaces, parts[len(groups) :], strict=True
        )
    ]
    return sections, studies, [one for part in parts for one in part]


def _short_name(part: pd.DataFrame) -> str:
    """What tells protocols apart at first sight; those of the same name are numbered."""
    first = part.iloc[0]
    budget = f"{first['iters']}-iterations" if first["budget"] == "custom" else first["budget"]
    precision = "" if first["precision"] == "float32" else f"-{first['precision']}"
    version = "-format-1" if pd.isna(first["classes_per_context"]) else ""
    return f"{first['benchmark']}-{first['scenario']}-{first['dataset']}-{budget}{precision}{version}"


def _print(table: pd.DataFrame, found: Results, chosen: Selection, output: Path, figures_written: int) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    benchmarks, rows = overview(table)
    shown = Table(title="average accuracy after the last context, test set", title_justify="left")
    for name in ("method", *benchmarks):
        shown.add_column(name)
    for row in rows:
        shown.add_row(row.method, *("" if one is None else f"{one}{' *' if one.best else ''}" for one in row.figures))
    if rows:
        console.print(shown)
    for line in page.counted(found, chosen):
        console.print(line, markup=False, soft_wrap=True)
    for problem in found.problems[:_SHOWN_PROBLEMS]:
        console.print(f"skipped  {problem.path}: {problem.message}", markup=False, soft_wrap=True)
    if len(found.problems) > _SHOWN_PROBLEMS:
        console.print(f"skipped  {len(found.problems) - _SHOWN_PROBLEMS} more, named in left_out.csv", markup=False)
    files = f"{REPORT_FILE}, leaderboard.csv, leaderboard.md, left_out.csv, figures/ ({figures_written})"
    console.print(f"written  {results.short(output.resolve())}: {files}", markup=False, soft_wrap=True)
