"""The command line of the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import clsweep
from clsweep import process, results
from clsweep.errors import InputError
from clsweep.report import leaderboard, page, pairs, regret, selection, tuning
from clsweep.report.contents import contents
from clsweep.report.figures import Drawn
from clsweep.report.sections import Figure, overview, protocols
from clsweep.report.selection import Selection
from clsweep.report.unit import FRACTION, PERCENT, Unit
from clsweep.results import PRUNED, REPORT_MARK, Results

_PAGE = "report.html"
_TABLES = ("leaderboard.csv", "pairs.csv", "seeds_needed.csv", "expected_best.csv", "regret.csv", "left_out.csv")
_SHOWN_PROBLEMS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report on folders of results.

    Args:
        arguments: by default those of the command line.

    Returns:
        0 done, 1 failed, 2 wrong input, 130 interrupted.
    """
    return process.run("clsweep-report", lambda: _report(arguments))


def _report(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    folders = [str(folder) for folder in options.folders]
    unit = PERCENT if options.percent else FRACTION
    _write(folders, options.output or Path(folders[0]) / "report", unit, options.all_figures)
    return process.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clsweep-report",
        description="Read every run and study below some folders, and write report.html (one page, opens without a "
        f"network), leaderboard.md and .tex, {', '.join(_TABLES)}, and figures as SVG and CSV. Figures of the "
        "leaderboard's protocols are PDF and PNG files, too.",
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path("outputs")], metavar="FOLDER", help="default: outputs"
    )
    parser.add_argument("--version", action="version", version=f"clsweep {clsweep.__version__}")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to write; default: report/ in the first folder"
    )
    parser.add_argument(
        "--percent",
        action="store_true",
        help="accuracies in percent in tables and figures; CSV files always have them from 0 to 1",
    )
    parser.add_argument(
        "--all-figures",
        action="store_true",
        help="a PDF and a PNG of every figure, not only of the leaderboard's protocols; takes three times as long",
    )
    return parser


def _write(folders: Sequence[str], output: Path, unit: Unit, every_file: bool) -> None:
    refuse_foreign(output)
    found = results.load(*folders)
    chosen = selection.select(found)
    if chosen.runs.empty and found.studies.empty:
        raise InputError(f"{', '.join(folders)}: {_nothing(found)}; expected folders below which clsweep has run.")
    table = leaderboard.rows(chosen.runs)
    sections, studies = contents(found, chosen, table, unit, every_file)
    drawn = [figure for part in [one.drawn for one in sections] + [one.drawn for one in studies] for figure in part]
    scores = pairs.scores(table, chosen.runs)
    compared, needed = pairs.pairs(scores, pairs.gaps(table), pairs.failures(table)), pairs.seeds_needed(scores)
    lost = regret.rows(found)
    now = datetime.now(UTC)
    try:
        _write_figures(output, drawn)
        results.write_csv(table.drop(columns="protocol"), output / "leaderboard.csv")
        results.write_csv(compared, output / "pairs.csv")
        results.write_csv(needed, output / "seeds_needed.csv")
        results.write_csv(tuning.expected_best(found), output / "expected_best.csv")
        results.write_csv(lost, output / "regret.csv")
        results.write_text(page.markdown(table, sections, found, chosen, unit), output / "leaderboard.md")
        results.write_text(page.tex(table, sections, found, chosen, unit), output / "leaderboard.tex")
        results.write_csv(page.left_out(found), output / "left_out.csv")
        shown = pairs.comparisons(compared, needed, scores, unit)
        costs = regret.parts(lost, chosen.runs, unit)
        html = page.html(table, sections, studies, found, chosen, shown, costs, folders, now, unit)
        results.write_text(html, output / _PAGE)
    except OSError as error:
        raise InputError(f"--output={output}: {error.strerror}; expected a folder that can be written to.") from error
    _print(table, found, chosen, output, len(drawn), unit)


def _nothing(found: Results) -> str:
    counts = found.runs["status"].value_counts()
    text = "no finished run" + "".join(f", {count} {status}" for status, count in counts.items())
    if not found.problems:
        return text
    first, more = found.problems[0], len(found.problems) - 1
    others = f" and {more} more file{'s' if more > 1 else ''}" if more else ""
    return f"{text}; {first.path} was left out ({first.message}){others}"


def refuse_foreign(output: Path) -> None:
    """Refuse to write over something that is not a report.

    Args:
        output: where the report is to be written.

    Raises:
        InputError: the folder holds something else.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output}: is a file; expected a folder.")
    if output.is_dir() and any(output.iterdir()) and not (output / REPORT_MARK).is_file():
        raise InputError(f"--output={output}: holds something else than a report; expected an empty or a new folder.")


def _write_figures(output: Path, drawn: Sequence[Drawn]) -> None:
    """Write the figures, and remove those that an earlier report wrote and this one doesn't have.

    The mark, which lists them, is there from the beginning: an interrupted report can be written again.
    """
    folder, mark = output / "figures", output / REPORT_MARK
    folder.mkdir(parents=True, exist_ok=True)
    before = set(mark.read_text(encoding="utf-8").splitlines()) if mark.is_file() else set()
    files = {name: content for figure in drawn for name, content in figure.files().items()}
    results.write_text("".join(f"{name}\n" for name in sorted(before | files.keys())), mark)
    for name, content in files.items():
        results.write_bytes(content, folder / name)
    for name in before - files.keys():
        (folder / Path(name).name).unlink(missing_ok=True)
    results.write_text("".join(f"{name}\n" for name in sorted(files)), mark)


def _cell(figure: Figure) -> str:
    failed = f" ({figure.failed} failed)" if figure.failed else ""
    return f"{figure}{' *' if figure.best else ''}{failed}"


def _print(
    table: pd.DataFrame, found: Results, chosen: Selection, output: Path, figures_written: int, unit: Unit
) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    benchmarks, rows = overview(table, unit)
    shown = Table()
    shown.add_column("method", no_wrap=True)
    for name in benchmarks:
        shown.add_column(escape(name))
    for row in rows:
        cells = ["" if one is None else _cell(one) for one in row.figures]
        shown.add_row(escape(row.method), *cells)
    if rows:
        console.print(f"average accuracy after the last context, test set, {unit.described}", markup=False)
        console.print(shown)
    for benchmark, part in leaderboard.overview(table).groupby("benchmark", sort=False):
        if told := leaderboard.verdict(part):
            console.print(f"{benchmark}: {told}", markup=False, soft_wrap=True)
    if lacking := leaderboard.not_in_it(found, table):
        console.print(lacking, markup=False, soft_wrap=True)
    for benchmark, protocol in protocols(table).items():
        console.print(f"{benchmark}: {protocol}", markup=False, soft_wrap=True)
    more = table["protocol"].nunique() - len(benchmarks)
    if more:
        console.print(f"protocols in leaderboard.md and on the page that are not shown here: {more}", markup=False)
    for line in page.counted(found, chosen):
        console.print(line, markup=False, soft_wrap=True)
    missing = page.left_out(found)
    named = missing[missing["what"] != PRUNED]
    for path, what, reason in named.head(_SHOWN_PROBLEMS).to_numpy():
        console.print(f"{what}  {path}{f': {reason}' if reason else ''}", markup=False, soft_wrap=True)
    if len(named) > _SHOWN_PROBLEMS:
        console.print(f"and {len(named) - _SHOWN_PROBLEMS} more, all of them in left_out.csv", markup=False)
    files = f"{_PAGE}, leaderboard.md and .tex, {', '.join(_TABLES)}, figures/ ({figures_written})"
    console.print(f"written  {results.short(output.resolve())}: {files}", markup=False, soft_wrap=True)
